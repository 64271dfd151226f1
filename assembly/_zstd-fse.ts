/**
 * FSE tables (RFC 8878, section 4.1). An entry, 8 bytes, is all that a state tells; a state is where its entry lies in its table.
 *
 *     byte 0      bits to be read for the next state
 *     byte 1      bits to be read for the value
 *     bytes 2-3   the entry that the bits for the next state are added to, 8 bytes for each
 *     bytes 4-7   what the bits for the value are added to
 */

import {
  BAD_TABLE,
  COUNTS,
  LL_CODES,
  LL_DEFAULT,
  ML_CODES,
  ML_DEFAULT,
  NEXT,
  OF_CODES,
  OF_DEFAULT,
  WEIGHT_CODES,
} from './_zstd-memory';

/** Accuracy log of the table that `readTable` has read. */
export let tableLog: u32 = 0;

/** Extra bits by code (section 3.1.1.3.2.1.1). */
const LL_BITS: usize = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12,
  13, 14, 15, 16,
]);
const ML_BITS: usize = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
  1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
]);

/** Section 3.1.1.3.2.2. */
const LL_COUNTS: usize = memory.data<i8>([
  4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
  -1, -1, -1, -1,
]);
const ML_COUNTS: usize = memory.data<i8>([
  1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
]);
const OF_COUNTS: usize = memory.data<i8>([
  1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
]);

/** Fills the tables that never change. */
export function makeConstantTables(): void {
  makeCodes(LL_CODES, LL_BITS, 36, 0);
  makeCodes(ML_CODES, ML_BITS, 53, 3);
  for (let code: u32 = 0; code < 32; code++) {
    // codes 0 and 1 are repeat codes; others stand for an offset + 3
    const base = ((<u64>1) << code) - (code > 1 ? 3 : 0);
    store<u64>(OF_CODES + (code << 3), (base << 32) | (code << 8));
    store<u64>(WEIGHT_CODES + (code << 3), (<u64>code) << 32);
  }
  makeDefault(LL_DEFAULT, 6, LL_COUNTS, 36, LL_CODES);
  makeDefault(ML_DEFAULT, 6, ML_COUNTS, 53, ML_CODES);
  makeDefault(OF_DEFAULT, 5, OF_COUNTS, 29, OF_CODES);
}

/** The values of a code follow those of the code before it. */
function makeCodes(codes: usize, bits: usize, length: u32, first: u64): void {
  for (let code: u32 = 0, base = first; code < length; code++) {
    const extra = <u64>load<u8>(bits + code);
    store<u64>(codes + (code << 3), (base << 32) | (extra << 8));
    base += (<u64>1) << extra;
  }
}

function makeDefault(table: usize, log: u32, counts: usize, length: u32, codes: usize): void {
  for (let symbol: u32 = 0; symbol < length; symbol++) {
    store<i16>(COUNTS + (symbol << 1), <i16>load<i8>(counts + symbol));
  }
  buildTable(table, log, length, codes);
}

/** Makes the table of a single symbol, which takes no bits for its state. */
export function makeSingle(table: usize, codes: usize, symbol: u32): void {
  store<u64>(table, load<u64>(codes + (symbol << 3)));
}

/**
 * Reads the description of a table (section 4.1.1) from `from` on, and builds the table for codes up to `most` with an accuracy log
 * of at most `mostLog`. Gives the length of the description, at most `length`, or `BAD_TABLE`. Up to 4 bytes after it are looked at.
 */
export function readTable(
  table: usize,
  codes: usize,
  most: u32,
  mostLog: u32,
  from: usize,
  length: u32,
): i32 {
  if (length == 0) return BAD_TABLE;
  const log = <u32>(load<u8>(from) & 15) + 5;
  if (log > mostLog) return BAD_TABLE;
  const bits = length << 3;
  let at: u32 = 4;
  // probabilities that are still to be given away, and the symbol whose turn it is
  let left: i32 = 1 << log;
  let symbol: u32 = 0;
  while (left > 0) {
    if (symbol > most || at > bits) return BAD_TABLE;
    // a value from 0 to left + 1: small ones take one bit less
    const width: u32 = 32 - clz<u32>(left + 1);
    const word = load<u32>(from + (at >> 3)) >> (at & 7);
    const small: u32 = (1 << width) - 1 - (left + 1);
    let value: u32 = word & ((1 << (width - 1)) - 1);
    if (value < small) {
      at += width - 1;
    } else {
      value = word & ((1 << width) - 1);
      if (value >= (<u32>1) << (width - 1)) value -= small;
      at += width;
    }
    const count = <i32>value - 1;
    store<i16>(COUNTS + (symbol << 1), <i16>count);
    symbol++;
    left -= count < 0 ? -count : count;
    if (count != 0) continue;
    // more symbols that do not occur: two bits each time, 3 means that it goes on
    let more: u32;
    do {
      if (at > bits) return BAD_TABLE;
      more = ((<u32>load<u16>(from + (at >> 3))) >> (at & 7)) & 3;
      at += 2;
      for (let zero: u32 = 0; zero < more; zero++, symbol++) {
        if (symbol > most) return BAD_TABLE;
        store<i16>(COUNTS + (symbol << 1), 0);
      }
    } while (more == 3);
  }
  if (left < 0 || at > bits) return BAD_TABLE;
  buildTable(table, log, symbol, codes);
  tableLog = log;
  return (at + 7) >> 3;
}

/** Builds the table of `COUNTS`, of `length` symbols, whose sum is right (section 4.1.1). */
function buildTable(table: usize, log: u32, length: u32, codes: usize): void {
  const size: u32 = 1 << log;
  const mask = size - 1;
  const step = (size >> 1) + (size >> 3) + 3;
  // "less than one" has one state at the end
  let high = mask;
  for (let symbol: u32 = 0; symbol < length; symbol++) {
    const count = <i32>load<i16>(COUNTS + (symbol << 1));
    if (count < 0) store<u64>(table + (high-- << 3), symbol);
    store<u16>(NEXT + (symbol << 1), count < 0 ? 1 : count);
  }
  let position: u32 = 0;
  for (let symbol: u32 = 0; symbol < length; symbol++) {
    const count = <i32>load<i16>(COUNTS + (symbol << 1));
    for (let each = 0; each < count; each++) {
      store<u64>(table + (position << 3), symbol);
      do {
        position = (position + step) & mask;
      } while (position > high);
    }
  }
  for (let state: u32 = 0; state < size; state++) {
    const symbol = load<u32>(table + (state << 3));
    const next = <u32>load<u16>(NEXT + (symbol << 1));
    store<u16>(NEXT + (symbol << 1), next + 1);
    const bits = clz<u32>(next) + log - 31;
    const base = (next << bits) - size;
    store<u64>(table + (state << 3), load<u64>(codes + (symbol << 3)) | (base << 19) | bits);
  }
}
