/** CRC-64/XZ (ECMA-182, reflected; the .xz format, section 6): bit 0 of a state is the coefficient of x^63. */

import { TABLES } from './_lzma2-memory';

const POLYNOMIAL: u64 = 0xc96c5795d7870f42;

/** 16 tables of 256: the remainder of a byte and of as many zero bytes after it as the number of the table. */
export function makeTables(): void {
  for (let byte: u32 = 0; byte < 256; byte++) {
    let rest: u64 = byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >> 1) ^ (POLYNOMIAL & -(rest & 1));
    store<u64>(TABLES + (byte << 3), rest);
  }
  for (let at: usize = TABLES + 0x800; at < TABLES + 0x8000; at += 8) {
    const rest = load<u64>(at - 0x800);
    store<u64>(at, (rest >> 8) ^ load<u64>(TABLES + (((<usize>rest) & 255) << 3)));
  }
}

/** `state`, the CRC inverted, after `length` bytes at `at`. */
export function crc64(state: u64, at: usize, length: usize): u64 {
  const end = at + length;
  for (; at + 16 <= end; at += 16) {
    const a = state ^ load<u64>(at);
    const b = load<u64>(at, 8);
    state =
      load<u64>(((<usize>a) & 255) << 3, TABLES + 0x7800) ^
      load<u64>(((<usize>(a >> 8)) & 255) << 3, TABLES + 0x7000) ^
      load<u64>(((<usize>(a >> 16)) & 255) << 3, TABLES + 0x6800) ^
      load<u64>(((<usize>(a >> 24)) & 255) << 3, TABLES + 0x6000) ^
      load<u64>(((<usize>(a >> 32)) & 255) << 3, TABLES + 0x5800) ^
      load<u64>(((<usize>(a >> 40)) & 255) << 3, TABLES + 0x5000) ^
      load<u64>(((<usize>(a >> 48)) & 255) << 3, TABLES + 0x4800) ^
      load<u64>((<usize>(a >> 56)) << 3, TABLES + 0x4000) ^
      load<u64>(((<usize>b) & 255) << 3, TABLES + 0x3800) ^
      load<u64>(((<usize>(b >> 8)) & 255) << 3, TABLES + 0x3000) ^
      load<u64>(((<usize>(b >> 16)) & 255) << 3, TABLES + 0x2800) ^
      load<u64>(((<usize>(b >> 24)) & 255) << 3, TABLES + 0x2000) ^
      load<u64>(((<usize>(b >> 32)) & 255) << 3, TABLES + 0x1800) ^
      load<u64>(((<usize>(b >> 40)) & 255) << 3, TABLES + 0x1000) ^
      load<u64>(((<usize>(b >> 48)) & 255) << 3, TABLES + 0x0800) ^
      load<u64>((<usize>(b >> 56)) << 3, TABLES);
  }
  for (; at < end; at++) {
    state = (state >> 8) ^ load<u64>(((<usize>(state ^ load<u8>(at))) & 255) << 3, TABLES);
  }
  return state;
}

/** `state` after `length` zero bytes: times x^(8 * length), in steps that double. */
export function crc64Zeros(state: u64, length: f64): u64 {
  let square: u64 = 0x80000000000000;
  for (let bits = <u64>length; bits != 0; bits >>= 1) {
    if (bits & 1) state = multiply(state, square);
    square = multiply(square, square);
  }
  return state;
}

/** The product of `a` and `b` modulo the polynomial. */
function multiply(a: u64, b: u64): u64 {
  let product: u64 = 0;
  for (; b != 0; b <<= 1) {
    product ^= a & (<u64>((<i64>b) >> 63));
    a = (a >> 1) ^ (POLYNOMIAL & -(a & 1));
  }
  return product;
}
