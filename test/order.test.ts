/** Chunks that come in any order go on in that of the disk, from memory and from the temporary file. */

import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makePool } from '../src/chunk/pool.ts';
import { inOrder, type OrderOptions } from '../src/order.ts';
import type { Chunk } from '../src/types.ts';
import { noise, rejection, tempDir } from './helpers.ts';

const KiB = 1024;

interface Part {
  readonly length: number;
  readonly isZero: boolean;
  /** Where it goes among the others. */
  readonly turn: number;
}

const parts = fc.array(
  fc.record({
    length: fc.integer({ min: 1, max: 20_000 }),
    isZero: fc.boolean(),
    turn: fc.nat(1000),
  }),
  { maxLength: 30 },
);

/** A disk, and its chunks in the order of their turns. */
function chunksOf(all: readonly Part[]): { disk: Buffer; chunks: Chunk[] } {
  const disk = Buffer.concat(
    all.map(({ length, isZero }, at) => (isZero ? Buffer.alloc(length) : noise(length, at + 1))),
  );
  let end = 0;
  const chunks = all.map(({ length, isZero }): Chunk => {
    const offset = end;
    end += length;
    return isZero
      ? { kind: 'zero', offset, length }
      : { kind: 'data', offset, length, bytes: Buffer.from(disk.subarray(offset, end)) };
  });
  const turns = new Map(chunks.map((chunk, at) => [chunk, all[at]?.turn ?? 0]));
  return {
    disk,
    chunks: chunks.sort((a, b) => (turns.get(a) ?? 0) - (turns.get(b) ?? 0)),
  };
}

async function* passing(chunks: readonly Chunk[]): AsyncGenerator<Chunk> {
  for (const chunk of chunks) {
    await Promise.resolve();
    yield chunk;
  }
}

/** All bytes of `chunks`, which must be gapless and ascending. */
async function bytesInOrder(chunks: AsyncIterable<Chunk>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let end = 0;
  for await (const chunk of chunks) {
    expect(chunk.offset).toBe(end);
    end += chunk.length;
    pieces.push(chunk.kind === 'data' ? Buffer.from(chunk.bytes) : Buffer.alloc(chunk.length));
    if (chunk.kind === 'data') chunk.release?.();
  }
  return Buffer.concat(pieces);
}

function limited(parkedSize: number): OrderOptions {
  return { limits: { parkedSize } };
}

describe('inOrder', () => {
  test('puts any order right, in memory or not', async () => {
    await fc.assert(
      fc.asyncProperty(parts, fc.constantFrom(0, 1000, 50_000, 2 ** 26), async (all, limit) => {
        const { disk, chunks } = chunksOf(all);
        const ordered = inOrder(passing(chunks), disk.length, limited(limit));
        expect((await bytesInOrder(ordered.chunks)).equals(disk)).toBe(true);
        expect(ordered.parked.peak).toBeGreaterThanOrEqual(ordered.parked.spooled);
      }),
      { numRuns: 150 },
    );
  });

  test('what is in order goes on at once, as it is', async () => {
    const { disk, chunks } = chunksOf(
      Array.from({ length: 20 }, (_, turn) => ({ length: 5000, isZero: turn % 3 === 0, turn })),
    );
    const ordered = inOrder(passing(chunks), disk.length, limited(0));
    const out: Chunk[] = [];
    for await (const chunk of ordered.chunks) out.push(chunk);
    expect(out).toEqual(chunks);
    expect(out.every((chunk, at) => chunk === chunks[at])).toBe(true);
    expect(ordered.parked).toEqual({ peak: 0, spooled: 0 });
  });

  test('tells what waited, and what of it went to the temporary file', async () => {
    const length = 64 * KiB;
    const all = [3, 1, 2, 0].map((turn) => ({ length, isZero: false, turn }));
    const { disk, chunks } = chunksOf(all);
    const inMemory = inOrder(passing(chunks), disk.length, limited(2 ** 20));
    await bytesInOrder(inMemory.chunks);
    expect(inMemory.parked).toEqual({ peak: 3 * length, spooled: 0 });
    const folder = tempDir();
    const spooled = inOrder(passing(chunks), disk.length, {
      limits: { parkedSize: 2 * length },
      tempDir: folder,
    });
    for await (const chunk of spooled.chunks) {
      expect(chunk.length).toBeGreaterThan(0);
      expect(readdirSync(folder)).toEqual([]);
    }
    expect(spooled.parked.spooled).toBe(3 * length);
    expect(spooled.parked.peak).toBe(3 * length);
  });

  test('gives buffers back that it does not need, and keeps to the limit with many small chunks', async () => {
    const pool = makePool(64 * KiB);
    const size = 4 * 64 * KiB;
    const reversed = async function* (): AsyncGenerator<Chunk> {
      for (let offset = size - KiB; offset >= 0; offset -= KiB) {
        await Promise.resolve();
        const buffer = pool.take();
        buffer.fill(offset / KiB, 0, KiB);
        const bytes = buffer.subarray(0, KiB);
        yield { kind: 'data', offset, length: KiB, bytes, release: () => pool.give(buffer) };
      }
    };
    const ordered = inOrder(reversed(), size, limited(100 * KiB));
    const bytes = await bytesInOrder(ordered.chunks);
    for (let at = 0; at < size; at += KiB) expect(bytes[at]).toBe((at / KiB) % 256);
    expect(ordered.parked.spooled).toBeGreaterThan(0);
    expect(pool.made).toBeLessThan(5);
  });

  test('a chunk that does not come is an error, and no short disk', async () => {
    const { disk, chunks } = chunksOf(
      [0, 1, 2].map((turn) => ({ length: 100, isZero: false, turn })),
    );
    chunks.splice(1, 1);
    const ordered = inOrder(passing(chunks), disk.length, limited(2 ** 20));
    expect((await rejection(bytesInOrder(ordered.chunks))).message).toBe(
      'nothing came for 100, the disk ends at 300',
    );
  });

  test('an error before it passes through', async () => {
    const failing = async function* (): AsyncGenerator<Chunk> {
      yield { kind: 'data', offset: 100, length: 100, bytes: noise(100) };
      await Promise.resolve();
      throw new Error('no more');
    };
    const ordered = inOrder(failing(), 200, limited(0));
    expect((await rejection(bytesInOrder(ordered.chunks))).message).toBe('no more');
  });
});
