import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { openFile } from '../src/source/file.ts';
import { canFindHoles } from '../src/source/holes.ts';
import type { OpenContext, Reference, Source } from '../src/types.ts';
import { noise, rejection, tempDir, watchedSource } from './helpers.ts';
import { allExtents, context, fixture, readAll } from './qcow2-helpers.ts';
import { expectSame, openImage, referring } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Holes of files are found by an optional native package. */
const hasHoles = await canFindHoles();

/** A context in which every reference is `backing`; notes what is asked for, and whether it was disposed of. */
function backedBy(backing: Source): OpenContext & { asked: Reference[]; disposed: number } {
  const noting = {
    ...context,
    asked: [] as Reference[],
    disposed: 0,
    openReference(reference: Reference): Promise<Source> {
      noting.asked.push(reference);
      return Promise.resolve({
        name: backing.name,
        size: backing.size,
        read: (into, offset) => backing.read(into, offset),
        extents: (start, end) => backing.extents(start, end),
        [Symbol.asyncDispose](): Promise<void> {
          noting.disposed++;
          return Promise.resolve();
        },
      });
    },
  };
  return noting;
}

describe('the backing file that a context gives', () => {
  const overlay = (): Source => bufferSource(fixture('bad', 'REFERENCE.backing-file'), 'o.qcow2');

  test('is asked for by name, read where nothing is allocated, and disposed of', async () => {
    const file = bufferSource(noise(3072, 5), 'base');
    const given = backedBy(file);
    const disk = await qcow2.open(overlay(), given);
    expect(given.asked).toEqual([{ kind: 'backing file', name: 'base.raw', format: undefined }]);
    expect((await readAll(disk)).length).toBe(3072);
    expect(given.disposed).toBe(0);
    await disk[Symbol.asyncDispose]();
    expect(given.disposed).toBe(1);
  });

  test('is asked for without a name when the caller has one', async () => {
    const given = backedBy(bufferSource(noise(1024 * KiB, 5), 'base'));
    const file = bufferSource(fixture('good', 'sparse-16m'), 'o.qcow2');
    await using disk = await qcow2.open(file, { ...given, hasOwnBacking: true });
    expect(given.asked).toEqual([{ kind: 'backing file', name: '', format: undefined }]);
    await using alone = await qcow2.open(file, context);
    const both = await readAll(disk);
    const content = await readAll(alone);
    expect(both.equals(content)).toBe(false);
    for (const { kind, offset, length } of await allExtents(alone)) {
      if (kind === 'zero') continue;
      const range = [offset, offset + length] as const;
      expect(both.subarray(...range).equals(content.subarray(...range))).toBe(true);
    }
  });

  test('is not asked for when the image is broken, and disposed of when something else is', async () => {
    const given = backedBy(bufferSource(noise(512)));
    const cut = fixture('bad', 'REFERENCE.backing-file').subarray(0, -1);
    const error = await rejection(qcow2.open(bufferSource(cut), given));
    expect(error).toMatchObject({ code: 'TRUNCATED' });
    expect(given.asked).toEqual([]);
  });

  test.each(['REFERENCE.backing-file-without-name', 'REFERENCE.backing-file-name-at-2e64'])(
    '%s is CORRUPT, unless the caller has one of his own',
    async (name) => {
      const given = backedBy(bufferSource(noise(512)));
      const file = bufferSource(fixture('bad', name), name);
      expect(await rejection(qcow2.open(file, given))).toMatchObject({
        code: 'CORRUPT',
        offset: 8,
      });
      await using disk = await qcow2.open(file, { ...given, hasOwnBacking: true });
      expect(disk.size).toBe(3072);
    },
  );
});

/** The extents and content of `path` in reads of `step`, where the N-th read of the base fails. */
async function readFailing(path: string, base: Buffer, failAt: number): Promise<number> {
  const source = watchedSource(bufferSource(base, 'base'), failAt);
  await using disk = await qcow2.open(await openFile(path), backedBy(source));
  await allExtents(disk);
  await readAll(disk, 100_000);
  return source.reads;
}

describeWith(['qemu-img', 'qemu-io'], 'backing chains as qemu-img reads them', () => {
  function io(path: string, ...commands: string[]): void {
    run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
  }
  function create(path: string, size: string, base: string, format: string, options = ''): void {
    const all = options === '' ? [] : ['-o', options];
    const backing = ['-b', base, '-F', format];
    run('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, ...all, path, size]);
  }

  test.each([
    ['shorter', MiB + 512],
    ['shorter, in the middle of a sector', MiB + 700],
    ['as long', 2 * MiB],
    ['longer', 3 * MiB],
    ['empty', 0],
  ])('a raw base that is %s', async (_what, size) => {
    const folder = tempDir();
    writeFileSync(join(folder, 'base.raw'), noise(size));
    const path = join(folder, 'disk.qcow2');
    for (const options of ['cluster_size=512', '', 'cluster_size=64k,extended_l2=on']) {
      create(path, '2M', 'base.raw', 'raw', options);
      await expectSame(path);
      io(path, 'write -P 1 100k 20k', 'write -z 300k 100k', 'write -P 2 1020k 100k');
      await expectSame(path);
    }
  });

  test.skipIf(!hasHoles)('holes of the base are zeros of the overlay', async () => {
    const folder = tempDir();
    const base = join(folder, 'base.raw');
    writeFileSync(base, '');
    truncateSync(base, 4 * MiB);
    run('qemu-io', ['-f', 'raw', '-c', 'write -P 5 1M 256k', base]);
    const path = join(folder, 'disk.qcow2');
    create(path, '8M', 'base.raw', 'raw');
    io(path, 'write -P 1 6M 64k');
    await expectSame(path);
    await using disk = await openImage(path);
    expect(await allExtents(disk)).toEqual([
      { kind: 'zero', offset: 0, length: MiB },
      { kind: 'data', offset: MiB, length: 256 * KiB },
      { kind: 'zero', offset: MiB + 256 * KiB, length: 4 * MiB + 768 * KiB },
      { kind: 'data', offset: 6 * MiB, length: 64 * KiB },
      { kind: 'zero', offset: 6 * MiB + 64 * KiB, length: 2 * MiB - 64 * KiB },
    ]);
  });

  test('four images deep, of several sizes, cluster sizes and compressions', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), noise(3 * MiB));
    const at = (name: string): string => join(folder, name);
    const compress = ['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd'];
    run('qemu-img', [...compress, at('a.raw'), at('b.qcow2')]);
    create(at('c.qcow2'), '2M', 'b.qcow2', 'qcow2', 'cluster_size=4k');
    io(at('c.qcow2'), 'write -P 1 10k 30k', 'write -c -P 2 512k 4k', 'write -z 600k 100k');
    create(at('d.qcow2'), '4M', 'c.qcow2', 'qcow2', 'cluster_size=16k,extended_l2=on');
    io(at('d.qcow2'), 'write -P 3 20k 3k', 'write -c -P 4 1M 16k', 'write -P 5 3M 1k');
    create(at('e.qcow2'), '5M', 'd.qcow2', 'qcow2', 'cluster_size=2M');
    await expectSame(at('e.qcow2'));
    io(at('e.qcow2'), 'write -c -P 6 2M 2M', 'discard 0 2M');
    for (const name of ['c', 'd', 'e']) await expectSame(at(`${name}.qcow2`));
  });

  test('a compressed overlay', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'base.raw'), noise(MiB));
    const path = join(folder, 'disk.qcow2');
    create(path, '1M', 'base.raw', 'raw');
    io(path, 'write -c -P 1 64k 64k', 'write -c -P 2 960k 64k');
    await expectSame(path);
  });

  test('what covers the base is moved, what needs it is not', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'base.raw'), noise(128 * KiB));
    const path = join(folder, 'disk.qcow2');
    create(path, '1M', 'base.raw', 'raw');
    expect((await openImage(path)).stored).toBeUndefined();
    io(path, 'write -P 1 0 64k', 'write -z 64k 64k');
    expect((await openImage(path)).stored).toBeDefined();
  });

  test('small subclusters in turns are got from the base by few reads', async () => {
    const folder = tempDir();
    const base = noise(MiB);
    writeFileSync(join(folder, 'base.raw'), base);
    const path = join(folder, 'disk.qcow2');
    create(path, '1M', 'base.raw', 'raw', 'cluster_size=16k,extended_l2=on');
    io(path, ...Array.from({ length: 500 }, (_, at) => `write -P 9 ${2 * at}k 1k`));
    await expectSame(path);
    const source = watchedSource(bufferSource(base, 'base'));
    await using disk = await qcow2.open(await openFile(path), backedBy(source));
    await readAll(disk, MiB);
    expect(source.reads).toBe(1);
  });

  test('the N-th read of the base fails', async () => {
    const folder = tempDir();
    const base = noise(MiB);
    writeFileSync(join(folder, 'base.raw'), base);
    const path = join(folder, 'disk.qcow2');
    create(path, '1M', 'base.raw', 'raw', 'cluster_size=4k');
    io(path, 'write -P 9 100k 64k', 'write -P 8 500k 128k');
    const reads = await readFailing(path, base, Infinity);
    expect(reads).toBeGreaterThan(8);
    for (let number = 0; number < reads; number++) {
      expect(await rejection(readFailing(path, base, number))).toMatchObject({ code: 'EIO' });
    }
  });

  test('allocatedSize is what the overlay itself has', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'base.raw'), noise(MiB));
    const path = join(folder, 'disk.qcow2');
    create(path, '1M', 'base.raw', 'raw');
    io(path, 'write -P 1 64k 64k');
    await using file = await openFile(path);
    const described = await qcow2.describe(file, context);
    const details = { backingFile: 'base.raw', backingFormat: 'raw', allocatedSize: 64 * KiB };
    expect(described).toMatchObject(details);
    expect(await qcow2.describe(file, referring(folder))).toEqual(described);
    expect((await openImage(path)).details).toEqual(described);
    expect(readFileSync(path).includes('base.raw')).toBe(true);
  });
});
