/** Chunks in any order put into that of the disk: what comes early waits, in memory or in a temporary file. */

import { ftruncate } from 'node:fs';
import { promisify } from 'node:util';
import { readChunks } from './chunk/read.ts';
import type { Limits } from './limits.ts';
import { fileSource } from './source/file.ts';
import { openTemporary, type TemporaryFile } from './spool.ts';
import type { Chunk, ChunkPool, Parked } from './types.ts';

const truncate = promisify(ftruncate);

/** What a chunk costs besides its bytes while it waits; zero chunks cost nothing else. */
const CHUNK_COST = 256;

export interface OrderOptions {
  /** `parkedSize`: what waits in memory. */
  readonly limits: Pick<Limits, 'parkedSize'>;
  /** Folder for the temporary file; default the system's. */
  readonly tempDir?: string | undefined;
  /** Where buffers come from for what has been in the temporary file. */
  readonly pool?: ChunkPool | undefined;
}

/**
 * `chunks`, which have each byte of a disk of `size` bytes once, ascending and without gaps. They go on as soon as nothing
 * is missing before them. When more than `limits.parkedSize` waits, all that waits and all that is still to come early goes
 * to a sparse temporary file, from which the rest is read at the end: `parked` tells of it.
 */
export function inOrder(
  chunks: AsyncIterable<Chunk>,
  size: number,
  options: OrderOptions,
): { chunks: AsyncIterable<Chunk>; parked: Parked } {
  const parked = { peak: 0, spooled: 0 };
  return { chunks: ordered(chunks, size, options, parked), parked };
}

async function* ordered(
  chunks: AsyncIterable<Chunk>,
  size: number,
  { limits, tempDir, pool }: OrderOptions,
  parked: { peak: number; spooled: number },
): AsyncGenerator<Chunk, void, void> {
  /** By offset. */
  const waiting = new Map<number, Chunk>();
  /** Bytes of `waiting`, and what it costs in all. */
  let length = 0;
  let cost = 0;
  let next = 0;
  let file: TemporaryFile | undefined;

  const store = async ({ writer }: TemporaryFile, chunk: Chunk): Promise<void> => {
    if (chunk.kind === 'zero') return;
    parked.spooled += chunk.length;
    parked.peak = Math.max(parked.peak, parked.spooled);
    await writer.write(chunk.bytes, chunk.offset, chunk.release);
  };

  try {
    for await (const chunk of chunks) {
      if (chunk.offset === next) {
        next += chunk.length;
        yield chunk;
        for (let early = waiting.get(next); early !== undefined; early = waiting.get(next)) {
          waiting.delete(next);
          cost -= costOf(early);
          if (early.kind === 'data') length -= early.length;
          next += early.length;
          yield early;
        }
      } else if (file !== undefined) await store(file, chunk);
      else {
        const kept = compact(chunk);
        waiting.set(kept.offset, kept);
        cost += costOf(kept);
        if (kept.kind === 'data') length += kept.length;
        parked.peak = Math.max(parked.peak, length);
        if (cost <= limits.parkedSize) continue;
        file = await openTemporary(tempDir);
        for (const early of waiting.values()) await store(file, early);
        waiting.clear();
      }
    }
    if (file === undefined) {
      if (next !== size) throw new RangeError(`nothing came for ${next}, the disk ends at ${size}`);
    } else {
      await file.writer.drain();
      await truncate(file.fd, size);
      const { fd } = file;
      // It is closed here, not by its Source.
      const source = await fileSource(fd, 'temporary file', () => Promise.resolve());
      const start = next;
      const rest = { ...source, extents: () => source.extents(start, size) };
      yield* readChunks(rest, { pool });
    }
  } finally {
    await file?.close();
  }
}

function costOf(chunk: Chunk): number {
  return CHUNK_COST + (chunk.kind === 'zero' ? 0 : chunk.bytes.buffer.byteLength);
}

/** `chunk`, not holding on to a buffer of which it needs but a small part. */
function compact(chunk: Chunk): Chunk {
  if (chunk.kind === 'zero' || chunk.length * 2 > chunk.bytes.buffer.byteLength) return chunk;
  const { kind, offset, length } = chunk;
  const bytes = Buffer.allocUnsafeSlow(length);
  bytes.set(chunk.bytes);
  chunk.release?.();
  return { kind, offset, length, bytes };
}
