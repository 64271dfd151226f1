/** The contract of what decodes Zstandard frames, and which implementation this Node gets. */

import type { Run } from '../types.ts';
import type { Place } from './zstd-frame.ts';
import { hasNativeZstd, makeNativeEngine } from './zstd-native.ts';
import { makeWasmEngine } from './zstd-wasm.ts';

/** Decodes frames whose boundaries and limits the caller has found and checked. It verifies content checksums. */
export interface ZstdEngine {
  /**
   * Decodes `frame`, one whole frame at `place`, into `output`. Gives how many bytes came out.
   * @throws SparsecopyError `CORRUPT`, also when `output` is too small.
   */
  decodeFrame(frame: Uint8Array, output: Uint8Array, place: Place): number;
  /** Starts a frame at `place` that comes in parts. One frame at a time, each to be closed. */
  startFrame(place: Place): FrameDecoder;
}

/** A frame that is being decoded. */
export interface FrameDecoder {
  /**
   * Decodes the next bytes of the frame, `parts` in order. What comes out is held in memory, so these should be no
   * more than a few blocks. What the runs hold is the receiver's.
   * @throws SparsecopyError `CORRUPT`, or `LIMIT` for want of memory.
   */
  decode(parts: readonly Uint8Array[]): Promise<Run[]>;
  /** Ends the frame. Gives what was still to come out. Throws as `decode` does, and when the frame is not complete. */
  finish(): Promise<Run[]>;
  /** Lets go of what is held. To be called after `finish`, or instead of it. */
  close(): void;
}

/** Makes an engine with a state of its own: Node's libzstd, or where Node has none that of zstddec. */
export async function makeZstdEngine(): Promise<ZstdEngine> {
  return hasNativeZstd() ? makeNativeEngine() : makeWasmEngine();
}
