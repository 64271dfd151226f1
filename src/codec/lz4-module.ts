/** The WebAssembly of assembly/lz4.ts: what it exports, and how its memory is laid out. */

import { instantiate } from './module.ts';
import { wasm } from './wasm/lz4.ts';

/** A number that the module exports. */
interface Global {
  readonly value: number;
}

/** Addresses and lengths are in bytes; numbers without a sign come out with one. */
export interface Lz4Module {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  /** Address of two checksum states, `STATE_SIZE` apart. */
  readonly states: Global;
  readonly fault: Global;
  readonly faultAt: Global;
  readonly faultOffset: Global;
  readonly faultReach: Global;
  decode(from: number, length: number, output: number, history: number, maximum: number): number;
  isZero(at: number, length: number): number;
  move(to: number, from: number, length: number): void;
  hashReset(state: number): void;
  hash(state: number, at: number, length: number): void;
  hashZeros(state: number, length: number): void;
  hashDigest(state: number): number;
}

/** Room for one checksum state. */
export const STATE_SIZE = 64;

/** The page of a WebAssembly memory. The first one is the module's own, the rest is free. */
export const PAGE = 65_536;

/** A new instance with a memory of its own of at least `size` bytes. */
export function makeLz4Module(size: number): Lz4Module {
  const module = instantiate<Lz4Module>(wasm);
  ensureSize(module, size);
  return module;
}

/** Makes the memory at least `size` bytes long. Views of it are of no use after that. */
export function ensureSize({ memory }: Lz4Module, size: number): void {
  const missing = size - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
}
