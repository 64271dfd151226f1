import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { openFile } from '../src/source/file.ts';
import { noise, tempDir, watchedSource } from './helpers.ts';
import { allExtents, context, readAll } from './qcow2-helpers.ts';
import { expectSameContent, expectSame as expectSameImage, openImage } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Asserts that the image at `path`, which refers to nothing, is to us what it is to qemu-img. */
async function expectSame(path: string): Promise<void> {
  const { allocatedSize } = await expectSameImage(path);
  await using disk = await openImage(path);
  const data = (await allExtents(disk)).filter(({ kind }) => kind === 'data');
  expect(allocatedSize).toBe(data.reduce((sum, { length }) => sum + length, 0));
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

  test.each(['compat=0.10', 'cluster_size=512', 'extended_l2=on'])(
    'internal snapshots: %s',
    async (options) => {
      const path = join(tempDir(), 'disk.qcow2');
      const io = (...commands: string[]): Buffer =>
        run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
      run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '1M']);
      io('write -P 1 0 300k');
      run('qemu-img', ['snapshot', '-c', 'monday', path]);
      io('write -P 2 100k 100k', 'write -P 3 700k 64k', 'discard 0 64k');
      run('qemu-img', ['snapshot', '-c', '1', path]);
      io('write -P 4 0 1M');
      await expectSame(path);
      // an id goes before a name
      for (const [snapshot, meant] of [
        ['monday', '1'],
        ['1', '1'],
        ['2', '2'],
      ] as const) {
        await expectSameContent(path, {
          source: ['-f', 'qcow2', '-l', `snapshot.id=${meant}`, path],
          snapshot,
        });
      }
      await using disk = await openImage(path);
      expect(disk.details).toMatchObject({
        snapshotCount: 2,
        snapshots: [
          { id: '1', name: 'monday', virtualSize: MiB, vmStateSize: 0 },
          { id: '2', name: '1', virtualSize: MiB, vmStateSize: 0 },
        ],
      });
      expect(Object.keys(disk.details.snapshots?.[0] ?? {})).toHaveLength(5);
      await expect(openImage(path, { snapshot: 'tuesday' })).rejects.toMatchObject({
        code: 'FORMAT',
      });
    },
  );

  test('a snapshot from before the disk was resized has the size that it had', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    const io = (command: string): Buffer => run('qemu-io', ['-f', 'qcow2', '-c', command, path]);
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path, '1M']);
    io('write -P 1 0 1M');
    await using before = await openImage(path);
    const content = await readAll(before);
    run('qemu-img', ['snapshot', '-c', 'small', path]);
    run('qemu-img', ['resize', '-q', path, '9M']);
    io('write -P 2 0 9M');
    await expectSame(path);
    await using disk = await openImage(path, { snapshot: 'small' });
    expect(disk.details.virtualSize).toBe(MiB);
    expect((await readAll(disk)).equals(content)).toBe(true);
    await using file = await openFile(path);
    const described = await qcow2.describe(file, { ...context, snapshot: 'small' });
    expect(described).toEqual(disk.details);
  });

  test('marked as corrupt: read when asked for, and then as it is', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', rawFile(folder), path]);
    await using sound = await openImage(path);
    const image = readFileSync(path);
    image.writeUInt8(2, 79);
    writeFileSync(path, image);
    await expect(openImage(path)).rejects.toMatchObject({ code: 'CORRUPT', offset: 72 });
    await using disk = await openImage(path, { allowCorrupt: true });
    expect((await readAll(disk)).equals(await readAll(sound))).toBe(true);
    expect(disk.details.features).toEqual(['corrupt']);
    await using file = await openFile(path);
    expect(await qcow2.describe(file, { ...context, allowCorrupt: true })).toEqual(disk.details);
  });

  test('a broken table of snapshots is no matter, as long as none of them is asked for', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    const image = readFileSync(path);
    image.writeUInt32BE(3, 60);
    image.writeBigUInt64BE(1n << 40n, 64);
    writeFileSync(path, image);
    await using disk = await openImage(path);
    expect(disk.details).toMatchObject({ snapshotCount: 3 });
    expect(disk.details.snapshots).toBeUndefined();
    await expect(openImage(path, { snapshot: '1' })).rejects.toMatchObject({ code: 'TRUNCATED' });
  });

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
