/** Decodes LZ4 blocks, and tests all that is in them while it does (LZ4 Block Format). */

/** The smallest match; its length is stored less this ("Compressed block format"). */
const MIN_MATCH: u32 = 4;
/** A block that holds a match ends with this many literals at least ("End of block conditions"). */
const LAST_LITERALS: u32 = 5;
/** A sequence with two short lengths: at most 14 literals and a match of 18. */
const SHORT: u32 = 14 + 18;
/** From this length on `memory.copy` and `memory.fill`, which are calls out of the module, beat a loop. */
const LONG: u32 = 512;

/** What is wrong with the last block, 1 to 6: the sentences are in src/codec/lz4-block.ts. */
export let fault: i32 = 0;
/** Where in the block, in bytes. */
export let faultAt: i32 = 0;
/** The offset of a match that reaches too far, and how far it may reach. */
export let faultOffset: i32 = 0;
export let faultReach: i32 = 0;

/**
 * For each distance below 16, 16 indices: repeats the first bytes of a vector, as many as the distance. Distance 0 is
 * never used.
 */
// prettier-ignore
const REPEAT: usize = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1,
  0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0,
  0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0,
  0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1,
  0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2, 3, 4,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1, 2,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 1,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0,
], 16);

/** Notes what is wrong, for the caller to give back. */
function refuse(number: i32, at: usize, offset: u32 = 0, reach: u32 = 0): i32 {
  fault = number;
  faultAt = <i32>at;
  faultOffset = <i32>offset;
  faultReach = <i32>reach;
  return -1;
}

/**
 * Decodes the `length` bytes at `from` to `output` and gives the decoded length, at most `maximum`; -1 when the block is not
 * right, with what is wrong in the numbers above. Matches reach at most `history` bytes before `output`. Reads and writes
 * up to 64 bytes behind what is asked of it.
 */
export function decode(
  from: usize,
  length: usize,
  output: usize,
  history: usize,
  maximum: usize,
): i32 {
  const end = from + length;
  // An offset is followed by at least a token and the last literals.
  const lastOffset = end - 2 - 1 - LAST_LITERALS;
  // Up to here a token and 14 literals leave room for an offset.
  const lastShort = lastOffset - 15;
  const least = output - history;
  const stop = output + maximum;
  // Up to here a short sequence stays within the maximum.
  const shortStop = stop - SHORT;
  let at = from;
  let to = output;
  while (true) {
    // Most sequences: each length in the token or one byte more, far from both ends. `at` and `to` move when a sequence is
    // done; one that is not such, or not right, is begun anew below. No `&&`: the compiler would make both tests always.
    while (true) {
      if (at > lastShort) break;
      if (to > shortStop) break;
      const token: u32 = load<u8>(at);
      let count = token >>> 4;
      let next = at + 1 + count;
      let out = to + count;
      if (count < 15) {
        // A fixed number of bytes, often too many, beats a loop whose count the processor guesses wrong.
        v128.store(to, v128.load(at, 1));
      } else {
        count = load<u8>(at, 1);
        if (count === 255) break;
        next += 1 + count;
        if (next > lastOffset) break;
        out += count;
        if (out > shortStop) break;
        let literal = at + 2;
        let into = to;
        do {
          v128.store(into, v128.load(literal));
          v128.store(into, v128.load(literal, 16), 16);
          literal += 32;
          into += 32;
        } while (into < out);
      }
      const offset: u32 = load<u16>(next);
      let match = out - offset;
      if (offset - 1 >= <u32>(out - least)) break;
      count = token & 15;
      if (count < 15) {
        next += 2;
        to = out + count + MIN_MATCH;
        if (offset >= 8) {
          store<u64>(out, load<u64>(match));
          store<u64>(out, load<u64>(match, 8), 8);
          store<u16>(out, load<u16>(match, 16), 16);
          at = next;
          continue;
        }
      } else {
        count = load<u8>(next, 2);
        if (count === 255) break;
        next += 3;
        if (next > lastOffset + 2) break;
        const goal = out + count + (15 + MIN_MATCH);
        if (goal > stop) break;
        to = goal;
        if (offset >= 16) {
          do {
            v128.store(out, v128.load(match));
            v128.store(out, v128.load(match, 16), 16);
            out += 32;
            match += 32;
          } while (out < to);
          at = next;
          continue;
        }
      }
      at = next;
      // The bytes between the two repeat: as often as they fit into 16.
      const bytes = i8x16.swizzle(v128.load(match), v128.load(REPEAT + (offset << 4)));
      const step = 16 - (16 % offset);
      for (; out < to; out += step) v128.store(out, bytes);
    }
    if (at >= end) return refuse(1, at - from);
    const token: u32 = load<u8>(at++);
    let count = token >>> 4;
    if (count === 15) {
      let more: u32 = 255;
      while (more === 255) {
        if (at >= end) return refuse(2, at - from);
        more = load<u8>(at++);
        count += more;
      }
    }
    if (to + count > stop) return refuse(3, at + count - from);
    if (at + count > lastOffset && at + count !== end) {
      return at + count > end ? refuse(4, end - from) : refuse(5, at + count - from);
    }
    if (count >= LONG) memory.copy(to, at, count);
    else {
      for (let done: u32 = 0; done < count; done += 16) v128.store(to + done, v128.load(at + done));
    }
    at += count;
    to += count;
    if (at === end) return <i32>(to - output);
    const offset: u32 = load<u16>(at);
    // Offset 0 becomes the largest of all.
    const reach = <u32>(to - least);
    if (offset - 1 >= reach) return refuse(6, at - from, offset, reach);
    at += 2;
    let match = to - offset;
    count = token & 15;
    if (count === 15) {
      let more: u32 = 255;
      while (more === 255) {
        if (at >= end) return refuse(2, at - from);
        more = load<u8>(at++);
        count += more;
      }
      if (at > lastOffset + 2) return refuse(5, at - from);
    }
    count += MIN_MATCH;
    const next = to + count;
    if (next > stop) return refuse(3, at - from);
    if (offset >= 16) {
      if (count >= LONG && offset >= count) memory.copy(to, match, count);
      else {
        for (; to < next; to += 16, match += 16) v128.store(to, v128.load(match));
      }
    } else if (count >= LONG && offset === 1) memory.fill(to, load<u8>(match), count);
    else {
      const bytes = i8x16.swizzle(v128.load(match), v128.load(REPEAT + (offset << 4)));
      const step = 16 - (16 % offset);
      for (; to < next; to += step) v128.store(to, bytes);
    }
    to = next;
  }
}
