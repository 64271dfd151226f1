/** Counts what passes: how large the disk is, and how much of it is not zero. */

import type { Transform } from 'node:stream';
import { isZero } from '../bytes.ts';
import type { Chunk } from '../types.ts';
import { chunkTransform } from './transform.ts';
import { checkBlockSize } from './zeros.ts';

/** The C tool's default block size: what counts as zero is judged in blocks of it. */
export const DEFAULT_BLOCK_SIZE = 512;

/** What has passed so far, in bytes. */
export interface Totals {
  /** The largest end of a chunk: the disk's size with its zeros, once all has passed. */
  readonly virtualSize: number;
  /** Bytes in blocks that are not all zero. */
  readonly diskSize: number;
}

export interface TallyOptions {
  /** Bytes, default 512. Blocks lie at multiples of it. */
  readonly blockSize?: number;
}

export interface Tally extends Transform {
  /** What has passed so far. */
  readonly totals: Totals;
}

/**
 * A stage that lets chunks pass unchanged and counts them; its `totals` may be read at any time. A block that spans
 * chunks is judged whole, so chunks may be cut anywhere and come in any order, but no byte may come twice.
 * @throws RangeError when `blockSize` is not a positive integer.
 */
export function tally(options: TallyOptions = {}): Tally {
  const counter = makeCounter(options.blockSize ?? DEFAULT_BLOCK_SIZE);
  const stage = chunkTransform((chunk) => {
    counter.count(chunk);
    return [chunk];
  });
  return Object.defineProperty(stage, 'totals', { get: () => counter.totals() }) as Tally;
}

export interface Counter {
  count(chunk: Chunk): void;
  totals(): Totals;
}

/** The pure part of `tally`. Beside the block in hand it remembers the blocks of which only a part has come. */
export function makeCounter(blockSize: number): Counter {
  checkBlockSize(blockSize);
  let virtualSize = 0;
  let diskSize = 0;
  /** The block in hand: how many of its bytes have come, and whether one of them was not zero. */
  let blockStart = 0;
  let blockLength = 0;
  let blockHasData = false;
  /** Other blocks of which a part has come, by their start: so many bytes, negative when one was not zero. */
  const begun = new Map<number, number>();

  const takeInHand = (start: number): void => {
    if (blockLength > 0) begun.set(blockStart, blockHasData ? -blockLength : blockLength);
    const length = begun.get(start) ?? 0;
    begun.delete(start);
    blockStart = start;
    blockLength = Math.abs(length);
    blockHasData = length < 0;
  };
  /** Counts `length` bytes at `offset` that all lie in one block. */
  const pass = (offset: number, length: number, hasData: boolean): void => {
    const start = offset - (offset % blockSize);
    if (start !== blockStart) takeInHand(start);
    if (blockHasData) diskSize += length;
    else if (hasData) diskSize += blockLength + length;
    blockHasData ||= hasData;
    blockLength += length;
    if (blockLength < blockSize) return;
    blockLength = 0;
    blockHasData = false;
  };

  return {
    count(chunk: Chunk): void {
      const { offset, length } = chunk;
      const bytes = chunk.kind === 'data' ? chunk.bytes : undefined;
      const end = offset + length;
      const head = Math.min(length, (blockSize - (offset % blockSize)) % blockSize);
      if (head > 0) pass(offset, head, bytes !== undefined && !isZero(bytes, 0, head));
      const tail = head === length ? 0 : end % blockSize;
      const wholeEnd = length - tail;
      if (bytes !== undefined) {
        for (let at = head; at < wholeEnd; at += blockSize) {
          if (bytes[at] !== 0 || !isZero(bytes, at, at + blockSize)) diskSize += blockSize;
        }
      }
      if (tail > 0) pass(end - tail, tail, bytes !== undefined && !isZero(bytes, wholeEnd, length));
      virtualSize = Math.max(virtualSize, end);
    },
    totals: () => ({ virtualSize, diskSize }),
  };
}
