/** Computes XXH32, the checksum of LZ4 frames, over bytes that come in parts. */

import { viewOf } from '../bytes.ts';

/** A running XXH32 with seed 0, as LZ4 frames use it. */
export interface Xxh32 {
  /** Adds all of `bytes`. */
  update(bytes: Uint8Array): void;
  /** Adds `length` zero bytes without reading any memory. */
  updateZeros(length: number): void;
  /** The hash of what was added so far, as an unsigned 32-bit number. More can be added after it. */
  digest(): number;
}

// The five primes of the algorithm (xxHash specification, "XXH32 algorithm description").
const PRIME1 = 0x9e3779b1 | 0;
const PRIME2 = 0x85ebca77 | 0;
const PRIME3 = 0xc2b2ae3d | 0;
const PRIME4 = 0x27d4eb2f | 0;
const PRIME5 = 0x165667b1 | 0;

/** Bytes that one round of the four accumulators takes. */
const STRIPE = 16;

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

// The two loops below take all the time. They read the primes from constants of their own, and repeat the round
// instead of calling it: a bundler makes variables of module constants, which alone halves the speed.

/** Takes the whole stripes of `view` from `start` to `end` into the four accumulators. */
function addStripes(accumulators: Int32Array, view: DataView, start: number, end: number): void {
  const prime1 = PRIME1 | 0;
  const prime2 = PRIME2 | 0;
  let a = (accumulators[0] ?? 0) | 0;
  let b = (accumulators[1] ?? 0) | 0;
  let c = (accumulators[2] ?? 0) | 0;
  let d = (accumulators[3] ?? 0) | 0;
  for (let at = start; at < end; at += 16) {
    a = (a + Math.imul(view.getInt32(at, true), prime2)) | 0;
    b = (b + Math.imul(view.getInt32(at + 4, true), prime2)) | 0;
    c = (c + Math.imul(view.getInt32(at + 8, true), prime2)) | 0;
    d = (d + Math.imul(view.getInt32(at + 12, true), prime2)) | 0;
    a = Math.imul((a << 13) | (a >>> 19), prime1);
    b = Math.imul((b << 13) | (b >>> 19), prime1);
    c = Math.imul((c << 13) | (c >>> 19), prime1);
    d = Math.imul((d << 13) | (d >>> 19), prime1);
  }
  accumulators[0] = a;
  accumulators[1] = b;
  accumulators[2] = c;
  accumulators[3] = d;
}

/** Takes `count` stripes of zeros into the four accumulators. */
function addZeroStripes(accumulators: Int32Array, count: number): void {
  const prime1 = PRIME1 | 0;
  let a = (accumulators[0] ?? 0) | 0;
  let b = (accumulators[1] ?? 0) | 0;
  let c = (accumulators[2] ?? 0) | 0;
  let d = (accumulators[3] ?? 0) | 0;
  for (let stripe = 0; stripe < count; stripe++) {
    a = Math.imul((a << 13) | (a >>> 19), prime1);
    b = Math.imul((b << 13) | (b >>> 19), prime1);
    c = Math.imul((c << 13) | (c >>> 19), prime1);
    d = Math.imul((d << 13) | (d >>> 19), prime1);
  }
  accumulators[0] = a;
  accumulators[1] = b;
  accumulators[2] = c;
  accumulators[3] = d;
}

/** A new XXH32 of nothing. */
export function makeXxh32(): Xxh32 {
  const accumulators = Int32Array.of(PRIME1 + PRIME2, PRIME2, 0, -PRIME1);
  /** Bytes added, modulo 2^32: all that the algorithm wants of it, besides `striped`. */
  let total = 0;
  /** True once a stripe was complete: the accumulators count only then. */
  let striped = false;
  const rest = new Uint8Array(STRIPE);
  const restView = viewOf(rest);
  let held = 0;

  function update(bytes: Uint8Array): void {
    total = (total + bytes.length) | 0;
    let at = 0;
    if (held > 0) {
      at = Math.min(STRIPE - held, bytes.length);
      rest.set(bytes.subarray(0, at), held);
      held += at;
      if (held < STRIPE) return;
      addStripes(accumulators, restView, 0, STRIPE);
      striped = true;
    }
    const end = bytes.length - ((bytes.length - at) % STRIPE);
    if (end > at) {
      addStripes(accumulators, viewOf(bytes), at, end);
      striped = true;
    }
    rest.set(bytes.subarray(end));
    held = bytes.length - end;
  }

  return {
    update,
    updateZeros(length): void {
      const first = Math.min(length, (STRIPE - held) % STRIPE);
      update(new Uint8Array(first));
      const count = Math.floor((length - first) / STRIPE);
      if (count > 0) {
        addZeroStripes(accumulators, count);
        striped = true;
        total = (total + count * STRIPE) | 0;
      }
      update(new Uint8Array(length - first - count * STRIPE));
    },
    digest(): number {
      let hash = PRIME5;
      if (striped) {
        const [a = 0, b = 0, c = 0, d = 0] = accumulators;
        hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
      }
      hash = (hash + total) | 0;
      let at = 0;
      for (; at + 4 <= held; at += 4) {
        hash = (hash + Math.imul(restView.getInt32(at, true), PRIME3)) | 0;
        hash = Math.imul(rotate(hash, 17), PRIME4);
      }
      for (const byte of rest.subarray(at, held)) {
        hash = (hash + Math.imul(byte, PRIME5)) | 0;
        hash = Math.imul(rotate(hash, 11), PRIME1);
      }
      hash = Math.imul(hash ^ (hash >>> 15), PRIME2);
      hash = Math.imul(hash ^ (hash >>> 13), PRIME3);
      return (hash ^ (hash >>> 16)) >>> 0;
    },
  };
}
