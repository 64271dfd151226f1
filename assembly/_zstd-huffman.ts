/**
 * Huffman trees (RFC 8878, section 4.2.1). The tables are, by the next 11 bits, however long the longest code is:
 *
 *     CODE_LENGTHS, CODE_SYMBOLS  u8 each: the length of the code, and its symbol
 *     HUFFMAN_2                   u32: bits 0-7 length of one or two codes, 8-15 their number, 16-31 the symbols
 */

import { readTable, tableLog } from './_zstd-fse';
import {
  BAD_TREE,
  CODE_LENGTHS,
  CODE_SYMBOLS,
  HUFFMAN_2,
  RANKS,
  WEIGHTS,
  WEIGHT_CODES,
  WEIGHT_TABLE,
} from './_zstd-memory';

/** Whether `HUFFMAN_2` is that of the tree. */
export let hasPairs: bool = false;

/** The longest code (section 4.2.1), in bits. */
// @ts-ignore: decorator
@inline const MAX_BITS: u32 = 11;

/**
 * Reads the description of a tree (section 4.2.1), which is at `from` and has `length` bytes at most, and makes the tables.
 * Gives its length or `BAD_TREE`.
 */
export function readTree(from: usize, length: u32): i32 {
  if (length == 0) return BAD_TREE;
  const header = <u32>load<u8>(from++);
  let count: u32;
  let used: u32;
  if (header < 128) {
    used = 1 + header;
    if (used > length) return BAD_TREE;
    count = readWeights(from, header);
    if (count == 0) return BAD_TREE;
  } else {
    count = header - 127;
    used = 1 + ((count + 1) >> 1);
    if (used > length) return BAD_TREE;
    for (let symbol: u32 = 0; symbol < count; symbol += 2) {
      const pair = load<u8>(from + (symbol >> 1));
      store<u8>(WEIGHTS + symbol, pair >> 4);
      store<u8>(WEIGHTS + symbol, pair & 15, 1);
    }
  }
  return makeTables(count) ? used : BAD_TREE;
}

/** Reads weights that are compressed (section 4.2.1.2). Gives how many, 0 when they are damaged. */
function readWeights(from: usize, length: u32): u32 {
  const used = readTable(WEIGHT_TABLE, WEIGHT_CODES, 31, 6, from, length);
  if (used < 0 || <u32>used >= length) return 0;
  const start = from + used;
  const last = load<u8>(from + length - 1);
  if (last == 0) return 0;
  let bits = <i32>(((length - used - 1) << 3) + 31 - clz<u32>(last));
  bits -= tableLog;
  let even = peek(start, bits, tableLog) << 3;
  bits -= tableLog;
  let odd = peek(start, bits, tableLog) << 3;
  if (bits < 0) return 0;
  // two states take turns; the one that finds no bits any more ends it, and the other one still has a symbol
  for (let count: u32 = 0; count < 254;) {
    const entry = load<u64>(WEIGHT_TABLE + even);
    store<u8>(WEIGHTS + count++, <u8>(entry >> 32));
    bits -= <i32>(entry & 0xff);
    if (bits < 0) {
      store<u8>(WEIGHTS + count++, <u8>(load<u64>(WEIGHT_TABLE + odd) >> 32));
      return count;
    }
    const other = odd;
    odd = (<u32>entry >> 16) + (peek(start, bits, <u32>entry & 0xff) << 3);
    even = other;
  }
  return 0;
}

/** The `count` bits from bit `at` on; `at` is not far below 0. */
// @ts-ignore: decorator
@inline function peek(start: usize, at: i32, count: u32): u32 {
  return (load<u32>(start + (at >> 3)) >> (at & 7)) & ((1 << count) - 1);
}

/** Makes the tables of `count` weights; that of the last symbol follows from them. False when they make no tree. */
function makeTables(count: u32): bool {
  let sum: u32 = 0;
  memory.fill(RANKS, 0, 64);
  for (let symbol: u32 = 0; symbol < count; symbol++) {
    const weight = <u32>load<u8>(WEIGHTS + symbol);
    if (weight > MAX_BITS) return false;
    sum += ((<u32>1) << weight) >> 1;
    const rank = RANKS + (weight << 2);
    store<u32>(rank, load<u32>(rank) + 1);
  }
  if (sum == 0) return false;
  const log: u32 = 32 - clz<u32>(sum);
  const rest = ((<u32>1) << log) - sum;
  if (log > MAX_BITS || (rest & (rest - 1)) != 0) return false;
  const lastWeight: u32 = 32 - clz<u32>(rest);
  store<u8>(WEIGHTS + count, <u8>lastWeight);
  const lastRank = RANKS + (lastWeight << 2);
  store<u32>(lastRank, load<u32>(lastRank) + 1);
  // the longest codes come in pairs
  const longest = load<u32>(RANKS, 4);
  if (longest < 2 || (longest & 1) != 0) return false;

  // where the codes of each weight start, in entries of the tables
  const wider = MAX_BITS - log;
  let start: u32 = 0;
  for (let weight: u32 = 1; weight <= log; weight++) {
    const rank = RANKS + (weight << 2);
    const codes = load<u32>(rank);
    store<u32>(rank, start);
    start += codes << (weight - 1 + wider);
  }
  for (let symbol: u32 = 0; symbol <= count; symbol++) {
    const weight = <u32>load<u8>(WEIGHTS + symbol);
    if (weight == 0) continue;
    const rank = RANKS + (weight << 2);
    const first = load<u32>(rank);
    const length = (<u32>1) << (weight - 1 + wider);
    store<u32>(rank, first + length);
    const bits = <u8>(log + 1 - weight);
    if (length >= 8) {
      const lengths = <u64>bits * 0x0101010101010101;
      const symbols = <u64>symbol * 0x0101010101010101;
      for (let at = first; at < first + length; at += 8) {
        store<u64>(at, lengths, CODE_LENGTHS);
        store<u64>(at, symbols, CODE_SYMBOLS);
      }
    } else {
      for (let at = first; at < first + length; at++) {
        store<u8>(at, bits, CODE_LENGTHS);
        store<u8>(at, <u8>symbol, CODE_SYMBOLS);
      }
    }
  }
  hasPairs = false;
  return true;
}

/** Fills `HUFFMAN_2`, when that has not been done for this tree: it takes longer than the others, and many trees do not need it. */
export function makePairs(): void {
  if (hasPairs) return;
  hasPairs = true;
  for (let at: u32 = 0; at < 2048; at++) {
    const bits = <u32>load<u8>(at, CODE_LENGTHS);
    const symbol = <u32>load<u8>(at, CODE_SYMBOLS) << 16;
    const next = (at << bits) & 2047;
    const both = bits + load<u8>(next, CODE_LENGTHS);
    store<u32>(
      HUFFMAN_2 + (at << 2),
      both <= MAX_BITS
        ? both | 0x200 | symbol | (<u32>load<u8>(next, CODE_SYMBOLS) << 24)
        : bits | 0x100 | symbol,
    );
  }
}
