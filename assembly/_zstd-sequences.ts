/** The sequences section of a compressed block (RFC 8878, section 3.1.1.3.2): which tables, and carrying the sequences out. */

import { copyOlder, copyWide, repeat } from './_zstd-copy';
import { makeSingle, readTable, tableLog } from './_zstd-fse';
import {
  BAD_OFFSET,
  BAD_SEQUENCES,
  BAD_TABLE,
  LL_CODES,
  LL_DEFAULT,
  LL_TABLE,
  ML_CODES,
  ML_DEFAULT,
  ML_TABLE,
  OF_CODES,
  OFFSETS,
  OF_DEFAULT,
  OF_TABLE,
  TOO_LONG,
} from './_zstd-memory';

/** Accuracy logs of the tables in use, which are those of a block of this frame. */
let hasTables: bool = false;
let llLog: u32 = 0;
let ofLog: u32 = 0;
let mlLog: u32 = 0;

/** Forgets the tables and offsets of the frame before. */
export function forgetSequences(): void {
  hasTables = false;
  // the last one first (section 3.1.1.5)
  store<u32>(OFFSETS, 1);
  store<u32>(OFFSETS, 4, 4);
  store<u32>(OFFSETS, 8, 8);
}

/** Sets up a table. Gives its accuracy log, and above bit 8 the length of the description; or `BAD_TABLE`. */
function setTable(
  mode: u32,
  table: usize,
  log: u32,
  mostLog: u32,
  standard: usize,
  standardLog: u32,
  codes: usize,
  most: u32,
  from: usize,
  length: u32,
): i32 {
  // predefined, one code, described, as before (section 3.1.1.3.2.1)
  if (mode == 3) return hasTables ? log : BAD_TABLE;
  if (mode == 0) {
    memory.copy(table, standard, 8 << standardLog);
    return standardLog;
  }
  if (mode == 1) {
    if (length == 0 || <u32>load<u8>(from) > most) return BAD_TABLE;
    makeSingle(table, codes, load<u8>(from));
    return 1 << 8;
  }
  const used = readTable(table, codes, most, mostLog, from, length);
  return used < 0 ? used : (used << 8) | tableLog;
}

/**
 * Carries out the sequences at `from`, up to `end`, with the literals from `literal` to `literalEnd`, and puts the block out at `start`.
 * What was put out before lies from `base` to `start`, and before that, `olderLength` bytes up to `olderEnd`. An offset is `window` at
 * most. Gives the length, at most `most`, or an error.
 */
export function runSequences(
  from: usize,
  end: usize,
  literal: usize,
  literalEnd: usize,
  start: usize,
  most: u32,
  base: usize,
  olderEnd: usize,
  olderLength: u32,
  window: u32,
): i32 {
  if (from >= end) return BAD_SEQUENCES;
  const first = <u32>load<u8>(from++);
  let count = first;
  if (first == 255) {
    if (from + 2 > end) return BAD_SEQUENCES;
    count = <u32>load<u16>(from) + 0x7f00;
    from += 2;
  } else if (first > 127) {
    if (from + 1 > end) return BAD_SEQUENCES;
    count = ((first - 128) << 8) + <u32>load<u8>(from++);
  }
  if (count == 0) {
    if (from != end) return BAD_SEQUENCES;
    const rest = <u32>(literalEnd - literal);
    if (rest > most) return TOO_LONG;
    memory.copy(start, literal, rest);
    return rest;
  }
  if (from >= end) return BAD_SEQUENCES;
  // 7-6: literal lengths, 5-4: offsets, 3-2: match lengths, 1-0: reserved
  const modes = <u32>load<u8>(from++);
  if ((modes & 3) != 0) return BAD_TABLE;
  let result = setTable(modes >> 6, LL_TABLE, llLog, 9, LL_DEFAULT, 6, LL_CODES, 35, from, <u32>(end - from));
  if (result < 0) return result;
  llLog = result & 0xff;
  from += result >> 8;
  result = setTable((modes >> 4) & 3, OF_TABLE, ofLog, 8, OF_DEFAULT, 5, OF_CODES, 31, from, <u32>(end - from));
  if (result < 0) return result;
  ofLog = result & 0xff;
  from += result >> 8;
  result = setTable((modes >> 2) & 3, ML_TABLE, mlLog, 9, ML_DEFAULT, 6, ML_CODES, 52, from, <u32>(end - from));
  if (result < 0) return result;
  mlLog = result & 0xff;
  from += result >> 8;
  hasTables = true;

  if (from >= end || load<u8>(end - 1) == 0) return BAD_SEQUENCES;
  return carryOut(
    count,
    from,
    end,
    literal,
    literalEnd,
    start,
    start + most,
    base,
    olderEnd,
    olderLength,
    window,
  );
}

/** The top bits of `word`, as many as the low six bits of `count` say. */
// @ts-ignore: decorator
@inline function top(word: u64, count: u64): u32 {
  return <u32>((word >> 1) >> ~count);
}

/** The bits from the top of a word on, 57 of them, after those that were `taken` before its first byte, at `from` + 7. */
// @ts-ignore: decorator
@inline function wordAfter(from: usize, taken: u32): u64 {
  return load<u64>(from - (taken >> 3)) << (taken & 7);
}

function carryOut(
  count: u32,
  start: usize,
  bitsEnd: usize,
  literal: usize,
  literalEnd: usize,
  to: usize,
  stop: usize,
  base: usize,
  olderEnd: usize,
  olderLength: u32,
  window: u32,
): i32 {
  const first = to;
  // bits that were taken, from the end on: first the mark and the zeros above it
  const from = bitsEnd - 8;
  const total = <u32>(bitsEnd - start) << 3;
  let taken = clz<u32>(<u32>load<u8>(bitsEnd - 1)) - 23;
  let bits = wordAfter(from, taken);
  let ll: usize = top(bits, llLog) << 3;
  bits <<= <u64>llLog;
  let oc: usize = top(bits, ofLog) << 3;
  bits <<= <u64>ofLog;
  let ml: usize = top(bits, mlLog) << 3;
  taken += llLog + ofLog + mlLog;
  if (taken > total) return BAD_SEQUENCES;

  for (;;) {
    // 57 bits: an offset has 31 at most, and three states 26
    bits = wordAfter(from, taken);
    const offsetBits = <u32>load<u8>(oc, OF_TABLE + 1);
    let offset = load<u32>(oc, OF_TABLE + 4) + top(bits, offsetBits);
    let matchLength = load<u32>(ml, ML_TABLE + 4);
    let literals = load<u32>(ll, LL_TABLE + 4);
    taken += offsetBits;
    bits <<= offsetBits;
    // most lengths have no bits
    const matchBits = <u32>load<u8>(ml, ML_TABLE + 1);
    const literalBits = <u32>load<u8>(ll, LL_TABLE + 1);
    if ((matchBits | literalBits) != 0) {
      bits = wordAfter(from, taken);
      matchLength += top(bits, matchBits);
      literals += top(bits << matchBits, literalBits);
      taken += matchBits + literalBits;
      bits = wordAfter(from, taken);
    }
    if (offsetBits > 1) {
      store<u32>(OFFSETS, load<u32>(OFFSETS, 4), 8);
      store<u32>(OFFSETS, load<u32>(OFFSETS), 4);
      store<u32>(OFFSETS, offset);
    } else {
      // 1 to 3, and one more after no literals: the last offset, the one before, the third, the last less one
      const which = offset + (literals == 0 ? 1 : 0);
      const newest = load<u32>(OFFSETS);
      if (which == 1) {
        offset = newest;
      } else {
        const older = load<u32>(OFFSETS, 4);
        offset = which == 2 ? older : which == 3 ? load<u32>(OFFSETS, 8) : newest - 1;
        if (which != 2) store<u32>(OFFSETS, older, 8);
        store<u32>(OFFSETS, newest, 4);
        store<u32>(OFFSETS, offset);
      }
    }

    const matchTo = to + literals;
    const matchEnd = matchTo + matchLength;
    if (matchEnd > stop) return TOO_LONG;
    if (literals > <u32>(literalEnd - literal)) return BAD_SEQUENCES;
    v128.store(to, v128.load(literal));
    if (literals > 16) copyWide(literal + 16, to + 16, matchTo);
    literal += literals;

    // offset 0 is beyond it as well
    if (offset - 1 >= window) return BAD_OFFSET;
    const since = <u32>(matchTo - base);
    if (offset > since) {
      if (offset - since > olderLength) return BAD_OFFSET;
      copyOlder(olderEnd - (offset - since), olderEnd, base, matchTo, matchEnd);
    } else if (offset >= 16) {
      const match = matchTo - offset;
      v128.store(matchTo, v128.load(match));
      if (matchLength > 16) copyWide(match + 16, matchTo + 16, matchEnd);
    } else {
      repeat(matchTo, matchEnd, offset);
    }
    to = matchEnd;

    if (--count == 0) break;
    if (taken > total) return BAD_SEQUENCES;
    const llBits = <u32>load<u8>(ll, LL_TABLE);
    ll = load<u16>(ll, LL_TABLE + 2) + (top(bits, llBits) << 3);
    bits <<= llBits;
    const mlBits = <u32>load<u8>(ml, ML_TABLE);
    ml = load<u16>(ml, ML_TABLE + 2) + (top(bits, mlBits) << 3);
    bits <<= mlBits;
    const ocBits = <u32>load<u8>(oc, OF_TABLE);
    oc = load<u16>(oc, OF_TABLE + 2) + (top(bits, ocBits) << 3);
    taken += llBits + mlBits + ocBits;
  }
  if (taken != total) return BAD_SEQUENCES;
  const rest = <u32>(literalEnd - literal);
  if (rest > <u32>(stop - to)) return TOO_LONG;
  memory.copy(to, literal, rest);
  return <i32>(to + rest - first);
}
