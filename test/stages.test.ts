import { Readable, type Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { flatten } from '../src/chunk/flatten.ts';
import { gather } from '../src/chunk/gather.ts';
import { makePool } from '../src/chunk/pool.ts';
import { readChunks } from '../src/chunk/read.ts';
import { makeCounter, tally } from '../src/chunk/tally.ts';
import { detectZeros } from '../src/chunk/zeros.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { Chunk, Extent, Run, Source } from '../src/types.ts';
import { noise, rejection, watchedSource } from './helpers.ts';

/** Data and zeros in stretches that ignore block boundaries. */
const mixed = fc
  .array(fc.record({ length: fc.integer({ min: 1, max: 3000 }), isZero: fc.boolean() }), {
    maxLength: 12,
  })
  .map((parts) =>
    Buffer.concat(
      parts.map(({ length, isZero }, at) =>
        isZero ? Buffer.alloc(length) : noise(length, at + 1),
      ),
    ),
  );

/** `chunks` in another order, the same for the same `seed`. */
function shuffled(chunks: readonly Chunk[], seed: number): Chunk[] {
  const turns = noise(chunks.length, seed);
  return chunks
    .map((chunk, at) => ({ chunk, turn: turns[at] ?? 0 }))
    .sort((a, b) => a.turn - b.turn)
    .map(({ chunk }) => chunk);
}

/** `bytes` as data chunks cut at the given lengths, over and over. */
function cutUp(bytes: Buffer, lengths: readonly number[]): Chunk[] {
  const chunks: Chunk[] = [];
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const piece = bytes.subarray(at, at + (lengths[turn % lengths.length] ?? 1));
    chunks.push({ kind: 'data', offset: at, length: piece.length, bytes: piece });
    at += piece.length;
  }
  return chunks;
}

async function through(chunks: Iterable<Chunk>, ...stages: Transform[]): Promise<Chunk[]> {
  const out: Chunk[] = [];
  await pipeline([
    Readable.from(chunks, { highWaterMark: 1 }),
    ...stages,
    async (result: AsyncIterable<Chunk>) => {
      for await (const chunk of result) out.push(chunk);
    },
  ] as never);
  return out;
}

function bytesOf(chunks: readonly Chunk[]): Buffer {
  return Buffer.concat(
    chunks.map((chunk) => (chunk.kind === 'data' ? chunk.bytes : Buffer.alloc(chunk.length))),
  );
}

function merged(chunks: readonly Extent[]): Extent[] {
  const out: Extent[] = [];
  for (const { kind, offset, length } of chunks) {
    const last = out.at(-1);
    if (last?.kind === kind && last.offset + last.length === offset) {
      out[out.length - 1] = { ...last, length: last.length + length };
    } else out.push({ kind, offset, length });
  }
  return out;
}

/** The extents that blocks of `blockSize` have, by looking at each. */
function expectedExtents(bytes: Buffer, blockSize: number): Extent[] {
  const extents: Extent[] = [];
  for (let at = 0; at < bytes.length; at += blockSize) {
    const block = bytes.subarray(at, at + blockSize);
    const kind = block.every((byte) => byte === 0) ? 'zero' : 'data';
    extents.push({ kind, offset: at, length: block.length });
  }
  return merged(extents);
}

describe('detectZeros', () => {
  test('finds the same blocks however the bytes are cut, and changes none', async () => {
    await fc.assert(
      fc.asyncProperty(
        mixed,
        fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }),
        fc.constantFrom(1, 7, 512, 1000, 4096),
        async (bytes, lengths, blockSize) => {
          const out = await through(cutUp(bytes, lengths), detectZeros({ blockSize }));
          expect(bytesOf(out).equals(bytes)).toBe(true);
          expect(merged(out)).toEqual(expectedExtents(bytes, blockSize));
        },
      ),
      { numRuns: 150 },
    );
  });

  test('keeps the bytes in their places, whatever the order of the chunks', async () => {
    await fc.assert(
      fc.asyncProperty(
        mixed,
        fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }),
        fc.constantFrom(512, 1000, 4096),
        fc.nat(),
        async (bytes, lengths, blockSize, seed) => {
          const chunks = shuffled(cutUp(bytes, lengths), seed);
          const out = await through(chunks, detectZeros({ blockSize }));
          out.sort((a, b) => a.offset - b.offset);
          let end = 0;
          for (const { offset, length } of out) {
            expect(offset).toBe(end);
            end += length;
          }
          expect(bytesOf(out).equals(bytes)).toBe(true);
          // a block that comes as a whole is judged as a whole
          const wholeZeros = chunks.flatMap(({ offset, length }) => {
            const start = Math.ceil(offset / blockSize) * blockSize;
            const stop = Math.floor((offset + length) / blockSize) * blockSize;
            return expectedExtents(bytes.subarray(start, Math.max(start, stop)), blockSize)
              .filter(({ kind }) => kind === 'zero')
              .map((extent) => ({ start: start + extent.offset, length: extent.length }));
          });
          const zeros = merged(out).filter(({ kind }) => kind === 'zero');
          for (const { start, length } of wholeZeros) {
            const isFound = zeros.some(
              (zero) => zero.offset <= start && start + length <= zero.offset + zero.length,
            );
            expect(isFound, `zeros from ${start}`).toBe(true);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test('releases a buffer once, when its last piece is released', async () => {
    const bytes = Buffer.concat([noise(512), Buffer.alloc(512), noise(512), Buffer.alloc(512)]);
    let released = 0;
    const chunk: Chunk = {
      kind: 'data',
      offset: 0,
      length: bytes.length,
      bytes,
      release: () => released++,
    };
    const pieces = await through([chunk], detectZeros({ blockSize: 512 }));
    const data = pieces.filter((piece) => piece.kind === 'data');
    expect(data).toHaveLength(2);
    data[0]?.release?.();
    expect(released).toBe(0);
    data[1]?.release?.();
    expect(released).toBe(1);
  });

  test('releases a buffer of zeros at once', async () => {
    let released = 0;
    const bytes = Buffer.alloc(8192);
    const release = (): number => released++;
    await through([{ kind: 'data', offset: 0, length: 8192, bytes, release }], detectZeros());
    expect(released).toBe(1);
  });

  test('refuses block sizes that are none', () => {
    for (const blockSize of [0, -1, 1.5, NaN, Infinity]) {
      expect(() => detectZeros({ blockSize })).toThrow(RangeError);
    }
  });
});

describe('tally', () => {
  test('counts blocks whole, however the bytes are cut and whatever is known to be zero', async () => {
    await fc.assert(
      fc.asyncProperty(
        mixed,
        fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }),
        fc.constantFrom(1, 7, 512, 1000, 4096),
        fc.constantFrom(1, 100, 512, 4096),
        async (bytes, lengths, blockSize, grain) => {
          const counter = tally({ blockSize });
          await through(cutUp(bytes, lengths), detectZeros({ blockSize: grain }), counter);
          const data = expectedExtents(bytes, blockSize)
            .filter(({ kind }) => kind === 'data')
            .reduce((sum, { length }) => sum + length, 0);
          expect(counter.totals).toEqual({ virtualSize: bytes.length, diskSize: data });
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('tally of chunks in any order', () => {
  test('counts what it counts in that of the disk', async () => {
    await fc.assert(
      fc.asyncProperty(
        mixed,
        fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }),
        fc.constantFrom(1, 7, 512, 1000, 4096, 65_536),
        fc.constantFrom(undefined, 100, 512, 4096),
        fc.nat(),
        async (bytes, lengths, blockSize, grain, seed) => {
          const chunks = shuffled(cutUp(bytes, lengths), seed);
          const counter = tally({ blockSize });
          const stages = grain === undefined ? [] : [detectZeros({ blockSize: grain })];
          await through(chunks, ...stages, counter);
          const data = expectedExtents(bytes, blockSize)
            .filter(({ kind }) => kind === 'data')
            .reduce((sum, { length }) => sum + length, 0);
          expect(counter.totals).toEqual({ virtualSize: bytes.length, diskSize: data });
        },
      ),
      { numRuns: 150 },
    );
  });

  test('tells at any time what is known', () => {
    const counter = makeCounter(1000);
    const count = (offset: number, length: number, value: number): unknown => {
      const bytes = Buffer.alloc(length, value);
      counter.count({ kind: 'data', offset, length, bytes });
      return counter.totals();
    };
    expect(count(2500, 100, 0)).toEqual({ virtualSize: 2600, diskSize: 0 });
    expect(count(0, 500, 1)).toEqual({ virtualSize: 2600, diskSize: 500 });
    // the rest of a block that has begun counts, whatever it is, and so does what came of it before
    expect(count(2600, 400, 1)).toEqual({ virtualSize: 3000, diskSize: 1000 });
    expect(count(500, 1500, 0)).toEqual({ virtualSize: 3000, diskSize: 1500 });
    counter.count({ kind: 'zero', offset: 2000, length: 500 });
    expect(counter.totals()).toEqual({ virtualSize: 3000, diskSize: 2000 });
  });
});

describe('gather', () => {
  test('gives the bytes of the runs, aligned, whatever the pieces', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            length: fc.integer({ min: 1, max: 700_000 }),
            isZero: fc.boolean(),
          }),
          { maxLength: 8 },
        ),
        async (parts) => {
          const runs: Run[] = parts.map(({ length, isZero }, at) =>
            isZero ? { kind: 'zero', length } : { kind: 'data', bytes: noise(length, at + 1) },
          );
          const whole = Buffer.concat(
            runs.map((run) => (run.kind === 'data' ? run.bytes : Buffer.alloc(run.length))),
          );
          const out: Chunk[] = [];
          for await (const chunk of gather(Readable.from(runs))) {
            expect(chunk.offset % 4096).toBe(0);
            out.push(chunk.kind === 'data' ? { ...chunk, bytes: Buffer.from(chunk.bytes) } : chunk);
          }
          expect(bytesOf(out).equals(whole)).toBe(true);
        },
      ),
      { numRuns: 40 },
    );
  });

  test('does not wait for more than was asked for', async () => {
    let asked = 0;
    async function* runs(): AsyncGenerator<Run> {
      for (;;) {
        await Promise.resolve();
        asked++;
        yield { kind: 'data', bytes: noise(512) };
      }
    }
    let length = 0;
    for await (const chunk of gather(runs(), makePool(), 1024)) length += chunk.length;
    expect(length).toBe(1024);
    expect(asked).toBe(2);
  });
});

describe('flatten', () => {
  test('makes the zeros again', async () => {
    const bytes = Buffer.concat([noise(5000), Buffer.alloc(300_000), noise(100)]);
    const pieces: Buffer[] = [];
    await pipeline(
      Readable.from(cutUp(bytes, [70_000])),
      detectZeros(),
      flatten(),
      async (result: AsyncIterable<Buffer>) => {
        for await (const piece of result) pieces.push(piece);
      },
    );
    expect(Buffer.concat(pieces).equals(bytes)).toBe(true);
  });

  test('refuses chunks out of order', async () => {
    const chunk: Chunk = { kind: 'zero', offset: 512, length: 512 };
    const error = await rejection(through([chunk], flatten()));
    expect(error.code).toBe('UNSUPPORTED');
  });
});

describe('readChunks', () => {
  const bytes = noise(3 * 2 ** 20 + 12345);

  test('reads each byte once, in order, with no more buffers than reads in flight', async () => {
    const source = watchedSource(bufferSource(bytes));
    const pool = makePool(2 ** 16);
    const out: Buffer[] = [];
    for await (const chunk of readChunks(source, { pool, depth: 3 })) {
      if (chunk.kind !== 'data') throw new Error('expected data');
      out.push(Buffer.from(chunk.bytes));
      chunk.release?.();
    }
    expect(Buffer.concat(out).equals(bytes)).toBe(true);
    expect(source.bytes).toBe(bytes.length);
    expect(pool.made).toBeLessThanOrEqual(4);
  });

  test('a failing read surfaces at its turn, for every read, and nothing is left unhandled', async () => {
    const pool = makePool(2 ** 20);
    for (let failAt = 0; ; failAt++) {
      const source = watchedSource(bufferSource(bytes), failAt);
      const work = (async (): Promise<number> => {
        let length = 0;
        for await (const chunk of readChunks(source, { pool, depth: 3 })) length += chunk.length;
        return length;
      })();
      if (failAt < 4) expect((await rejection(work)).code).toBe('EIO');
      else {
        expect(await work).toBe(bytes.length);
        return;
      }
    }
  });

  test('does not read zero extents', async () => {
    const holes: Source = {
      ...bufferSource(bytes),
      // eslint-disable-next-line @typescript-eslint/require-await -- the contract is an async iterable
      async *extents() {
        yield { kind: 'zero', offset: 0, length: 2 ** 40 };
        yield { kind: 'data', offset: 2 ** 40, length: 10 };
      },
      size: 2 ** 40 + 10,
      read: (into) => {
        into.fill(7);
        return Promise.resolve();
      },
    };
    const source = watchedSource(holes);
    const out: Chunk[] = [];
    for await (const chunk of readChunks(source)) out.push(chunk);
    expect(merged(out)).toEqual([
      { kind: 'zero', offset: 0, length: 2 ** 40 },
      { kind: 'data', offset: 2 ** 40, length: 10 },
    ]);
    expect(source.bytes).toBe(10);
  });

  test('a reader that stops early leaves no read behind', async () => {
    const source = watchedSource(bufferSource(bytes));
    for await (const chunk of readChunks(source, { depth: 2 })) {
      expect(chunk.offset).toBe(0);
      break;
    }
    expect(source.reads).toBeLessThanOrEqual(3);
  });
});
