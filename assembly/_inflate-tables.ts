/**
 * Tables of Huffman codes (RFC 1951, section 3.2.2): by the next bits of the input, all that is to be known of what comes. An entry is a u32:
 *
 *     bits 0-5    bits to take: the code, and the extra bits behind it
 *     bits 6-11   bits of the code alone, and `SHIFT` more
 *
 * of literals and lengths
 *
 *     bits 16-24  the literal, or the shortest length
 *     bits 25-29  mask of the extra bits
 *     bit 30      neither a literal nor a length: with bit 15 the end of the block, with bit 14 a longer code, else an error
 *     bit 31      a literal
 *
 * of distances
 *
 *     bits 12-15  number of extra bits
 *     bits 16-30  the shortest distance
 *     bit 31      no distance: with bit 14 a longer code, else an error
 *
 * A longer code has in bits 16-29 where its table starts, in entries; that one is found by the bits that follow.
 */

import {
  COUNTS,
  DISTANCE_BITS,
  DISTANCE_SYMBOLS,
  DISTANCE_TABLE,
  LENGTHS,
  LENGTH_BITS,
  LENGTH_LENGTHS,
  LENGTH_SYMBOLS,
  LENGTH_TABLE,
  LITERAL_BITS,
  LITERAL_SYMBOLS,
  LITERAL_TABLE,
  MASKS,
  MAX_BITS,
  SHIFT,
  SORTED,
  STARTS,
} from './_inflate-memory';

/** Of literals and lengths: what is neither, and what it is then. */
// @ts-ignore: decorator
@inline export const OTHER: u32 = 1 << 30;
// @ts-ignore: decorator
@inline export const END_OF_BLOCK: u32 = 1 << 15;
/** The code is longer, also of distances. */
// @ts-ignore: decorator
@inline export const LONG: u32 = 1 << 14;
/** A literal, or no distance. */
// @ts-ignore: decorator
@inline export const TOP: u32 = 1 << 31;

/** Adds a bit to a code. */
// @ts-ignore: decorator
@inline const BIT: u32 = (1 << 6) | 1;

/** Makes what each symbol stands for (section 3.2.5). */
export function makeSymbols(): void {
  for (let symbol: u32 = 0; symbol < 256; symbol++) {
    store<u32>(LITERAL_SYMBOLS + (symbol << 2), TOP | (symbol << 16));
  }
  store<u32>(LITERAL_SYMBOLS, OTHER | END_OF_BLOCK, 256 * 4);
  let length: u32 = 3;
  for (let symbol: u32 = 257; symbol < 285; symbol++) {
    const extra: u32 = symbol < 265 ? 0 : (symbol - 261) >> 2;
    const mask: u32 = (1 << extra) - 1;
    store<u32>(LITERAL_SYMBOLS + (symbol << 2), (mask << 25) | (length << 16) | (SHIFT << 6) | extra);
    length += 1 << extra;
  }
  store<u32>(LITERAL_SYMBOLS, (258 << 16) | (SHIFT << 6), 285 * 4);
  store<u32>(LITERAL_SYMBOLS, OTHER, 286 * 4);
  store<u32>(LITERAL_SYMBOLS, OTHER, 287 * 4);

  let distance: u32 = 1;
  for (let symbol: u32 = 0; symbol < 30; symbol++) {
    const extra: u32 = symbol < 2 ? 0 : (symbol - 2) >> 1;
    store<u32>(DISTANCE_SYMBOLS + (symbol << 2), (distance << 16) | (extra << 12) | (SHIFT << 6) | extra);
    distance += 1 << extra;
  }
  store<u32>(DISTANCE_SYMBOLS, TOP, 30 * 4);
  store<u32>(DISTANCE_SYMBOLS, TOP, 31 * 4);
  for (let extra: u32 = 0; extra < 16; extra++) store<u32>(MASKS + (extra << 2), (1 << extra) - 1);

  for (let symbol: u32 = 0; symbol < 19; symbol++) {
    store<u32>(LENGTH_SYMBOLS + (symbol << 2), symbol << 16);
  }
}

/**
 * Counts and sorts the codes of `count` symbols, whose lengths are at `lengths`. Gives the length of the longest one, 0 when there is
 * none, or -1 when they are too many or, with `mayMiss` but for a single one of 1 bit, too few.
 */
function sortCodes(lengths: usize, count: u32, mayMiss: bool): i32 {
  for (let at: usize = 0; at < 64; at += 16) v128.store(COUNTS + at, i64x2.splat(0));
  for (let symbol: u32 = 0; symbol < count; symbol++) {
    const counter = COUNTS + (<usize>load<u8>(lengths + symbol) << 2);
    store<u32>(counter, load<u32>(counter) + 1);
  }
  let longest: u32 = MAX_BITS;
  while (longest > 0 && load<u32>(COUNTS + (longest << 2)) == 0) longest--;
  if (longest == 0) return 0;
  let left: i32 = 1;
  let start: u32 = 0;
  for (let length: u32 = 1; length <= longest; length++) {
    const codes = load<u32>(COUNTS + (length << 2));
    store<u32>(STARTS + (length << 2), start);
    start += codes;
    left = (left << 1) - codes;
    if (left < 0) return -1;
  }
  if (left > 0 && (!mayMiss || longest != 1)) return -1;
  for (let symbol: u32 = 0; symbol < count; symbol++) {
    const length = <usize>load<u8>(lengths + symbol);
    if (length == 0) continue;
    const place = STARTS + (length << 2);
    const at = load<u32>(place);
    store<u32>(place, at + 1);
    store<u16>(SORTED + (at << 1), <u16>symbol);
  }
  return <i32>longest;
}

/** The code after `code` of `length` bits, both with their first bit lowest. Of the last one, 0. */
// @ts-ignore: decorator
@inline function next(code: u32, length: u32): u32 {
  const rest = code ^ ((1 << length) - 1);
  if (rest == 0) return 0;
  const bit: u32 = (<u32>1) << (31 - clz<u32>(rest));
  return (code & (bit - 1)) | bit;
}

/** Repeats the `length` bytes at `table` behind them; writes up to 8 bytes more. */
// @ts-ignore: decorator
@inline function double(table: usize, length: usize): void {
  const end = table + length;
  for (let at = table; at < end; at += 16) v128.store(at + length, v128.load(at));
}

/** Makes the table of literals and lengths. False when the lengths make no code. */
export function makeLiteralTable(count: u32): bool {
  const longest = <u32>sortCodes(LENGTHS, count, true);
  if (<i32>longest < 0) return false;
  fill(LITERAL_TABLE, LITERAL_BITS, LITERAL_SYMBOLS, longest, OTHER);
  return true;
}

/** Makes the table of the distances, whose lengths are at `lengths`. False when they make no code. */
export function makeDistanceTable(lengths: usize, count: u32): bool {
  const longest = <u32>sortCodes(lengths, count, true);
  if (<i32>longest < 0) return false;
  fill(DISTANCE_TABLE, DISTANCE_BITS, DISTANCE_SYMBOLS, longest, TOP);
  return true;
}

/** Makes the table of code lengths. False when they make no code. */
export function makeLengthTable(): bool {
  const longest = <u32>sortCodes(LENGTH_LENGTHS, 19, false);
  if (<i32>longest < 0) return false;
  // without codes each bit stands for 0, and the end of the block is missed later
  fill(LENGTH_TABLE, LENGTH_BITS, LENGTH_SYMBOLS, longest, BIT);
  return true;
}

/**
 * Fills the table at `table`, which is found by `bits` bits, from the sorted codes: those of each length are put into a table of as many
 * bits, which is doubled when the length grows. What no code stands for gets `none`, what longer codes start with that and `LONG`.
 */
// @ts-ignore: decorator
@inline function fill(table: usize, bits: u32, symbols: usize, longest: u32, none: u32): void {
  let sorted = SORTED;
  let code: u32 = 0;
  let length: u32 = 1;
  // one code or none does not fill its table
  store<u32>(table, none);
  store<u32>(table, none, 4);
  for (; length <= bits; length++) {
    const end = sorted + (load<u32>(COUNTS + (length << 2)) << 1);
    const taken = length * BIT;
    for (; sorted < end; sorted += 2) {
      store<u32>(table + (code << 2), load<u32>(symbols + (<usize>load<u16>(sorted) << 2)) + taken);
      code = next(code, length);
    }
    if (length < bits) double(table, 4 << length);
  }

  const mask: u32 = (1 << bits) - 1;
  let other: u32 = 1 << bits;
  let start: u32 = 0;
  let prefix: u32 = u32.MAX_VALUE;
  for (; length <= longest; length++) {
    const end = sorted + (load<u32>(COUNTS + (length << 2)) << 1);
    const taken = (length - bits) * BIT;
    const step = 4 << (length - bits);
    for (; sorted < end; sorted += 2) {
      if ((code & mask) != prefix) {
        prefix = code & mask;
        start = other;
        other += 1 << (MAX_BITS - bits);
        store<u32>(table + (prefix << 2), none | LONG | (start << 16) | bits);
      }
      const entry = load<u32>(symbols + (<usize>load<u16>(sorted) << 2)) + taken;
      const tableEnd = table + (other << 2);
      for (let at = table + ((start + (code >> bits)) << 2); at < tableEnd; at += step) store<u32>(at, entry);
      code = next(code, length);
    }
  }
}
