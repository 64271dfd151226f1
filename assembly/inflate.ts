/**
 * Decodes raw deflate streams (RFC 1951) that lie in memory as a whole, up to as many bytes as are asked for; src/codec/inflate.ts calls it.
 * What is an error is so for zlib, too.
 */

import {
  BAD_COUNTS,
  BAD_DISTANCE_CODE,
  BAD_LENGTHS,
  BAD_LENGTH_CODE,
  BAD_LITERAL_CODE,
  BAD_STORED,
  BAD_TYPE,
  BIT_BUFFER,
  BIT_COUNT,
  END,
  FROM,
  FROM_END,
  FULL,
  LENGTHS,
  LENGTH_BITS,
  LENGTH_LENGTHS,
  LENGTH_TABLE,
  NO_END_CODE,
  NO_INPUT,
  OUTPUT,
  SLACK,
  TO,
  TO_END,
} from './_inflate-memory';
import { decodeSymbols } from './_inflate-symbols';
import { makeDistanceTable, makeLengthTable, makeLiteralTable, makeSymbols } from './_inflate-tables';

/** The order in which the lengths of the codes for code lengths come (section 3.2.7). */
const ORDER: usize = memory.data<u8>([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]);

let isReady: bool = false;
/** The tables are those of fixed codes. */
let isFixed: bool = false;

/** Where the output will lie. */
export function outputArea(): usize {
  return OUTPUT;
}

/** How many bytes must lie between output and input, and behind the input. */
export function slack(): usize {
  return SLACK;
}

/** How many bytes came out. */
export function produced(): usize {
  return load<usize>(TO) - OUTPUT;
}

/**
 * Decodes the `inputLength` bytes at `from`, up to `outputLength` bytes. Gives 0 when all of them are there, 1 when the stream ends before,
 * 2 when the input does, and other numbers for what is wrong.
 */
export function inflate(from: usize, inputLength: usize, outputLength: usize): i32 {
  if (!isReady) makeSymbols();
  isReady = true;
  memory.fill(from + inputLength, 0, 64);
  store<u64>(BIT_BUFFER, 0);
  store<u32>(BIT_COUNT, 0);
  store<usize>(FROM, from);
  store<usize>(FROM_END, from + inputLength);
  store<usize>(TO, OUTPUT);
  store<usize>(TO_END, OUTPUT + outputLength);
  while (load<usize>(TO) < load<usize>(TO_END)) {
    const header = take(3);
    if (isBehind()) return NO_INPUT;
    const type = header >> 1;
    let result: i32 = BAD_TYPE;
    if (type == 0) result = copyStored();
    else if (type == 1) result = decodeFixed();
    else if (type == 2) result = decodeDynamic();
    if (result != END) return result;
    if (header & 1) return load<usize>(TO) < load<usize>(TO_END) ? END : FULL;
  }
  return FULL;
}

/** The next `length` bits, at most 32. */
function take(length: u32): u32 {
  let bits = load<u64>(BIT_BUFFER);
  let count = load<u32>(BIT_COUNT);
  if (count < length) {
    const from = load<usize>(FROM);
    bits |= load<u64>(from) << <u64>count;
    store<usize>(FROM, from + ((63 - count) >> 3));
    count |= 56;
  }
  store<u64>(BIT_BUFFER, bits >> <u64>length);
  store<u32>(BIT_COUNT, count - length);
  return <u32>bits & (<u32>(<u64>1 << <u64>length) - 1);
}

/** True when bits were taken that are not in the input. */
function isBehind(): bool {
  return load<usize>(FROM) - (load<u32>(BIT_COUNT) >> 3) > load<usize>(FROM_END);
}

/** A block that is not compressed (section 3.2.4). */
function copyStored(): i32 {
  // up to the next byte, and back over the bytes that are in the bits
  let from = load<usize>(FROM) - (load<u32>(BIT_COUNT) >> 3);
  const fromEnd = load<usize>(FROM_END);
  store<u64>(BIT_BUFFER, 0);
  store<u32>(BIT_COUNT, 0);
  if (from + 4 > fromEnd) return NO_INPUT;
  let length: usize = load<u16>(from);
  if (length != (<u32>load<u16>(from, 2) ^ 0xffff)) return BAD_STORED;
  from += 4;
  const to = load<usize>(TO);
  const room = load<usize>(TO_END) - to;
  let result: i32 = END;
  if (length > room) length = room;
  if (length > fromEnd - from) {
    length = fromEnd - from;
    result = NO_INPUT;
  }
  memory.copy(to, from, length);
  store<usize>(FROM, from + length);
  store<usize>(TO, to + length);
  return result;
}

/** A block with fixed codes (section 3.2.6). */
function decodeFixed(): i32 {
  if (!isFixed) {
    memory.fill(LENGTHS, 8, 144);
    memory.fill(LENGTHS + 144, 9, 112);
    memory.fill(LENGTHS + 256, 7, 24);
    memory.fill(LENGTHS + 280, 8, 8);
    memory.fill(LENGTHS + 288, 5, 32);
    makeLiteralTable(288);
    makeDistanceTable(LENGTHS + 288, 32);
  }
  isFixed = true;
  return decodeSymbols();
}

/** A block that brings its codes (section 3.2.7). */
function decodeDynamic(): i32 {
  isFixed = false;
  const counts = take(14);
  const literals = (counts & 31) + 257;
  const distances = ((counts >> 5) & 31) + 1;
  const lengths = (counts >> 10) + 4;
  if (isBehind()) return NO_INPUT;
  if (literals > 286 || distances > 30) return BAD_COUNTS;
  v128.store(LENGTH_LENGTHS, i64x2.splat(0));
  v128.store(LENGTH_LENGTHS, i64x2.splat(0), 16);
  for (let at: u32 = 0; at < lengths; at++) {
    store<u8>(LENGTH_LENGTHS + <usize>load<u8>(ORDER + at), <u8>take(3));
  }
  if (isBehind()) return NO_INPUT;
  if (!makeLengthTable()) return BAD_LENGTH_CODE;
  const result = readLengths(literals + distances);
  if (result != END) return result;
  if (load<u8>(LENGTHS, 256) == 0) return NO_END_CODE;
  if (!makeLiteralTable(literals)) return BAD_LITERAL_CODE;
  if (!makeDistanceTable(LENGTHS + literals, distances)) return BAD_DISTANCE_CODE;
  return decodeSymbols();
}

/** Reads the lengths of `wanted` codes, which are coded themselves. */
function readLengths(wanted: u32): i32 {
  const fromEnd = load<usize>(FROM_END);
  let bits = load<u64>(BIT_BUFFER);
  let count = load<u32>(BIT_COUNT);
  let from = load<usize>(FROM);
  let to = LENGTHS;
  const end = LENGTHS + wanted;
  while (to < end) {
    if (count < 14) {
      bits |= load<u64>(from) << <u64>count;
      from += (63 - count) >> 3;
      count |= 56;
      if (from > fromEnd + 8) return NO_INPUT;
    }
    const entry = load<u32>(LENGTH_TABLE + ((<u32>bits & ((1 << LENGTH_BITS) - 1)) << 2));
    const symbol = entry >> 16;
    bits >>= <u64>entry;
    count -= entry & 63;
    if (symbol < 16) {
      store<u8>(to++, <u8>symbol);
      continue;
    }
    let times: u32;
    if (symbol == 16) {
      if (to == LENGTHS) return from - (count >> 3) > fromEnd ? NO_INPUT : BAD_LENGTHS;
      times = 3 + (<u32>bits & 3);
      bits >>= 2;
      count -= 2;
      store<u64>(to, <u64>load<u8>(to - 1) * 0x0101010101010101);
    } else if (symbol == 17) {
      times = 3 + (<u32>bits & 7);
      bits >>= 3;
      count -= 3;
      v128.store(to, i64x2.splat(0));
    } else {
      times = 11 + (<u32>bits & 127);
      bits >>= 7;
      count -= 7;
      for (let at: u32 = 0; at < times; at += 16) v128.store(to + at, i64x2.splat(0));
    }
    to += times;
  }
  store<u64>(BIT_BUFFER, bits);
  store<u32>(BIT_COUNT, count);
  store<usize>(FROM, from);
  if (isBehind()) return NO_INPUT;
  return to > end ? BAD_LENGTHS : END;
}
