/** Computes XXH32, the checksum of LZ4 frames, over bytes that come in parts. */

import { makeLz4Module, PAGE, STATE_SIZE, type Lz4Module } from './lz4-module.ts';

/** A running XXH32 with seed 0, as LZ4 frames use it. */
export interface Xxh32 {
  /** Adds all of `bytes`. */
  update(bytes: Uint8Array): void;
  /** Adds `length` zero bytes without reading any memory. */
  updateZeros(length: number): void;
  /** The hash of what was added so far, as an unsigned 32-bit number. More can be added after it. */
  digest(): number;
}

/** Bytes that go into the module at a time: they stay in the processor's cache. */
const PART = 65_536;

/** Zeros that the module takes at a time: its numbers have 32 bits. */
const MANY = 2 ** 30;

/** The module, and the memory of it: one for all hashes of a thread, none is left in it between two calls. */
interface Hasher {
  readonly module: Lz4Module;
  readonly state: number;
  readonly memory: Uint8Array;
}

let shared: Hasher | undefined;

function hasher(): Hasher {
  if (shared === undefined) {
    const module = makeLz4Module(PAGE + PART);
    const memory = new Uint8Array(module.memory.buffer);
    shared = { module, memory, state: module.states.value };
  }
  return shared;
}

/** A new XXH32 of nothing. */
export function makeXxh32(): Xxh32 {
  const { module, state, memory } = hasher();
  module.hashReset(state);
  const kept = memory.slice(state, state + STATE_SIZE);
  return {
    update(bytes): void {
      memory.set(kept, state);
      for (let at = 0; at < bytes.length; at += PART) {
        const part = bytes.subarray(at, at + PART);
        memory.set(part, PAGE);
        module.hash(state, PAGE, part.length);
      }
      kept.set(memory.subarray(state, state + STATE_SIZE));
    },
    updateZeros(length): void {
      memory.set(kept, state);
      for (let left = length; left > 0; left -= MANY) {
        module.hashZeros(state, Math.min(left, MANY));
      }
      kept.set(memory.subarray(state, state + STATE_SIZE));
    },
    digest(): number {
      memory.set(kept, state);
      return module.hashDigest(state) >>> 0;
    },
  };
}
