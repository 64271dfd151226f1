import { describe, expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { openFile } from '../src/source/file.ts';
import { rejection, sha256 } from './helpers.ts';
import {
  allExtents,
  context,
  expected,
  fixture,
  fixturePath,
  fixtures,
  openBytes,
  readAll,
} from './qcow2-helpers.ts';

test('there are fixtures', () => {
  expect(fixtures('good').length).toBeGreaterThanOrEqual(15);
  expect(fixtures('bad').length).toBeGreaterThanOrEqual(30);
});

describe('good', () => {
  test.each(fixtures('good'))('%s: content, extents, details', async (name) => {
    const wanted = expected(name);
    await using disk = await qcow2.open(await openFile(fixturePath('good', name)), context);
    expect(disk.size).toBe(wanted.virtualSize);
    expect(await allExtents(disk)).toEqual(wanted.extents);
    expect(sha256(await readAll(disk))).toBe(wanted.sha256);
    expect(disk.details).toMatchObject({
      format: wanted.format,
      virtualSize: wanted.virtualSize,
      allocatedSize: wanted.allocatedSize,
      version: name.endsWith('-v2') ? 2 : 3,
      clusterSize: name.endsWith('-4k') ? 4096 : 512,
      compressionType: name === 'zstd' ? 'zstd' : 'zlib',
      snapshotCount: name === 'snapshot' ? 1 : 0,
    });
    await using file = await openFile(fixturePath('good', name));
    expect(await qcow2.describe(file, context)).toEqual(disk.details);
  });

  test.each(fixtures('good'))('%s: the same in reads of any size', async (name) => {
    await using disk = await openBytes(fixture('good', name));
    // the large one is nearly all zeros
    const steps = disk.size > 1024 * 1024 ? [65_537] : [512, 1, 1000, 4099];
    for (const step of steps) {
      expect(sha256(await readAll(disk, step, 7))).toBe(expected(name).sha256);
    }
  });

  test('features by name', async () => {
    const featuresOf = async (name: string): Promise<unknown> =>
      (await openBytes(fixture('good', name))).details.features;
    expect(await featuresOf('plain')).toEqual([]);
    expect(await featuresOf('zstd')).toEqual(['compression type']);
    expect(await featuresOf('dirty')).toEqual(['dirty', 'lazy refcounts']);
  });
});

describe('bad', () => {
  test.each(fixtures('bad'))('%s', async (name) => {
    const error = await rejection(
      (async (): Promise<void> => {
        await using disk = await openBytes(fixture('bad', name), name);
        await readAll(disk);
      })(),
    );
    expect(error).toMatchObject({
      name: 'SparsecopyError',
      code: name.split('.')[0],
      source: name,
    });
    expect(error.message.startsWith(`${name}: `)).toBe(true);
  });

  test('the message has the place, the expectation and the finding', async () => {
    const messageOf = async (name: string): Promise<string> =>
      (await rejection(openBytes(fixture('bad', name), 'disk.qcow2'))).message;
    expect(await messageOf('TRUNCATED.l2-table-past-end')).toBe(
      'disk.qcow2: L2 table 0 needs 48 bytes at 1099511627776, file ends at 5632',
    );
    expect(await messageOf('UNSUPPORTED.incompatible-bit-63')).toBe(
      'disk.qcow2: needs incompatible feature bit 63, which it calls "time travel"',
    );
    expect(await messageOf('REFERENCE.backing-file')).toBe(
      'disk.qcow2: needs the backing file "base.raw", which is not opened',
    );
  });
});

describe('a file that is cut', () => {
  test.each(['plain', 'deflate', 'zstd', 'mixed', 'zeroed', 'snapshot', 'unaligned-deflate'])(
    '%s: an error, or the right bytes',
    async (name) => {
      const image = fixture('good', name);
      let refused = 0;
      for (let end = 0; end < image.length; end += end < 1024 ? 64 : 512) {
        try {
          await using disk = await openBytes(image.subarray(0, end));
          expect(sha256(await readAll(disk, 1024)), `cut at ${end}`).toBe(expected(name).sha256);
        } catch (error) {
          expect(error, `cut at ${end}`).toMatchObject({
            // a deflate stream that is cut contradicts itself; everything else is not there
            code: expect.stringMatching(/^(TRUNCATED|CORRUPT)$/) as unknown,
          });
          refused++;
        }
      }
      expect(refused).toBeGreaterThan(8);
    },
  );

  test('a read past the end of the disk is TRUNCATED', async () => {
    await using disk = await openBytes(fixture('good', 'unaligned'));
    await disk.read(new Uint8Array(0), disk.size);
    for (const [length, offset] of [
      [1, disk.size],
      [2, disk.size - 1],
      [disk.size + 1, 0],
    ] as const) {
      const error = await rejection(disk.read(new Uint8Array(length), offset));
      expect(error).toMatchObject({ code: 'TRUNCATED' });
    }
  });
});
