import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { openFile } from '../src/source/file.ts';
import type { Source, StoredExtent } from '../src/types.ts';
import { noise, rejection, tempDir } from './helpers.ts';
import { allExtents, context, openBytes, readAll } from './qcow2-helpers.ts';
import { expectNoLess, openImage } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

interface Image {
  readonly path: string;
  readonly dataPath: string;
}

function create(size: string, options = '', flags: readonly string[] = []): Image {
  const folder = tempDir();
  const path = join(folder, 'disk.qcow2');
  const dataPath = join(folder, 'disk.data');
  const all = `data_file=${dataPath}${options}`;
  run('qemu-img', ['create', '-q', '-f', 'qcow2', ...flags, '-o', all, path, size]);
  return { path, dataPath };
}

function io(path: string, ...commands: string[]): void {
  run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

/** Where the first L2 table of `image` lies. */
function l2TableAt(image: Buffer): number {
  const l1 = Number(image.readBigUInt64BE(40));
  return Number(image.readBigUInt64BE(l1) & 0x00fffffffffffe00n);
}

/** `path` with the entry for guest cluster `cluster` changed to `entry`. */
function pokeEntry(path: string, cluster: number, entry: bigint): void {
  const image = readFileSync(path);
  image.writeBigUInt64BE(entry, l2TableAt(image) + 8 * cluster);
  writeFileSync(path, image);
}

const COPIED = 1n << 63n;

describeWith(['qemu-img', 'qemu-io'], 'external data files', () => {
  test.each([
    ',data_file_raw=off',
    ',data_file_raw=on',
    ',data_file_raw=off,extended_l2=on',
    ',data_file_raw=on,extended_l2=on,cluster_size=2M',
    ',data_file_raw=off,cluster_size=512',
    ',data_file_raw=off,preallocation=metadata',
    ',data_file_raw=off,preallocation=full',
  ])('as qemu-img reads them: %s', async (options) => {
    const { path, dataPath } = create('3M', options);
    await expectNoLess(path);
    // at 0 and at the end, in part, as zeros that the table knows of, and discarded
    io(path, 'write -P 1 0 100k', 'write -P 2 2999k 73k', 'write -P 3 1M 300k');
    await expectNoLess(path);
    io(path, 'write -z 1100k 90k', 'discard 0 64k', 'write -z -u 3000k 20k');
    const details = await expectNoLess(path);
    expect(details).toMatchObject({ dataFile: dataPath });
    if (!options.includes('data_file_raw=on')) return;
    await using disk = await openImage(path);
    expect((await readAll(disk)).equals(readFileSync(dataPath))).toBe(true);
  });

  test('with a backing file', async () => {
    const base = join(tempDir(), 'base.raw');
    writeFileSync(base, noise(MiB + 512));
    const { path } = create('2M', ',extended_l2=on', ['-b', base, '-F', 'raw']);
    io(path, 'write -P 1 100k 10k', 'write -z 300k 10k', 'write -P 2 1020k 100k');
    await expectNoLess(path);
  });

  test('where the bytes are, for whoever moves them: in the data file, without its holes', async () => {
    const { path, dataPath } = create('8M', ',data_file_raw=on');
    io(path, 'write -P 1 1M 1M', 'write -P 2 5M 64k');
    await using disk = await openImage(path);
    const content = await readAll(disk);
    const extents: StoredExtent[] = [];
    for await (const some of disk.stored?.extents() ?? []) extents.push(...some);
    const data = extents.filter((extent) => extent.kind === 'data');
    expect(data.length).toBeGreaterThan(0);
    const bytes = readFileSync(dataPath);
    let at = 0;
    for (const extent of extents) {
      const { kind, offset, length } = extent;
      expect(offset).toBe(at);
      at += length;
      const wanted = content.subarray(offset, offset + length);
      if (kind === 'zero') expect(wanted.equals(Buffer.alloc(length))).toBe(true);
      else {
        const { hostOffset } = extent;
        expect(wanted.equals(bytes.subarray(hostOffset, hostOffset + length))).toBe(true);
      }
    }
    expect(at).toBe(disk.size);
    expect(data.map(({ offset, length }) => [offset, length])).toEqual(
      (await allExtents(disk))
        .filter(({ kind }) => kind === 'data')
        .map(({ offset, length }) => [offset, length]),
    );
    await using file = await openFile(dataPath);
    expect(disk.stored?.fd).not.toBe((file.stored as { fd: number }).fd);
    const own = readFileSync(`/proc/self/fd/${disk.stored?.fd ?? -1}`);
    expect(own.equals(bytes)).toBe(true);
  });

  test('a data file that is too short is TRUNCATED, and named', async () => {
    const { path, dataPath } = create('1M');
    io(path, 'write -P 1 512k 128k');
    await expectNoLess(path);
    truncateSync(dataPath, 600 * KiB);
    const error = await rejection(openImage(path));
    expect(error).toMatchObject({ code: 'TRUNCATED', source: path });
    expect(error.message).toBe(
      `${path}: entries 8 to 9 of the L2 table at ${l2TableAt(readFileSync(path))} needs 131072 bytes ` +
        `at 524288 of the data file ${JSON.stringify(dataPath.length > 64 ? `${dataPath.slice(0, 61)}...` : dataPath)}, which ends at 614400`,
    );
  });

  test('a data file that is longer, or shorter where nothing is allocated, is read as far as it matters', async () => {
    const { path, dataPath } = create('1M');
    io(path, 'write -P 1 0 128k');
    const content = await readAll(await openImage(path));
    truncateSync(dataPath, 128 * KiB);
    expect((await readAll(await openImage(path))).equals(content)).toBe(true);
    truncateSync(dataPath, 5 * MiB);
    expect((await readAll(await openImage(path))).equals(content)).toBe(true);
  });

  test.each<[string, number, bigint, string]>([
    ['another place', 0, COPIED | 0x10000n, 'has disk offset 0 at 65536 of the data file'],
    ['a place too early', 1, COPIED, 'has disk offset 65536 at 0 of the data file'],
    ['a compressed cluster', 0, (1n << 62n) | 0x10000n, 'is compressed'],
  ])('%s is CORRUPT', async (_what, cluster, entry, message) => {
    const { path } = create('1M');
    io(path, 'write -P 1 0 128k');
    pokeEntry(path, cluster, entry);
    const error = await rejection(openImage(path));
    expect(error).toMatchObject({ code: 'CORRUPT' });
    expect(error.message).toContain(message);
  });

  test('the data file is closed with the disk, and when there is to be none', async () => {
    const { path, dataPath } = create('1M');
    io(path, 'write -P 1 0 128k');
    let open = 0;
    const counting = {
      ...context,
      async openReference(): Promise<Source> {
        const file = await openFile(dataPath);
        open++;
        return {
          ...file,
          async [Symbol.asyncDispose](): Promise<void> {
            open--;
            await file[Symbol.asyncDispose]();
          },
        };
      },
    };
    const disk = await qcow2.open(await openFile(path), counting);
    expect(open).toBe(1);
    await disk[Symbol.asyncDispose]();
    expect(open).toBe(0);
    pokeEntry(path, 0, COPIED | 0x10000n);
    await using file = await openFile(path);
    expect(await rejection(qcow2.open(file, counting))).toMatchObject({ code: 'CORRUPT' });
    expect(open).toBe(0);
  });

  test('offset 0 is in use with bit 63 only', async () => {
    const { path } = create('1M', ',data_file_raw=off');
    io(path, 'write -P 1 0 64k');
    expect((await readAll(await openImage(path)))[0]).toBe(1);
    pokeEntry(path, 0, 0n);
    expect((await readAll(await openImage(path)))[0]).toBe(0);
    await expectNoLess(path);
  });

  test('what the header contradicts', async () => {
    const { path } = create('1M');
    const good = readFileSync(path);
    const opened = async (change: (image: Buffer) => void): Promise<Error & { code?: string }> => {
      const image = Buffer.from(good);
      change(image);
      writeFileSync(path, image);
      return rejection(openImage(path));
    };
    // incompatible bit 2 cleared: the name alone
    const named = await opened((image) => image.writeUInt8(0, 79));
    expect(named).toMatchObject({ code: 'CORRUPT' });
    expect(named.message).toContain('lacks incompatible feature bit 2');
    // autoclear bit 1: raw, and a backing file
    const both = await opened((image) => {
      image.writeUInt8(2, 95);
      image.writeBigUInt64BE(1000n, 8);
      image.writeUInt32BE(4, 16);
      image.write('base', 1000);
    });
    expect(both).toMatchObject({ code: 'CORRUPT' });
    expect(both.message).toContain('a backing file and a raw external data file');
  });

  test('refused where references are, and described all the same', async () => {
    const { path, dataPath } = create('1M');
    io(path, 'write -P 1 0 64k');
    const image = readFileSync(path);
    const error = await rejection(openBytes(image));
    expect(error).toMatchObject({ code: 'REFERENCE', feature: 'external data file' });
    await using file = await openFile(path);
    const details = await qcow2.describe(file, context);
    expect(details).toMatchObject({ dataFile: dataPath, features: ['external data file'] });
    expect(details.allocatedSize).toBeUndefined();
  });
});
