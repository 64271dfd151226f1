import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { l2EntryAt, OFFSET_BITS, poke32, poke64, pokeEntry, u64 } from '../fixtures/image.ts';
import { makeClaims, type Claims } from '../src/format/qcow2/claims.ts';
import { qcow2 } from '../src/format/qcow2/index.ts';
import type { Layout } from '../src/format/qcow2/layout.ts';
import { defaultLimits } from '../src/limits.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { openFile } from '../src/source/file.ts';
import { noise, rejection, sha256, tempDir, watchedSource } from './helpers.ts';
import { context, expected, fixture, fixtures, readAll } from './qcow2-helpers.ts';
import { describeWith, run } from './tools.ts';

const K64 = 65_536;
const untrusted = { ...context, untrusted: true };

/** 64 KiB clusters: the header, the refcount table in the second, the L1 table in the fourth. */
const layout: Layout = {
  name: 'disk.qcow2',
  fileSize: Infinity,
  hasDataFile: false,
  dataName: 'disk.qcow2',
  dataSize: Infinity,
  version: 3,
  clusterBits: 16,
  clusterSize: K64,
  virtualSize: 2 ** 40,
  l1Offset: 3 * K64,
  l1End: 4 * K64,
  l1Needed: 2048,
  entrySize: 8,
  l2Coverage: 2 ** 29,
  metadata: [
    { what: 'header', hostOffset: 0, length: K64 },
    { what: 'refcount table', hostOffset: K64, length: K64 },
    { what: 'L1 table', hostOffset: 3 * K64, length: 16 },
  ],
};

type Claim = (claims: Claims) => void;

/** Data at cluster `cluster` of the disk, `length` bytes from byte `start` of it, in cluster `host` of the file. */
const plain =
  (cluster: number, host: number, length = K64, start = 0): Claim =>
  (claims) =>
    claims.run({
      kind: 'plain',
      offset: cluster * K64 + start,
      length,
      hostOffset: host * K64 + start,
    });

const compressed =
  (cluster: number, hostOffset: number, hostLength: number): Claim =>
  (claims) =>
    claims.run({ kind: 'compressed', offset: cluster * K64, length: K64, hostOffset, hostLength });

const table =
  (host: number): Claim =>
  (claims) =>
    claims.table(host * K64);

/** What claiming one after the other comes to. */
function claim(...all: readonly Claim[]): string {
  const claims = makeClaims(layout, defaultLimits);
  try {
    for (const each of all) each(claims);
  } catch (error) {
    expect(error).toMatchObject({ name: 'SparsecopyError', source: 'disk.qcow2' });
    return (error as { code: string }).code;
  }
  return 'sound';
}

describe('claims on clusters of the file', () => {
  test.each<[string, Claim[]]>([
    ['each its own', [table(4), plain(0, 5), plain(1, 6), table(7), plain(2, 2)]],
    ['a run of many, and one behind it', [plain(0, 10, 50 * K64), plain(50, 60)]],
    ['far away', [plain(0, 2 ** 39), table(2 ** 39 + 1)]],
    [
      'subclusters of one cluster',
      [plain(0, 5, 2048, 0), plain(0, 5, 4096, 8192), plain(0, 5, K64 - 20_480, 20_480)],
    ],
    [
      'the last subcluster, whole clusters behind it, and subclusters of the last of these',
      [
        plain(0, 5, 2048, 0),
        plain(0, 5, 2048 + 2 * K64 + 2048, K64 - 2048),
        plain(3, 8, 2048, 4096),
      ],
    ],
    ['a disk that ends within a cluster', [plain(0, 5, 100)]],
    [
      'compressed ones, that begin in the sector in which others end',
      [
        compressed(0, 5 * K64, 1024),
        compressed(1, 5 * K64 + 600, 424),
        compressed(2, 5 * K64 + 700, 324 + 512),
        compressed(3, 5 * K64 + 1100, 436),
      ],
    ],
    [
      'compressed across clusters',
      [compressed(0, 6 * K64 - 700, 700 + 512), compressed(1, 6 * K64 + 100, 412)],
    ],
    ['compressed, backwards', [compressed(0, 6 * K64, 512), compressed(1, 6 * K64 - 2048, 2048)]],
    [
      'zeros and what is not there',
      [
        (claims) => claims.run({ kind: 'zero', offset: 0, length: K64 }),
        (claims) => claims.run({ kind: 'unallocated', offset: 0, length: K64 }),
      ],
    ],
  ])('%s', (_what, all) => {
    expect(claim(...all)).toBe('sound');
  });

  test.each<[string, Claim[]]>([
    ['two clusters of the disk in one of the file', [plain(0, 5), plain(1, 5)]],
    ['not one after the other', [plain(0, 5), plain(1, 6), plain(2, 5)]],
    ['a run over a cluster', [plain(0, 12), plain(1, 10, 5 * K64)]],
    ['a subcluster of another cluster', [plain(0, 5, 2048, 0), plain(1, 5, 2048, 4096)]],
    ['a subcluster over a table', [table(5), plain(0, 5, 2048, 4096)]],
    [
      'the second subcluster of a run over a table',
      [table(6), plain(0, 5, 2048, 0), plain(0, 5, K64, K64 - 2048)],
    ],
    ['two tables', [table(4), table(4)]],
    ['a table over data', [plain(0, 5), table(5)]],
    ['data over a table', [table(5), plain(0, 5)]],
    ['data over the header', [plain(0, 0)]],
    ['data over the refcount table', [plain(0, 1)]],
    ['a table over the L1 table', [table(3)]],
    ['compressed data in the L1 table', [compressed(0, 3 * K64 + 60_000, 480)]],
    ['compressed data that reach into the L1 table', [compressed(0, 3 * K64 - 512, 1024)]],
    ['compressed data twice', [compressed(0, 5 * K64, 512), compressed(1, 5 * K64, 512)]],
    [
      'compressed data twice, of other lengths',
      [compressed(0, 5 * K64 + 9, 503), compressed(1, 5 * K64 + 9, 1015)],
    ],
    [
      'compressed data within others',
      [compressed(0, 5 * K64, 4096), compressed(1, 5 * K64 + 1500, 36)],
    ],
    [
      'compressed data around others',
      [compressed(0, 5 * K64 + 1500, 36), compressed(1, 5 * K64, 4096)],
    ],
    [
      'compressed data that end within others',
      [compressed(0, 5 * K64, 4096), compressed(1, 5 * K64 - 512, 1536)],
    ],
    ['compressed data in a plain cluster', [plain(0, 5), compressed(1, 5 * K64 + 100, 412)]],
    [
      'compressed data that reach into a plain cluster',
      [plain(0, 5), compressed(1, 5 * K64 - 512, 1024)],
    ],
    ['a plain cluster over compressed data', [compressed(1, 5 * K64 + 100, 412), plain(0, 5)]],
    ['a table over the end of compressed data', [compressed(1, 5 * K64 - 512, 1024), table(5)]],
  ])('%s is CORRUPT', (_what, all) => {
    expect(claim(...all)).toBe('CORRUPT');
  });

  test('what the header names may not lie on each other', () => {
    const metadata = [...layout.metadata, { what: 'snapshot table', hostOffset: K64, length: 40 }];
    expect(() => makeClaims({ ...layout, metadata }, defaultLimits)).toThrow(
      'disk.qcow2: snapshot table lies at 65536, where the refcount table is already',
    );
  });

  test('clusters in a data file have no second owner to fear', () => {
    const claims = makeClaims({ ...layout, hasDataFile: true }, defaultLimits);
    plain(0, 0)(claims);
    plain(3, 3)(claims);
    expect(() => table(3)(claims)).toThrow('the L1 table is already');
  });

  test('memory has a bound, however far apart things lie', () => {
    const limits = { ...defaultLimits, qcow2ClaimsSize: 1024 * 1024 };
    const claims = makeClaims(layout, limits);
    let count = 0;
    const fill = (): void => {
      for (; count < 10_000; count++) plain(count, 2 ** 20 * (count + 1))(claims);
    };
    expect(fill).toThrow(
      expect.objectContaining({ code: 'LIMIT', limit: 'qcow2ClaimsSize' }) as Error,
    );
    expect(count).toBeLessThan(300);
    const tiny = makeClaims(layout, limits);
    const fillTiny = (): void => {
      for (count = 0; count < 1_000_000; count++) compressed(count, 2 ** 20 + 7 * count, 1)(tiny);
    };
    expect(fillTiny).toThrow(expect.objectContaining({ code: 'LIMIT' }) as Error);
    expect(count).toBeGreaterThan(40_000);
  });

  test('sixty gigabytes in order need less than the limit', () => {
    const claims = makeClaims(layout, defaultLimits);
    for (let cluster = 0; cluster < 2 ** 20; cluster += 16) {
      plain(cluster, cluster + 4, 16 * K64)(claims);
    }
    expect(() => plain(2 ** 20, 2 ** 20)(claims)).toThrow('other data');
  });
});

describe('an untrusted image', () => {
  const copied = 1n << 63n;
  const plainImage = fixture('good', 'plain');
  const host = (image: Buffer, cluster: number): bigint =>
    image.readBigUInt64BE(l2EntryAt(image, cluster));

  test.each(fixtures('good'))('%s is accepted, and read with no more reads', async (name) => {
    const image = fixture('good', name);
    const trusted = watchedSource(bufferSource(image));
    await (await qcow2.open(trusted, context))[Symbol.asyncDispose]();
    const file = watchedSource(bufferSource(image));
    await using disk = await qcow2.open(file, untrusted);
    expect(file.reads).toBe(trusted.reads);
    expect(sha256(await readAll(disk))).toBe(expected(name).sha256);
  });

  test.each<[string, Buffer]>([
    ['two clusters in one', pokeEntry(plainImage, 1, host(plainImage, 0))],
    ['data in the refcount table', pokeEntry(plainImage, 0, copied | BigInt(u64(plainImage, 48)))],
    [
      'data in its own L2 table',
      pokeEntry(plainImage, 0, plainImage.readBigUInt64BE(u64(plainImage, 40)) & OFFSET_BITS),
    ],
    ['the refcount table in the L1 table', poke64(plainImage, 48, BigInt(u64(plainImage, 40)))],
    [
      'the snapshot table in a cluster of the disk',
      poke32(poke64(plainImage, 64, host(plainImage, 0) & OFFSET_BITS), 60, 1),
    ],
  ])('%s: CORRUPT, and for a trusted one read as it is', async (_what, image) => {
    const error = await rejection(qcow2.open(bufferSource(image), untrusted));
    expect(error).toMatchObject({ code: 'CORRUPT' });
    expect(error.message).toMatch(/lies at \d+, where /);
    await using disk = await qcow2.open(bufferSource(image), context);
    expect(await readAll(disk)).toHaveLength(disk.size);
  });

  test('one L2 table for two L1 entries', async () => {
    const image = fixture('good', 'sparse-16m');
    const l1 = u64(image, 40);
    const entries = Array.from({ length: image.readUInt32BE(36) }, (_, at) =>
      image.readBigUInt64BE(l1 + 8 * at),
    );
    const used = entries.find((entry) => entry !== 0n) ?? 0n;
    const free = entries.indexOf(0n);
    const shared = poke64(image, l1 + 8 * free, used);
    const error = await rejection(qcow2.open(bufferSource(shared), untrusted));
    expect(error.message).toContain('L2 table lies at');
    await using disk = await qcow2.open(bufferSource(shared), context);
    expect(disk.size).toBe(16 * 1024 * 1024);
  });

  test('more tables than the file can hold: CORRUPT for all, before one is read', async () => {
    const image = fixture('good', 'sparse-16m');
    const l1 = u64(image, 40);
    const used = image.readBigUInt64BE(l1);
    let bomb = image;
    for (let at = 0; at < image.readUInt32BE(36); at++) bomb = poke64(bomb, l1 + 8 * at, used);
    expect(image.readUInt32BE(36)).toBeGreaterThan(image.length / 512);
    for (const profile of [context, untrusted]) {
      const file = watchedSource(bufferSource(bomb));
      const error = await rejection(qcow2.open(file, profile));
      expect(error).toMatchObject({ code: 'CORRUPT', offset: l1 });
      expect(error.message).toMatch(/names \d+ L2 tables, the file of \d+ bytes has room for \d+/);
      // the header and the L1 table
      expect(file.reads).toBe(2);
    }
  });
});

describeWith(['qemu-img', 'qemu-io'], 'untrusted images that qemu made', () => {
  test.each([
    ['plain', []],
    ['compressed', ['-c']],
    ['compressed out of order', ['-c', '-W', '-m', '16']],
    ['zstd in small clusters', ['-c', '-o', 'cluster_size=512,compression_type=zstd']],
    ['extended', ['-o', 'extended_l2=on']],
    ['large clusters', ['-c', '-o', 'cluster_size=2M']],
  ])('%s', async (_what, flags) => {
    const folder = tempDir();
    const raw = readFileSync(process.execPath).subarray(0, 4 * 1024 * 1024 - 700);
    const content = Buffer.concat([raw, Buffer.alloc(300_000, 'abc'), noise(200_000)]);
    const path = join(folder, 'disk.qcow2');
    const input = join(folder, 'in.raw');
    writeFileSync(input, content);
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...flags, input, path]);
    await using disk = await qcow2.open(await openFile(path), untrusted);
    expect((await readAll(disk)).subarray(0, content.length).equals(content)).toBe(true);
  });

  test('with snapshots, which share clusters with the disk and with each other', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    const options = 'cluster_size=4k,extended_l2=off';
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '8M']);
    const io = (...commands: string[]): Buffer =>
      run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
    io('write -P 1 0 1M', 'write -c -P 2 4M 64k');
    run('qemu-img', ['snapshot', '-c', 'one', path]);
    io('write -P 3 100k 100k');
    run('qemu-img', ['snapshot', '-c', 'two', path]);
    io('write -P 4 4M 8k', 'discard 0 64k');
    for (const snapshot of [undefined, 'one', 'two']) {
      await using trusted = await qcow2.open(await openFile(path), { ...context, snapshot });
      await using disk = await qcow2.open(await openFile(path), { ...untrusted, snapshot });
      expect((await readAll(disk)).equals(await readAll(trusted))).toBe(true);
    }
  });
});
