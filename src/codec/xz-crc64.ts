/** Computes CRC-64/XZ over bytes that come in parts, and over zeros without touching any memory. */

import { viewOf } from '../bytes.ts';

/** A running CRC-64/XZ. */
export interface Crc64 {
  /** Adds all of `bytes`. */
  update(bytes: Uint8Array): void;
  /** Adds `length` zero bytes; the time it takes does not depend on `length`. */
  updateZeros(length: number): void;
  /** The CRC of what was added so far as its low and high 32 bits, unsigned. More can be added after it. */
  digest(): readonly [low: number, high: number];
}

/*
 * A CRC is the remainder of a polynomial division over GF(2). Both halves of the 64-bit state are 32-bit integers,
 * in the reflected order of the .xz format (section 6): bit 0 is the coefficient of x^63, so a shift to the right
 * multiplies by x. BigInt would allocate for each step.
 */

/** The divisor, ECMA-182, reflected. */
const POLYNOMIAL_LOW = 0xd7870f42 | 0;
const POLYNOMIAL_HIGH = 0xc96c5795 | 0;

/** 1 and x^8, reflected. */
const ONE: Element = [0, 0x80000000 | 0];
const X8: Element = [0, 0x00800000];

/** A polynomial of degree below 64: low and high half. */
type Element = readonly [low: number, high: number];

interface Tables {
  /** `low[256 * n + byte]`, `high[...]`: the remainder of `byte` followed by `n` zero bytes. */
  readonly low: Int32Array;
  readonly high: Int32Array;
}

let made: Tables | undefined;

function makeTables(): Tables {
  const low = new Int32Array(8 * 256);
  const high = new Int32Array(8 * 256);
  for (let at = 0; at < low.length; at++) {
    const previous = at - 256;
    let a = at < 256 ? at : (low[previous] ?? 0);
    let b = at < 256 ? 0 : (high[previous] ?? 0);
    for (let bit = 0; bit < 8; bit++) {
      const carry = -(a & 1);
      a = ((a >>> 1) | (b << 31)) ^ (POLYNOMIAL_LOW & carry);
      b = (b >>> 1) ^ (POLYNOMIAL_HIGH & carry);
    }
    low[at] = a;
    high[at] = b;
  }
  return { low, high };
}

/** The product of `a` and `b` modulo the divisor. */
function multiply(a: Element, b: Element): Element {
  let [factorLow, factorHigh] = a;
  let low = 0;
  let high = 0;
  for (let power = 63; power >= 0; power--) {
    const bit = power >= 32 ? (b[1] >>> (power - 32)) & 1 : (b[0] >>> power) & 1;
    low ^= factorLow & -bit;
    high ^= factorHigh & -bit;
    const carry = -(factorLow & 1);
    factorLow = ((factorLow >>> 1) | (factorHigh << 31)) ^ (POLYNOMIAL_LOW & carry);
    factorHigh = (factorHigh >>> 1) ^ (POLYNOMIAL_HIGH & carry);
  }
  return [low, high];
}

/** x^(8 * length): what `length` zero bytes multiply the state with. */
function powerOfZeros(length: number): Element {
  let result = ONE;
  let square = X8;
  for (let left = length; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

/** Takes `length` bytes of `view` into the state, eight at a time; `length` is a multiple of eight. */
function addWords(state: Int32Array, view: DataView, length: number, { low, high }: Tables): void {
  let a = state[0] ?? 0;
  let b = state[1] ?? 0;
  for (let at = 0; at < length; at += 8) {
    const x = a ^ view.getInt32(at, true);
    const y = b ^ view.getInt32(at + 4, true);
    const i = 1792 + (x & 255);
    const j = 1536 + ((x >>> 8) & 255);
    const k = 1280 + ((x >>> 16) & 255);
    const l = 1024 + (x >>> 24);
    const m = 768 + (y & 255);
    const n = 512 + ((y >>> 8) & 255);
    const o = 256 + ((y >>> 16) & 255);
    const p = y >>> 24;
    a = at32(low, i) ^ at32(low, j) ^ at32(low, k) ^ at32(low, l);
    a ^= at32(low, m) ^ at32(low, n) ^ at32(low, o) ^ at32(low, p);
    b = at32(high, i) ^ at32(high, j) ^ at32(high, k) ^ at32(high, l);
    b ^= at32(high, m) ^ at32(high, n) ^ at32(high, o) ^ at32(high, p);
  }
  state[0] = a;
  state[1] = b;
}

/** An index is always inside the table; `?? 0` would cost a test for each byte. */
function at32(table: Int32Array, index: number): number {
  return table[index] as number;
}

/** A CRC over nothing yet. */
export function makeCrc64(): Crc64 {
  const tables = (made ??= makeTables());
  const state = Int32Array.of(-1, -1);
  /** The last power asked for: a decoder's pieces of zeros are nearly all of one length. */
  let zeros = 0;
  let power = ONE;
  return {
    update(bytes): void {
      const whole = bytes.length & ~7;
      addWords(state, viewOf(bytes), whole, tables);
      let [low = 0, high = 0] = state;
      for (let at = whole; at < bytes.length; at++) {
        const index = (low ^ (bytes[at] ?? 0)) & 255;
        low = ((low >>> 8) | (high << 24)) ^ at32(tables.low, index);
        high = (high >>> 8) ^ at32(tables.high, index);
      }
      state[0] = low;
      state[1] = high;
    },
    updateZeros(length): void {
      if (length !== zeros) {
        zeros = length;
        power = powerOfZeros(length);
      }
      state.set(multiply([state[0] ?? 0, state[1] ?? 0], power));
    },
    digest(): readonly [number, number] {
      return [~(state[0] ?? 0) >>> 0, ~(state[1] ?? 0) >>> 0];
    },
  };
}
