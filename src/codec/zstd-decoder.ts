/** Decodes Zstandard frames block by block with the WebAssembly of assembly/zstd.ts: its memory, its calls and its errors. */

import { freshBytes } from '../bytes.ts';
import type { Run } from '../types.ts';
import { instantiate } from './module.ts';
import { wasm as binary } from './wasm/zstd.ts';
import { MAX_BLOCK, RAW, frameError } from './zstd-frame.ts';
import type { BlockHeader, FrameHeader, Place } from './zstd-frame.ts';

/** What assembly/zstd.ts exports: addresses and lengths are in bytes. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  inputArea(): number;
  outputArea(): number;
  startFrame(window: number, blockMaximum: number, hasChecksum: boolean): number;
  decodeBlock(type: number, size: number): number;
  checksum(): number;
  frameArea(): number;
  decodeFrame(length: number, wanted: number, most: number): number;
}

/** Set in the length that `decodeBlock` gives when all of it is zero. */
const ZERO = 2 ** 30;

/** Decoded bytes stay in the memory of the WebAssembly until there are this many. */
const KEPT = 1024 * 1024;

/** What is wrong, by the number that `decodeBlock` gives for it, negated. */
const FAULTS = [
  'cannot be decoded',
  'has damaged literals',
  'has a damaged Huffman tree',
  'has damaged tables of sequences',
  'has damaged sequences',
  'refers to what is before its start or outside its window',
  'has a block that decodes to more than its frame allows',
];

/** Decodes one frame after the other, whose boundaries and limits the caller has found and checked. Nothing in it waits. */
export interface ZstdDecoder {
  /** Decoded bytes that were not taken yet. */
  readonly pending: number;
  /** `pending` is so large that the next block may not fit: take them first. */
  readonly isFull: boolean;
  /**
   * Starts the frame with the header `frame` at `place`, whatever came before.
   * @throws SparsecopyError `LIMIT` for want of memory.
   */
  start(frame: FrameHeader, place: Place): void;
  /**
   * Decodes the next block: `bytes` is its content.
   * @throws SparsecopyError `CORRUPT`; the frame cannot go on then.
   */
  decode(block: BlockHeader, bytes: Uint8Array): void;
  /**
   * Verifies the checksum that `bytes` start with at `at`, if the frame has one, after the last block.
   * @throws SparsecopyError `CORRUPT`.
   */
  finish(bytes: Uint8Array, at: number): void;
  /** Takes what is pending; it is the receiver's, or lent until the next block is decoded. */
  take(): Run[];
  /** Takes what is pending into `output` at `at`, where it must fit. */
  takeInto(output: Uint8Array, at: number): void;
  /**
   * Fills `output` from the one frame that `input` starts with, without a look at its parts from here. False, with nothing changed, when it is
   * not that simple, which may be for something wrong: start it then. `window` is the largest that is allowed.
   */
  decodeWhole(input: Uint8Array, output: Uint8Array, window: number): boolean;
}

/** A piece of what is pending: zeros, or bytes in the memory of the WebAssembly. */
interface Piece {
  readonly isZero: boolean;
  readonly start: number;
  length: number;
}

/** Makes a decoder, whose runs are copies, or `lent`, with a memory of its own: half a MiB, then the window and 1.3 MiB at least, as large as the largest frame needs. */
export function makeZstdDecoder(lent = false): ZstdDecoder {
  const wasm = instantiate<Exports>(binary);
  const input = wasm.inputArea();
  const frameArea = wasm.frameArea();
  let memory = Buffer.from(wasm.memory.buffer);
  let pieces: Piece[] = [];
  let pending = 0;
  let place: Place = { offset: 0 };
  let hasChecksum = false;

  function append(isZero: boolean, start: number, length: number): void {
    pending += length;
    const last = pieces.at(-1);
    if (last?.isZero === isZero && (isZero || last.start + last.length === start)) {
      last.length += length;
    } else {
      pieces.push({ isZero, start, length });
    }
  }

  return {
    get pending(): number {
      return pending;
    },
    get isFull(): boolean {
      return pending > KEPT - MAX_BLOCK;
    },
    start(frame, at): void {
      place = at;
      pieces = [];
      pending = 0;
      hasChecksum = frame.hasChecksum;
      // nothing reaches farther back than to the start
      const window = Math.min(frame.window, frame.contentSize ?? frame.window);
      if (wasm.startFrame(window, frame.blockMaximum, hasChecksum) === 0) {
        throw frameError('LIMIT', 'needs more memory than there is', place);
      }
      if (memory.buffer !== wasm.memory.buffer) memory = Buffer.from(wasm.memory.buffer);
    },
    decode({ type, size }, bytes): void {
      const start = wasm.outputArea();
      memory.set(bytes, type === RAW ? start : input);
      const result = wasm.decodeBlock(type, size);
      if (result < 0) throw frameError('CORRUPT', FAULTS[-result] ?? '', place);
      const isZero = result >= ZERO;
      const length = isZero ? result - ZERO : result;
      if (length > 0) append(isZero, start, length);
    },
    finish(bytes, at): void {
      if (!hasChecksum) return;
      const found = wasm.checksum() >>> 0;
      const expected = Buffer.from(bytes.buffer, bytes.byteOffset + at, 4).readUInt32LE();
      if (found === expected) return;
      throw frameError('CORRUPT', 'does not match its content checksum', place);
    },
    take(): Run[] {
      const runs = pieces.map(({ isZero, start, length }): Run => {
        if (isZero) return { kind: 'zero', length };
        if (lent) return { kind: 'data', bytes: memory.subarray(start, start + length) };
        const bytes = freshBytes(length);
        memory.copy(bytes, 0, start, start + length);
        return { kind: 'data', bytes };
      });
      pieces = [];
      pending = 0;
      return runs;
    },
    takeInto(output, at): void {
      for (const { isZero, start, length } of pieces) {
        if (isZero) output.fill(0, at, at + length);
        else memory.copy(output, at, start, start + length);
        at += length;
      }
      pieces = [];
      pending = 0;
    },
    decodeWhole(packed, output, window): boolean {
      const { length } = output;
      // The memory is as small as can be until the first frame has been started.
      const hasRoom = packed.length <= MAX_BLOCK && length <= KEPT && memory.length >= frameArea;
      if (!hasRoom) return false;
      memory.set(packed, input);
      const isDone = wasm.decodeFrame(packed.length, length, window) !== 0;
      if (memory.buffer !== wasm.memory.buffer) memory = Buffer.from(wasm.memory.buffer);
      if (isDone) memory.copy(output, 0, frameArea, frameArea + length);
      return isDone;
    },
  };
}
