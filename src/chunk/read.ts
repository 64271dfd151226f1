/** A Source as chunks in disk order: data extents are read several reads ahead, zero extents are not read at all. */

import { alignDown } from '../bytes.ts';
import type { Chunk, ChunkPool, Extent, Source, ZeroChunk } from '../types.ts';
import { BUFFER_SIZE } from './pool.ts';

/** Chunks looked after at once. Measured: 4 beats 1 by a third on a file copy; zeros between reads take places too. */
const READ_DEPTH = 6;

export interface ReadOptions {
  /** Where buffers come from; without one each chunk has a buffer of its own that is left to the collector. */
  readonly pool?: ChunkPool | undefined;
  /** Chunks in flight, default `READ_DEPTH`. */
  readonly depth?: number;
  /** End of the range to read (exclusive), default the size of the source. */
  readonly end?: number;
}

/**
 * The chunks of `source` from 0 to `end`, ascending and gapless. Data chunks are at most one buffer long and, but for
 * the ends of extents, start at multiples of it, so that a read never cuts a cluster in two.
 */
export async function* readChunks(
  source: Source,
  options: ReadOptions = {},
): AsyncGenerator<Chunk, void, void> {
  const depth = options.depth ?? READ_DEPTH;
  const end = Math.min(options.end ?? source.size, source.size);
  const queue: Promise<Chunk>[] = [];
  try {
    for await (const piece of pieces(source, end, options.pool?.bufferSize ?? BUFFER_SIZE)) {
      const chunk =
        piece.kind === 'zero' ? Promise.resolve(piece) : readOne(source, piece, options.pool);
      // A read ahead may fail while nobody waits for it; whoever comes to its turn gets the error.
      chunk.catch(() => undefined);
      queue.push(chunk);
      if (queue.length >= depth) yield await (queue.shift() as Promise<Chunk>);
    }
    for (let chunk = queue.shift(); chunk !== undefined; chunk = queue.shift()) yield await chunk;
  } finally {
    // Nothing may still be reading when the source is closed.
    await Promise.allSettled(queue);
  }
}

/** The extents from 0 to `end`, data extents cut at multiples of `length`. */
async function* pieces(
  source: Source,
  end: number,
  length: number,
): AsyncGenerator<ZeroChunk | (Extent & { kind: 'data' })> {
  for await (const { kind, offset, length: extentLength } of source.extents(0, end)) {
    if (kind === 'zero') {
      yield { kind, offset, length: extentLength };
      continue;
    }
    const extentEnd = offset + extentLength;
    for (let at = offset; at < extentEnd;) {
      const next = Math.min(extentEnd, alignDown(at, length) + length);
      yield { kind, offset: at, length: next - at };
      at = next;
    }
  }
}

async function readOne(source: Source, piece: Extent, pool: ChunkPool | undefined): Promise<Chunk> {
  const { offset, length } = piece;
  const buffer = pool?.take() ?? Buffer.allocUnsafeSlow(length);
  const bytes = buffer.subarray(0, length);
  try {
    await source.read(bytes, offset);
  } catch (error) {
    pool?.give(buffer);
    throw error;
  }
  return pool === undefined
    ? { kind: 'data', offset, length, bytes }
    : { kind: 'data', offset, length, bytes, release: () => pool.give(buffer) };
}
