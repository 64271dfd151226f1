/** Finds blocks of zeros in data chunks: what is known to be zero need not be written, stored or sent. */

import type { Transform } from 'node:stream';
import { asBuffer, isZero } from '../bytes.ts';
import type { Chunk, DataChunk } from '../types.ts';
import { chunkTransform } from './transform.ts';

/** The block that most file systems allocate, and the least that can become a hole. */
export const DEFAULT_GRAIN = 4096;

export interface DetectZerosOptions {
  /** Bytes, default 4096. Blocks lie at multiples of it. */
  readonly blockSize?: number;
}

/**
 * A stage that splits data chunks: blocks of zeros become zero chunks. A block is judged whole even where it arrives
 * in several data chunks, so the result does not depend on how the bytes are cut. Zero chunks pass as they are.
 * @throws RangeError when `blockSize` is not a positive integer.
 */
export function detectZeros(options: DetectZerosOptions = {}): Transform {
  const splitter = makeZeroSplitter(options.blockSize ?? DEFAULT_GRAIN);
  return chunkTransform(
    (chunk) => splitter.push(chunk),
    () => splitter.end(),
  );
}

export interface ZeroSplitter {
  push(chunk: Chunk): Iterable<Chunk>;
  end(): Iterable<Chunk>;
}

/** The pure part of `detectZeros`. */
export function makeZeroSplitter(blockSize: number): ZeroSplitter {
  checkBlockSize(blockSize);
  /** The bytes at hand of a block that has begun and may go on in the next chunk. */
  let partial = Buffer.alloc(0);
  let partialOffset = 0;
  let partialLength = 0;

  function* endPartial(): Generator<Chunk> {
    if (partialLength === 0) return;
    const bytes = Buffer.from(partial.subarray(0, partialLength));
    yield* splitRange(
      { kind: 'data', offset: partialOffset, length: partialLength, bytes },
      blockSize,
    );
    partialLength = 0;
  }

  return {
    *push(chunk: Chunk): Generator<Chunk> {
      const goesOn =
        chunk.kind === 'data' &&
        partialLength > 0 &&
        chunk.offset === partialOffset + partialLength;
      if (!goesOn) yield* endPartial();
      if (chunk.kind === 'zero') {
        yield chunk;
        return;
      }
      let from = 0;
      if (goesOn) {
        from = Math.min(chunk.length, blockSize - ((partialOffset + partialLength) % blockSize));
        asBuffer(chunk.bytes).copy(partial, partialLength, 0, from);
        partialLength += from;
        if ((partialOffset + partialLength) % blockSize === 0) yield* endPartial();
      }
      if (from === chunk.length) {
        chunk.release?.();
        return;
      }
      const tail = Math.min(chunk.length - from, (chunk.offset + chunk.length) % blockSize);
      const until = chunk.length - tail;
      if (tail > 0) {
        if (partial.length === 0) partial = Buffer.allocUnsafeSlow(blockSize);
        partialOffset = chunk.offset + until;
        partialLength = tail;
        asBuffer(chunk.bytes).copy(partial, 0, until, chunk.length);
      }
      if (from === 0 && tail === 0) yield* splitRange(chunk, blockSize);
      else if (until === from) chunk.release?.();
      else {
        yield* splitRange(
          {
            ...chunk,
            offset: chunk.offset + from,
            length: until - from,
            bytes: chunk.bytes.subarray(from, until),
          },
          blockSize,
        );
      }
    },
    end: endPartial,
  };
}

/** `chunk` as the longest possible alternating zero and data chunks; the pieces share its buffer. */
function* splitRange(chunk: DataChunk, blockSize: number): Generator<Chunk> {
  const { bytes, offset, length } = chunk;
  const ranges: { kind: 'data' | 'zero'; start: number; end: number }[] = [];
  let dataCount = 0;
  for (let at = 0; at < length;) {
    const end = Math.min(length, at + blockSize - ((offset + at) % blockSize));
    const kind = isZero(bytes, at, end) ? 'zero' : 'data';
    const last = ranges.at(-1);
    if (last?.kind === kind) last.end = end;
    else {
      ranges.push({ kind, start: at, end });
      if (kind === 'data') dataCount++;
    }
    at = end;
  }
  if (dataCount === 0) chunk.release?.();
  if (ranges.length === 1 && dataCount === 1) {
    yield chunk;
    return;
  }
  const { release } = chunk;
  let left = dataCount;
  const releaseOne = (): void => {
    if (--left === 0) release?.();
  };
  for (const { kind, start, end } of ranges) {
    const place = { offset: offset + start, length: end - start };
    if (kind === 'zero') yield { kind, ...place };
    else {
      yield {
        kind,
        ...place,
        bytes: bytes.subarray(start, end),
        release: release && releaseOne,
      };
    }
  }
}

/** @throws RangeError when `blockSize` is not a positive integer. */
export function checkBlockSize(blockSize: number): void {
  if (!Number.isSafeInteger(blockSize) || blockSize < 1) {
    throw new RangeError(`blockSize must be a positive integer of bytes, found ${blockSize}`);
  }
}
