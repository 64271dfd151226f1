import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { openFile } from '../src/source/file.ts';
import type { Disk, Extent } from '../src/types.ts';
import { noise, tempDir, watchedSource } from './helpers.ts';
import { allExtents, context, readAll } from './qcow2-helpers.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

async function openImage(path: string): Promise<Disk> {
  return qcow2.open(await openFile(path), context);
}

/** The extents that qemu-img sees; in a copy without holes, since it takes those of the file into account. */
function qemuExtents(path: string): Extent[] {
  const dense = `${path}.dense`;
  writeFileSync(dense, readFileSync(path));
  const map = JSON.parse(
    run('qemu-img', ['map', '-f', 'qcow2', '--output=json', dense]).toString(),
  ) as { start: number; length: number; zero: boolean }[];
  const extents: Extent[] = [];
  for (const { start, length, zero } of map) {
    const kind = zero ? 'zero' : 'data';
    const last = extents.at(-1);
    if (last?.kind === kind) extents.splice(-1, 1, { ...last, length: last.length + length });
    else extents.push({ kind, offset: start, length });
  }
  return extents;
}

/** Asserts that the image at `path` is to us what it is to qemu-img. */
async function expectSame(path: string): Promise<void> {
  const rawPath = `${path}.raw`;
  run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, rawPath]);
  await using disk = await openImage(path);
  const wanted = readFileSync(rawPath);
  expect(disk.size).toBe(wanted.length);
  for (const step of [MiB, 333_333]) {
    expect((await readAll(disk, step)).equals(wanted), `reads of ${step} bytes`).toBe(true);
  }
  const extents = await allExtents(disk);
  expect(extents).toEqual(qemuExtents(path));
  expect(disk.details.allocatedSize).toBe(
    extents.reduce((sum, { kind, length }) => sum + (kind === 'data' ? length : 0), 0),
  );
}

/** A raw file of 3 MiB and a bit: text, noise, and zeros large and small. */
function rawFile(folder: string, size = 3 * MiB + 12_345): string {
  const path = join(folder, 'in.raw');
  const content = Buffer.alloc(size);
  noise(300_000).copy(content, 100_000);
  content.fill('all work and no play makes a dull disk. ', 1_200_000, 2_000_000);
  noise(700).copy(content, 2_500_000);
  content.fill('x', size - 3000);
  writeFileSync(path, content);
  return path;
}

describeWith(['qemu-img', 'qemu-io'], 'as qemu-img reads it', () => {
  const clusterSizes = ['512', '1k', '2k', '4k', '16k', '64k', '128k', '512k', '1M', '2M'];
  test.each(clusterSizes)('convert to clusters of %s, plain and compressed', async (size) => {
    const folder = tempDir();
    const input = rawFile(folder);
    const path = join(folder, 'disk.qcow2');
    for (const options of [
      ['-o', `cluster_size=${size}`],
      ['-o', `cluster_size=${size},compat=0.10`],
      ['-c', '-o', `cluster_size=${size}`],
      ['-c', '-o', `cluster_size=${size},compat=0.10`],
      ['-c', '-o', `cluster_size=${size},compression_type=zstd`],
    ]) {
      run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...options, input, path]);
      await expectSame(path);
    }
  });

  test('compressed out of order', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const args = ['-f', 'raw', '-O', 'qcow2', '-c', '-W', '-m', '16', '-o', 'cluster_size=4k'];
    run('qemu-img', ['convert', ...args, rawFile(folder), path]);
    await expectSame(path);
  });

  test.each([
    'preallocation=off',
    'preallocation=metadata',
    'preallocation=falloc',
    'preallocation=full',
    'lazy_refcounts=on',
    'compat=0.10,preallocation=metadata',
    ...[1, 2, 4, 8, 16, 32, 64].map((bits) => `refcount_bits=${bits}`),
  ])('create and convert with %s', async (options) => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '3M']);
    await expectSame(path);
    run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 100k 1M', path]);
    await expectSame(path);
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-o', options, rawFile(folder), path]);
    await expectSame(path);
  });

  test.each([1, 511, 513, 65_535, 65_536, 65_537, 2 * MiB - 1, 2 * MiB + 512])(
    'a disk of %i bytes',
    async (size) => {
      const folder = tempDir();
      const input = join(folder, 'in.raw');
      writeFileSync(input, noise(size));
      const path = join(folder, 'disk.qcow2');
      for (const flags of [[], ['-c'], ['-c', '-o', 'cluster_size=2M']]) {
        run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...flags, input, path]);
        await expectSame(path);
        // qemu rounds sizes to sectors: what was put in is the start of what comes out
        await using disk = await openImage(path);
        expect((await readAll(disk)).subarray(0, size).equals(noise(size))).toBe(true);
      }
    },
  );

  test.each([1, 2, 3, 4, 5, 6])('an image that was lived in (%i)', async (seed) => {
    const random = noise(4000, seed);
    let at = 0;
    const below = (limit: number): number => {
      at += 2;
      return ((random[at - 1] ?? 0) * 256 + (random[at] ?? 0)) % limit;
    };
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const clusterSize = [512, 4 * KiB, 64 * KiB, MiB][seed % 4] ?? 512;
    const compression = seed % 2 === 0 ? 'zlib' : 'zstd';
    const options = `cluster_size=${clusterSize},compression_type=${compression}`;
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '2M']);
    // qemu writes compressed clusters only where there is nothing yet
    const compressed = Array.from({ length: 5 }, (_, cluster) => {
      const start = cluster * Math.max(clusterSize, 32 * KiB);
      return `write -c -P ${1 + below(255)} ${start} ${clusterSize}`;
    }).slice(0, (2 * MiB) / clusterSize);
    run('qemu-io', ['-f', 'qcow2', ...compressed.flatMap((command) => ['-c', command]), path]);
    await expectSame(path);
    for (let round = 0; round < 6; round++) {
      const commands = Array.from({ length: 8 }, () => {
        const start = below(3000) * 512;
        const length = (1 + below(600)) * 512;
        const kinds = [
          `write -P ${1 + below(255)} ${start} ${length}`,
          `write -z ${start} ${length}`,
          `write -z -u ${start} ${length}`,
          `discard ${start} ${length}`,
        ];
        return kinds[below(kinds.length)] ?? '';
      });
      run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
      if (round === 1) run('qemu-img', ['snapshot', '-c', 'one', path]);
      if (round === 2) run('qemu-img', ['snapshot', '-c', 'two', path]);
      if (round === 3) run('qemu-img', ['snapshot', '-a', 'one', path]);
      await expectSame(path);
    }
  });

  test.each(['0.10', '1.1'])(
    'resized up, and down, with snapshots and bitmaps (%s)',
    async (compat) => {
      const path = join(tempDir(), 'disk.qcow2');
      const options = `cluster_size=512,compat=${compat}`;
      run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '1M']);
      run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 1M', path]);
      run('qemu-img', ['resize', '-q', path, '9M']);
      run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 8M 1000k', path]);
      await expectSame(path);
      run('qemu-img', ['resize', '-q', '--shrink', path, '700k']);
      await expectSame(path);
      if (compat === '1.1') {
        run('qemu-img', ['bitmap', '--add', path, 'since-monday']);
        run('qemu-img', ['snapshot', '-c', 'small', path]);
        await expectSame(path);
        await using disk = await openImage(path);
        expect(disk.details).toMatchObject({ snapshotCount: 1, features: ['bitmaps extension'] });
      }
    },
  );

  test('a disk of 16 TiB with a few clusters: seconds, and a few reads', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '16T']);
    const commands = ['write -P 1 5G 64k', 'write -P 2 8T 128k', 'write -P 3 17592186040320 4k'];
    run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
    const started = performance.now();
    const file = watchedSource(await openFile(path));
    await using disk = await qcow2.open(file, context);
    const extents = await allExtents(disk);
    expect(performance.now() - started).toBeLessThan(5000);
    // header, L1 table, three L2 tables
    expect(file.reads).toBe(5);
    expect(file.bytes).toBeLessThan(MiB);
    const T = 2 ** 40;
    expect(extents).toEqual([
      { kind: 'zero', offset: 0, length: 5 * 2 ** 30 },
      { kind: 'data', offset: 5 * 2 ** 30, length: 65_536 },
      { kind: 'zero', offset: 5 * 2 ** 30 + 65_536, length: 8 * T - 5 * 2 ** 30 - 65_536 },
      { kind: 'data', offset: 8 * T, length: 131_072 },
      { kind: 'zero', offset: 8 * T + 131_072, length: 8 * T - 131_072 - 65_536 },
      { kind: 'data', offset: 16 * T - 65_536, length: 65_536 },
    ]);
    const end = Buffer.alloc(65_536);
    await disk.read(end, 16 * T - 65_536);
    expect(end.equals(Buffer.concat([Buffer.alloc(61_440), Buffer.alloc(4096, 3)]))).toBe(true);
  });

  test('where qemu-img gives zeros for what is cut off, this is an error', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', rawFile(folder), path]);
    truncateSync(path, readFileSync(path).length - 70_000);
    run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', path, join(folder, 'out.raw')]);
    await expect(openImage(path)).rejects.toMatchObject({ code: 'TRUNCATED' });
  });
});
