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
  /** End of the last chunk in the disk: the disk's size with its zeros, once all has passed. */
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
 * chunks is judged whole, so chunks may be cut anywhere, but they must come in ascending order.
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

/** The pure part of `tally`. */
export function makeCounter(blockSize: number): Counter {
  checkBlockSize(blockSize);
  let virtualSize = 0;
  let diskSize = 0;
  /** Of the block that has begun: its bytes that have passed, and whether one of them was not zero. */
  let blockLength = 0;
  let blockHasData = false;

  /** Counts `length` bytes that all lie in one block. */
  const pass = (length: number, hasData: boolean): void => {
    blockLength += length;
    virtualSize += length;
    blockHasData ||= hasData;
    if (virtualSize % blockSize === 0) endBlock();
  };
  const endBlock = (): void => {
    if (blockHasData) diskSize += blockLength;
    blockLength = 0;
    blockHasData = false;
  };

  return {
    count(chunk: Chunk): void {
      if (chunk.offset !== virtualSize) {
        // A gap, or a jump: what is known of the block in hand is all that will be known.
        endBlock();
        virtualSize = chunk.offset;
      }
      const end = chunk.offset + chunk.length;
      const bytes = chunk.kind === 'data' ? chunk.bytes : undefined;
      const head = Math.min(chunk.length, (blockSize - (chunk.offset % blockSize)) % blockSize);
      if (head > 0) pass(head, bytes !== undefined && !isZero(bytes, 0, head));
      const tail = head === chunk.length ? 0 : end % blockSize;
      const wholeEnd = chunk.length - tail;
      if (bytes !== undefined) {
        for (let at = head; at < wholeEnd; at += blockSize) {
          if (bytes[at] !== 0 || !isZero(bytes, at, at + blockSize)) diskSize += blockSize;
        }
      }
      virtualSize += wholeEnd - head;
      if (tail > 0) pass(tail, bytes !== undefined && !isZero(bytes, wholeEnd, chunk.length));
    },
    totals: () => ({ virtualSize, diskSize: diskSize + (blockHasData ? blockLength : 0) }),
  };
}
