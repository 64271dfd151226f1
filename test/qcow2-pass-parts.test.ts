/** The parts of the reader in one pass: what lies first, the bytes at hand, and chunks put together. */

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makePool } from '../src/chunk/pool.ts';
import { makeAssembly, type Assembly } from '../src/format/qcow2/assembly.ts';
import { makePending } from '../src/format/qcow2/pending.ts';
import type { CompressedRun, PlainRun } from '../src/format/qcow2/runs.ts';
import { makeWindow } from '../src/format/qcow2/window.ts';
import type { Run } from '../src/types.ts';
import { noise, rejection } from './helpers.ts';

const KiB = 1024;

describe('pending', () => {
  const run = fc.record({
    offset: fc.integer({ min: 0, max: 2 ** 44 }),
    length: fc.integer({ min: 2, max: 2 ** 40 }),
    hostOffset: fc.integer({ min: 1, max: 2 ** 52 }),
    hostLength: fc.option(fc.integer({ min: 1, max: 2 ** 22 })),
  });
  const asRun = ({
    hostLength,
    ...rest
  }: {
    offset: number;
    length: number;
    hostOffset: number;
    hostLength: number | null;
  }): PlainRun | CompressedRun =>
    hostLength === null ? { kind: 'plain', ...rest } : { kind: 'compressed', ...rest, hostLength };

  test('gives the run that lies first, whatever is taken off it', () => {
    fc.assert(
      fc.property(fc.array(run, { maxLength: 300 }), fc.nat(3), (records, turn) => {
        const pending = makePending();
        const left = records.map(asRun);
        for (const one of left) pending.push(one);
        expect(new Set(pending.all())).toEqual(new Set(left));
        for (let step = turn; left.length > 0; step++) {
          expect(pending.count).toBe(left.length);
          left.sort((a, b) => a.hostOffset - b.hostOffset);
          const first = pending.first();
          expect(pending.hostOffset).toBe(left[0]?.hostOffset);
          const at = left.findIndex((one) => one.offset === first.offset);
          expect(left[at]).toEqual(first);
          if (first.kind === 'plain' && step % 3 === 0 && first.length > 1) {
            const taken = Math.floor(first.length / 2);
            pending.shorten(taken);
            const { offset, length, hostOffset } = first;
            left[at] = {
              kind: 'plain',
              offset: offset + taken,
              length: length - taken,
              hostOffset: hostOffset + taken,
            };
          } else {
            pending.pop();
            left.splice(at, 1);
          }
        }
        expect(pending.hostOffset).toBe(Infinity);
      }),
      { numRuns: 60 },
    );
  });

  test('knows what a run was before', () => {
    const pending = makePending();
    const plain: PlainRun = { kind: 'plain', offset: 512, length: 1000, hostOffset: 4096 };
    pending.push(plain);
    pending.shorten(300);
    pending.shorten(300);
    expect(pending.first()).toEqual({ ...plain, offset: 1112, length: 400, hostOffset: 4696 });
    expect([...pending.all()]).toEqual([plain]);
  });
});

describe('window', () => {
  test('has the bytes from where it starts to where it ends, whatever the pieces', () => {
    const piece = fc.oneof(fc.integer({ min: 1, max: 40_000 }), fc.integer({ min: 1, max: 300 }));
    fc.assert(
      fc.property(
        fc.array(fc.record({ length: piece, isZero: fc.boolean(), back: fc.nat(50_000) }), {
          maxLength: 60,
        }),
        (all) => {
          const file = Buffer.concat(
            all.map(({ length, isZero }, at) =>
              isZero ? Buffer.alloc(length) : noise(length, at + 1),
            ),
          );
          const window = makeWindow();
          let end = 0;
          let kept = 0;
          for (const { length, isZero, back } of all) {
            const given: Run = isZero
              ? { kind: 'zero', length }
              : { kind: 'data', bytes: Buffer.from(file.subarray(end, end + length)) };
            window.push(given);
            end += length;
            expect(window.end).toBe(end);
            kept = Math.max(kept, end - back);
            window.discard(kept);
            expect(window.start).toBeLessThanOrEqual(kept);
            const into = Buffer.alloc(end - kept, 0xa5);
            window.copy(into, kept);
            expect(into.equals(file.subarray(kept, end))).toBe(true);
            if (kept < end) expect(window.slice(kept, end).equals(into)).toBe(true);
            for (let at = window.start; at < end;) {
              const found = window.pieceAt(at);
              const bytes = found.bytes ?? Buffer.alloc(found.length);
              expect(bytes.equals(file.subarray(found.offset, found.offset + found.length))).toBe(
                true,
              );
              expect(found.offset).toBe(at);
              at += found.length;
            }
          }
        },
      ),
      { numRuns: 80 },
    );
  });

  test('does not change what was cut out of it', () => {
    const window = makeWindow();
    const cut: Buffer[] = [];
    const file = noise(300 * KiB);
    for (let at = 0; at < file.length; at += 100) {
      window.push({ kind: 'data', bytes: file.subarray(at, at + 100) });
      cut.push(
        window.pieceAt(at).bytes?.subarray(at - window.pieceAt(at).offset) ?? Buffer.alloc(0),
      );
      if (at % 3000 === 0) window.discard(at);
    }
    expect(Buffer.concat(cut).equals(file)).toBe(true);
  });

  test('refuses what it does not have', () => {
    const window = makeWindow();
    window.push({ kind: 'data', bytes: noise(100) });
    expect(() => window.pieceAt(100)).toThrow(RangeError);
    expect(() => window.copy(Buffer.alloc(10), 95)).toThrow(RangeError);
    window.discard(100);
    expect(() => window.pieceAt(50)).toThrow(RangeError);
  });
});

/** Takes the chunks that come next into `disk`, and counts each byte in `seen`; false when there are none. */
async function takeSome(assembly: Assembly, disk: Buffer, seen: Buffer): Promise<boolean> {
  const chunks = await assembly.take();
  for (const chunk of chunks) {
    if (chunk.kind !== 'data') throw new Error('expected data');
    expect(chunk.bytes).toHaveLength(chunk.length);
    disk.set(chunk.bytes, chunk.offset);
    const { offset, length } = chunk;
    for (let at = offset; at < offset + length; at++) seen[at] = (seen[at] ?? 0) + 1;
    chunk.release?.();
  }
  return chunks.length > 0;
}

describe('assembly', () => {
  test('makes chunks of pieces in any order, at once or later', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ length: fc.integer({ min: 1, max: 9000 }), turn: fc.nat(99) }), {
          maxLength: 60,
        }),
        fc.constantFrom(512, 4096, 65_536),
        fc.constantFrom(4096, 16 * KiB, 64 * KiB),
        async (all, clusterSize, bufferSize) => {
          let end = 0;
          const pieces = all.map(({ length, turn }) => {
            const offset = end;
            end += length;
            return { offset, length, turn };
          });
          const disk = noise(end + 1).subarray(0, end);
          const out = Buffer.alloc(end, 0xa5);
          const seen = Buffer.alloc(end);
          const pool = makePool(bufferSize);
          const assembly = makeAssembly(pool, { clusterSize, virtualSize: end });
          for (const { offset, length, turn } of pieces.sort((a, b) => a.turn - b.turn)) {
            for (let at = offset; at < offset + length;) {
              const start = at;
              const part = Math.min(offset + length - at, assembly.roomAt(at));
              await assembly.place(start, part, (target) => {
                expect(target).toHaveLength(part);
                const put = (): void => void disk.copy(target, 0, start, start + part);
                if (turn % 2 === 0) put();
                else return new Promise((resolve) => setImmediate(resolve)).then(put);
                return undefined;
              });
              at += part;
            }
            while (assembly.isReady) await takeSome(assembly, out, seen);
          }
          assembly.end();
          while (await takeSome(assembly, out, seen));
          expect(seen.every((count) => count === 1)).toBe(true);
          expect(out.equals(disk)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('neighbours become one chunk, and their buffer goes back when all chunks of it are released', async () => {
    const pool = makePool(4096);
    const assembly = makeAssembly(pool, { clusterSize: 512, virtualSize: 10_000 });
    const put = (offset: number, length: number): void => {
      void assembly.place(offset, length, (target) => void target.fill(1));
    };
    put(1024, 512);
    put(512, 512);
    put(3000, 96);
    put(1536, 10);
    assembly.end();
    const chunks = await assembly.take();
    expect(chunks.map(({ offset, length }) => [offset, length])).toEqual([
      [512, 1034],
      [3000, 96],
    ]);
    const [first, second] = chunks;
    if (first?.kind === 'data') first.release?.();
    pool.take();
    expect(pool.made).toBe(2);
    if (second?.kind === 'data') second.release?.();
    pool.take();
    expect(pool.made).toBe(2);
  });

  test('a full buffer is ready, also the last one of the disk', async () => {
    const assembly = makeAssembly(makePool(4096), { clusterSize: 512, virtualSize: 5000 });
    for (const [offset, length] of [
      [4096, 904],
      [0, 4096],
    ] as const) {
      expect(assembly.isReady).toBe(false);
      await assembly.place(offset, length, () => undefined);
      expect(assembly.isReady).toBe(true);
      expect(await assembly.take()).toMatchObject([{ offset, length }]);
    }
  });

  test('clusters that are larger than the buffers get larger ones', async () => {
    const assembly = makeAssembly(makePool(4096), { clusterSize: 65_536, virtualSize: 100_000 });
    expect(assembly.roomAt(65_536)).toBe(65_536);
    await assembly.place(
      65_536,
      34_464,
      (target) => {
        expect(target).toHaveLength(65_536);
        return undefined;
      },
      65_536,
    );
    expect(await assembly.take()).toMatchObject([{ offset: 65_536, length: 34_464 }]);
  });

  test('has so much work under way and no more, and so many buffers', async () => {
    const pool = makePool(64 * KiB);
    const assembly = makeAssembly(pool, { clusterSize: 4096, virtualSize: 2 ** 30 });
    let working = 0;
    let most = 0;
    for (let offset = 0; offset < 400 * 4096; offset += 4096) {
      await assembly.place(offset, 4096, async () => {
        most = Math.max(most, ++working);
        await new Promise((resolve) => setImmediate(resolve));
        working--;
      });
      while (assembly.isReady) {
        for (const chunk of await assembly.take()) if (chunk.kind === 'data') chunk.release?.();
      }
    }
    await assembly.settle();
    expect(working).toBe(0);
    expect(most).toBe(64);
    expect(pool.made).toBeLessThanOrEqual(13);
  });

  test('what work throws is thrown by what comes after, and nothing is left unhandled', async () => {
    const failing = async (): Promise<void> => {
      await Promise.resolve();
      throw new Error('no use');
    };
    const assembly = makeAssembly(makePool(4096), { clusterSize: 512, virtualSize: 2 ** 30 });
    await assembly.place(0, 512, failing);
    await assembly.settle();
    expect(() => assembly.place(512, 512, failing)).toThrow('no use');
    assembly.end();
    expect((await rejection(assembly.take())).message).toBe('no use');
  });
});
