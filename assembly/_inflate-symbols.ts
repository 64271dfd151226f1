/**
 * Decodes the symbols of a block (RFC 1951, section 3.2.3) with the tables of _inflate-tables.ts. Bits lie in a word of 64, with `SHIFT` bits
 * below that mean nothing. Of `count` only the lowest 6 bits are their number, those below included, so that an entry as a whole can be
 * subtracted from it. When 8 bytes have been put in, the whole word is right, also above that number.
 */

import {
  BAD_DISTANCE,
  BAD_LITERAL,
  BIT_BUFFER,
  BIT_COUNT,
  DISTANCE_BITS,
  DISTANCE_TABLE,
  END,
  FROM,
  FROM_END,
  FULL,
  LITERAL_BITS,
  LITERAL_TABLE,
  MASKS,
  NO_INPUT,
  OUTPUT,
  SHIFT,
  TO,
  TO_END,
  TOO_FAR,
} from './_inflate-memory';
import { END_OF_BLOCK, LONG, OTHER } from './_inflate-tables';
import { repeat } from './_zstd-copy';

/** A turn of the fast loop reads less than this. */
// @ts-ignore: decorator
@inline const TURN: usize = 32;

// @ts-ignore: decorator
@inline function literalAt(bits: u64): u32 {
  return load<u32>(<u32>bits & (((1 << LITERAL_BITS) - 1) << SHIFT), LITERAL_TABLE);
}

// @ts-ignore: decorator
@inline function longLiteralAt(entry: u32, bits: u64): u32 {
  const at = <u32>bits & (((1 << (15 - LITERAL_BITS)) - 1) << SHIFT);
  return load<u32>(((entry >> (16 - SHIFT)) & 0x7ffc) + at, LITERAL_TABLE);
}

// @ts-ignore: decorator
@inline function distanceAt(bits: u64): u32 {
  return load<u32>(<u32>bits & (((1 << DISTANCE_BITS) - 1) << SHIFT), DISTANCE_TABLE);
}

// @ts-ignore: decorator
@inline function longDistanceAt(entry: u32, bits: u64): u32 {
  const at = <u32>bits & (((1 << (15 - DISTANCE_BITS)) - 1) << SHIFT);
  return load<u32>(((entry >> (16 - SHIFT)) & 0x7ffc) + at, DISTANCE_TABLE);
}

/** Of an entry, with the bits that it was found by. */
// @ts-ignore: decorator
@inline function lengthOf(entry: u32, bits: u64): u32 {
  return ((entry >> 16) & 0x1ff) + (<u32>(bits >> <u64>(entry >> 6)) & (entry >> 25));
}

// @ts-ignore: decorator
@inline function distanceOf(entry: u32, bits: u64): u32 {
  return (entry >> 16) + (<u32>(bits >> <u64>(entry >> 6)) & load<u32>((entry >> 10) & 60, MASKS));
}

/** How far the input moves on when the bits are filled up to 56 or more. */
// @ts-ignore: decorator
@inline function advance(count: u32): usize {
  return (~count >> 3) & 7;
}

/**
 * Puts out `length` bytes, the same as those `distance` before; writes up to 32 bytes more. Words are faster than vectors: what is read was
 * often written a moment ago, in smaller pieces.
 */
// @ts-ignore: decorator
@inline function copy(to: usize, distance: u32, length: u32): void {
  let from = to - distance;
  if (distance >= 8) {
    store<u64>(to, load<u64>(from));
    store<u64>(to, load<u64>(from, 8), 8);
    if (length > 16) {
      const end = to + length;
      do {
        store<u64>(to, load<u64>(from, 16), 16);
        store<u64>(to, load<u64>(from, 24), 24);
        to += 16;
        from += 16;
      } while (to + 16 < end);
    }
  } else if (distance == 1) {
    const byte = i8x16.splat(load<u8>(from));
    const end = to + length;
    do {
      v128.store(to, byte);
      v128.store(to, byte, 16);
      to += 32;
    } while (to < end);
  } else {
    repeat(to, to + length, distance);
  }
}

/** Notes where decoding is, with the bytes that are in `bits` as a whole given back. */
// @ts-ignore: decorator
@inline function leave(bits: u64, count: u32, from: usize, to: usize): void {
  count = (count - SHIFT) & 63;
  store<u64>(BIT_BUFFER, (bits >> SHIFT) & ((1 << <u64>(count & 7)) - 1));
  store<u32>(BIT_COUNT, count & 7);
  store<usize>(FROM, from - (count >> 3));
  store<usize>(TO, to);
}

/** Decodes symbols until the block ends (`END`), the output is full (`FULL`) or something is wrong (an error). */
export function decodeSymbols(): i32 {
  // whole bytes are given back
  const count = load<u32>(BIT_COUNT);
  store<usize>(FROM, load<usize>(FROM) - (count >> 3));
  store<u32>(BIT_COUNT, count & 7);
  store<u64>(BIT_BUFFER, load<u64>(BIT_BUFFER) & ((1 << <u64>(count & 7)) - 1));
  const result = decodeFast();
  return result < 0 ? decodeEnd() : result;
}

/** As `decodeSymbols`, as long as there is so much input that its end need not be looked for; -1 when there is not. */
function decodeFast(): i32 {
  const toEnd = load<usize>(TO_END);
  const fromLast = load<usize>(FROM_END) - TURN;
  let bits = load<u64>(BIT_BUFFER) << SHIFT;
  let count = load<u32>(BIT_COUNT) + SHIFT;
  let from = load<usize>(FROM);
  let to = load<usize>(TO);
  let result: i32 = -1;
  if (from < fromLast) {
    bits |= load<u64>(from) << <u64>count;
    from += advance(count);
    count |= 56;
    let entry = literalAt(bits);
    while (<i32>((toEnd - to) | (fromLast - from)) >= 0) {
      bits |= load<u64>(from) << <u64>count;
      from += advance(count);
      count |= 56;
      // four codes of 11 bits leave enough to find the next entry, three leave enough for a length
      if (<i32>entry < 0) {
        bits >>= <u64>entry;
        count -= entry;
        store<u8>(to++, entry >> 16);
        entry = literalAt(bits);
        if (<i32>entry < 0) {
          bits >>= <u64>entry;
          count -= entry;
          store<u8>(to++, entry >> 16);
          entry = literalAt(bits);
          if (<i32>entry < 0) {
            bits >>= <u64>entry;
            count -= entry;
            store<u8>(to++, entry >> 16);
            entry = literalAt(bits);
            if (<i32>entry < 0) {
              bits >>= <u64>entry;
              count -= entry;
              store<u8>(to++, entry >> 16);
              entry = literalAt(bits);
              continue;
            }
          }
        }
      }
      if (entry >= OTHER) {
        if (entry & LONG) {
          bits >>= <u64>entry;
          count -= entry;
          entry = longLiteralAt(entry, bits);
          if (<i32>entry < 0) {
            bits >>= <u64>entry;
            count -= entry;
            store<u8>(to++, entry >> 16);
            entry = literalAt(bits);
            continue;
          }
        }
        if (entry >= OTHER) {
          bits >>= <u64>entry;
          count -= entry;
          result = entry & END_OF_BLOCK ? END : BAD_LITERAL;
          break;
        }
      }
      const length = lengthOf(entry, bits);
      bits >>= <u64>entry;
      count -= entry;

      let place = distanceAt(bits);
      bits |= load<u64>(from) << <u64>count;
      from += advance(count);
      count |= 56;
      if (<i32>place < 0) {
        if (place & LONG) {
          bits >>= <u64>place;
          count -= place;
          place = longDistanceAt(place, bits);
        }
        if (<i32>place < 0) {
          result = BAD_DISTANCE;
          break;
        }
      }
      const distance = distanceOf(place, bits);
      bits >>= <u64>place;
      count -= place;
      entry = literalAt(bits);
      if (distance > <u32>(to - OUTPUT)) {
        result = TOO_FAR;
        break;
      }
      copy(to, distance, length);
      to += length;
    }
  }
  leave(bits, count, from, to);
  // what is wrong behind the end of the output does not matter
  return to >= toEnd ? FULL : result;
}

/** As `decodeSymbols`, a symbol at a time, up to the end of the input, behind which there are zeros. */
function decodeEnd(): i32 {
  const toEnd = load<usize>(TO_END);
  const fromEnd = load<usize>(FROM_END);
  let bits = load<u64>(BIT_BUFFER) << SHIFT;
  let count = load<u32>(BIT_COUNT) + SHIFT;
  let from = load<usize>(FROM);
  let to = load<usize>(TO);
  let result: i32 = FULL;
  while (to < toEnd) {
    bits |= load<u64>(from) << <u64>count;
    from += advance(count);
    count |= 56;
    let entry = literalAt(bits);
    if (entry >= OTHER && entry & LONG && <i32>entry >= 0) {
      bits >>= <u64>entry;
      count -= entry;
      entry = longLiteralAt(entry, bits);
    }
    const found = bits;
    bits >>= <u64>entry;
    count -= entry;
    let length: u32 = 1;
    let distance: u32 = 0;
    if (<i32>entry >= 0) {
      if (entry >= OTHER) {
        result = entry & END_OF_BLOCK ? END : BAD_LITERAL;
      } else {
        length = lengthOf(entry, found);
        bits |= load<u64>(from) << <u64>count;
        from += advance(count);
        count |= 56;
        let place = distanceAt(bits);
        if (<i32>place < 0 && place & LONG) {
          bits >>= <u64>place;
          count -= place;
          place = longDistanceAt(place, bits);
        }
        distance = distanceOf(place, bits);
        bits >>= <u64>place;
        count -= place;
        if (<i32>place < 0) result = BAD_DISTANCE;
        else if (distance > <u32>(to - OUTPUT)) result = TOO_FAR;
      }
    }
    if (from - (((count - SHIFT) & 63) >> 3) > fromEnd) {
      result = NO_INPUT;
      break;
    }
    if (result != FULL) break;
    if (<i32>entry < 0) store<u8>(to, entry >> 16);
    else copy(to, distance, length);
    to += length;
  }
  leave(bits, count, from, to);
  return result;
}
