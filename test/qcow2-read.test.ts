import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isZero } from '../src/bytes.ts';
import { raw } from '../src/format/raw.ts';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { openFile } from '../src/source/file.ts';
import type { Disk } from '../src/types.ts';
import { rejection, sha256, watchedSource } from './helpers.ts';
import {
  allExtents,
  context,
  expected,
  expectSound,
  fixture,
  fixturePath,
  fixtures,
  openBytes,
  readAll,
} from './qcow2-helpers.ts';

const names = fixtures('good').filter((name) => name !== 'size-0');

/** Start and length of a range of a disk of `size` bytes. */
function rangesOf(size: number): fc.Arbitrary<[start: number, length: number]> {
  return fc
    .integer({ min: 0, max: size - 1 })
    .chain((start) => fc.tuple(fc.constant(start), fc.integer({ min: 0, max: size - start })));
}

describe.each(names)('%s, random ranges', (name) => {
  test('extents keep their contract, and zero extents are zeros', async () => {
    await using disk = await openBytes(fixture('good', name));
    const content = await readAll(disk);
    await fc.assert(
      fc.asyncProperty(rangesOf(disk.size), async ([start, length]) => {
        const extents = await allExtents(disk, start, start + length);
        expectSound(extents, start, start + length);
        for (const extent of extents) {
          if (extent.kind === 'data') continue;
          expect(isZero(content, extent.offset, extent.offset + extent.length)).toBe(true);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('reads, several at once, give the content', async () => {
    await using disk = await openBytes(fixture('good', name));
    const content = await readAll(disk);
    expect(sha256(content)).toBe(expected(name).sha256);
    await fc.assert(
      fc.asyncProperty(
        fc.array(rangesOf(Math.min(disk.size, 65_536)), { minLength: 1, maxLength: 5 }),
        async (ranges) => {
          await Promise.all(
            ranges.map(async ([start, length]) => {
              const bytes = Buffer.alloc(length, 0xa5);
              await disk.read(bytes, start);
              expect(bytes.equals(content.subarray(start, start + length))).toBe(true);
            }),
          );
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('the N-th read of the file fails', () => {
  test.each(['plain', 'deflate', 'zstd', 'mixed', 'sparse-16m', 'reversed'])('%s', async (name) => {
    const image = fixture('good', name);
    const content = await readAll(await openBytes(image));
    let failed = 0;
    for (let number = 0; ; number++) {
      const file = watchedSource(bufferSource(image, name), number);
      let disk: Disk | undefined;
      try {
        disk = await qcow2.open(file, context);
        await allExtents(disk);
        expect((await readAll(disk, 5000)).equals(content)).toBe(true);
        break;
      } catch (error) {
        expect(error).toMatchObject({ code: 'EIO', message: 'EIO: i/o error, read' });
        failed++;
      } finally {
        await disk?.[Symbol.asyncDispose]();
        const { reads } = file;
        // nothing goes on reading, and nothing is rejected while nobody listens (vitest fails on that)
        await new Promise((resolve) => setImmediate(resolve));
        expect(file.reads).toBe(reads);
      }
      expect(file.reads).toBeGreaterThan(number);
    }
    expect(failed).toBeGreaterThan(3);
  });

  test('a table that could not be read is read again', async () => {
    const image = fixture('good', 'plain');
    const control = watchedSource(bufferSource(image));
    await using disk = await qcow2.open(control, {
      limits: { ...context.limits, qcow2L2CacheSize: 0 },
    });
    let fail = true;
    const read = control.read.bind(control);
    control.read = (into, offset) =>
      fail ? Promise.reject(new Error('gone')) : read(into, offset);
    expect((await rejection(readAll(disk))).message).toBe('gone');
    fail = false;
    expect(sha256(await readAll(disk))).toBe(expected('plain').sha256);
  });
});

describe('how much is read', () => {
  test('opening reads the header, the L1 table and each L2 table once', async () => {
    const file = watchedSource(bufferSource(fixture('good', 'plain')));
    await using disk = await qcow2.open(file, context);
    expect(file.reads).toBe(4);
    await allExtents(disk);
    expect(file.reads).toBe(4);
  });

  test('neighbouring clusters are got by one read, plain or compressed', async () => {
    for (const name of ['deflate', 'zstd', 'reversed', 'unaligned']) {
      const file = watchedSource(bufferSource(fixture('good', name)));
      await using disk = await qcow2.open(file, context);
      const opened = file.reads;
      await readAll(disk);
      // the last cluster of the unaligned one is read whole for its start, but not twice
      expect(file.reads - opened, name).toBeLessThanOrEqual(name === 'unaligned' ? 2 : 1);
    }
  });

  test('zeros cost nothing', async () => {
    const file = watchedSource(bufferSource(fixture('good', 'sparse-16m')));
    await using disk = await qcow2.open(file, context);
    const opened = file.reads;
    await disk.read(new Uint8Array(4 * 1024 * 1024), 1024);
    expect(file.reads).toBe(opened);
  });

  test('small steps through a compressed cluster read and inflate it once', async () => {
    const file = watchedSource(bufferSource(fixture('good', 'deflate-4k')));
    await using disk = await qcow2.open(file, context);
    const opened = file.reads;
    for (let at = 0; at < 4096; at += 16) await disk.read(new Uint8Array(16), at);
    expect(file.reads - opened).toBe(1);
  });

  test('reads of one disk at once ask for its table once, also with the smallest cache', async () => {
    const limits = { ...context.limits, qcow2L2CacheSize: 0 };
    const file = watchedSource(bufferSource(fixture('good', 'preallocated')));
    await using disk = await qcow2.open(file, { limits });
    const opened = file.reads;
    await Promise.all(
      Array.from({ length: 8 }, (_, at) => disk.read(new Uint8Array(512), at * 2048)),
    );
    expect(file.reads - opened).toBe(8);
  });
});

describe('raw', () => {
  test('passes reads and extents through, and adds up the data', async () => {
    const path = fixturePath('good', 'sparse-16m');
    await using file = await openFile(path);
    await using disk = await raw.open(await openFile(path), context);
    expect(sha256(await readAll(disk))).toBe(sha256(await readAll(file)));
    const extents = await allExtents(file);
    expect(await allExtents(disk)).toEqual(extents);
    const data = extents.filter(({ kind }) => kind === 'data');
    expect(disk.details).toEqual({
      format: 'raw',
      virtualSize: file.size,
      allocatedSize: data.reduce((sum, { length }) => sum + length, 0),
    });
    expect(await raw.describe(file, context, true)).toEqual({
      format: 'raw',
      virtualSize: file.size,
    });
  });
});
