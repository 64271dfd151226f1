/** Computes CRC-64/XZ over bytes that come in parts (in WebAssembly), and over zeros without touching any memory. */

import { instantiate } from './module.ts';
import { wasm } from './wasm/lzma2.ts';

/** A running CRC-64/XZ. */
export interface Crc64 {
  /** Adds all of `bytes`. */
  update(bytes: Uint8Array): void;
  /** Adds `length` zero bytes, in a time that grows with the logarithm of `length`. */
  updateZeros(length: number): void;
  /** The CRC of what was added so far as its low and high 32 bits, unsigned. More can be added after it. */
  digest(): readonly [low: number, high: number];
}

interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  /** Address of `PART` bytes. */
  readonly input: { readonly value: number };
  /** Makes the memory and the tables. */
  startCrc64(): void;
  crc64(state: bigint, at: number, length: number): bigint;
  crc64Zeros(state: bigint, length: number): bigint;
}

/** So many bytes are taken at a time. */
const PART = 64 * 1024;

interface Engine {
  readonly exports: Exports;
  readonly memory: Uint8Array;
}

/** One for all, since it keeps nothing between two calls. */
let engine: Engine | undefined;

function makeEngine(): Engine {
  const exports = instantiate<Exports>(wasm);
  exports.startCrc64();
  return { exports, memory: new Uint8Array(exports.memory.buffer, exports.input.value, PART) };
}

/** A CRC over nothing yet. */
export function makeCrc64(): Crc64 {
  const { exports, memory } = (engine ??= makeEngine());
  let state = -1n;
  return {
    update(bytes): void {
      for (let at = 0; at < bytes.length; at += PART) {
        const part = bytes.subarray(at, at + PART);
        memory.set(part);
        state = exports.crc64(state, exports.input.value, part.length);
      }
    },
    updateZeros(length): void {
      state = exports.crc64Zeros(state, length);
    },
    digest(): readonly [number, number] {
      const crc = BigInt.asUintN(64, ~state);
      return [Number(crc & 0xffffffffn), Number(crc >> 32n)];
    },
  };
}
