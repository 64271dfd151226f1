import fc from 'fast-check';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { openFile } from '../src/source/file.ts';
import { noise, rejection, tempDir } from './helpers.ts';
import { allExtents, context, readAll } from './qcow2-helpers.ts';
import { encrypted, expectSameContent, openImage, PASSPHRASE } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const passphrase = Buffer.from(PASSPHRASE);
const secret = ['--object', `secret,id=key,data=${PASSPHRASE}`];

const LUKS = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';
const AES = 'encrypt.format=aes,encrypt.key-secret=key';

function create(options: string, size: string, flags: readonly string[] = []): string {
  const path = join(tempDir(), 'disk.qcow2');
  const all = [...secret, '-f', 'qcow2', ...flags, '-o', options, path, size];
  run('qemu-img', ['create', '-q', ...all]);
  return path;
}

function io(path: string, ...commands: string[]): void {
  run('qemu-io', [...encrypted(path), ...commands.flatMap((command) => ['-c', command])]);
}

async function expectSame(path: string): Promise<void> {
  await expectSameContent(path, { source: encrypted(path), passphrase });
}

describeWith(['qemu-img', 'qemu-io'], 'encrypted images as qemu-img reads them', () => {
  // qemu takes three seconds to make up its mind on LUKS
  test.each([
    AES,
    `${AES},cluster_size=2M`,
    `${AES},cluster_size=512`,
    `${LUKS},cluster_size=512`,
    `${LUKS},extended_l2=on,cluster_size=16k`,
  ])('%s', async (options) => {
    const path = create(options, '3M');
    await expectSame(path);
    // pieces in one cluster, neighbours, a gap, the last sector; and what is never encrypted
    io(path, 'write -P 1 0 512', 'write -P 2 100k 200k', 'write -P 3 1M 1k', 'write -P 4 3071k 1k');
    io(path, 'write -z 120k 20k', 'write -z -u 2M 100k', 'discard 200k 64k');
    await expectSame(path);
    expect((await openImage(path, { passphrase })).stored).toBeUndefined();
  });

  test.each([LUKS, `${AES},cluster_size=512`])('any range: %s', async (options) => {
    const path = create(options, `${512 * KiB - 512}`);
    io(
      path,
      'write -P 1 0 100k',
      'write -P 2 101k 60k',
      'write -P 3 300k 1k',
      'write -P 4 500k 11776',
    );
    await using disk = await openImage(path, { passphrase });
    const content = await readAll(disk);
    expect(content.subarray(-512).equals(Buffer.alloc(512, 4))).toBe(true);
    const range = fc.nat({ max: disk.size - 1 }).chain((start) =>
      fc.tuple(
        fc.constant(start),
        fc
          .oneof(fc.nat({ max: 1500 }), fc.nat({ max: disk.size }))
          .map((length) => Math.min(length, disk.size - start)),
      ),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(range, { minLength: 1, maxLength: 4 }), async (ranges) => {
        await Promise.all(
          ranges.map(async ([start, length]) => {
            const bytes = Buffer.alloc(length, 0xa5);
            await disk.read(bytes, start);
            expect(bytes.equals(content.subarray(start, start + length))).toBe(true);
          }),
        );
      }),
      { numRuns: 80 },
    );
  });

  test('a disk that ends within a sector', async () => {
    const path = create(AES, '128k');
    io(path, 'write -P 5 0 128k');
    const image = readFileSync(path);
    image.writeBigUInt64BE(BigInt(128 * KiB - 100), 24);
    await using disk = await qcow2.open(bufferSource(image), { ...context, passphrase });
    expect((await readAll(disk)).equals(Buffer.alloc(128 * KiB - 100, 5))).toBe(true);
    expect((await readAll(disk, 1000)).equals(Buffer.alloc(128 * KiB - 100, 5))).toBe(true);
  });

  test('over a backing file that is not', async () => {
    const folder = tempDir();
    const base = join(folder, 'base.raw');
    writeFileSync(base, noise(MiB + 512));
    const path = create(`${AES},cluster_size=4k`, '2M', ['-b', base, '-F', 'raw']);
    io(path, 'write -P 1 100k 10k', 'write -z 300k 10k', 'write -P 2 1020k 100k');
    await expectSame(path);
  });

  test('with its data in another file', async () => {
    const data = join(tempDir(), 'disk.data');
    const path = create(`${AES},data_file=${data}`, '1M');
    io(path, 'write -P 1 0 10k', 'write -P 2 200k 100k');
    await expectSame(path);
    expect(readFileSync(data).includes(Buffer.alloc(512, 2))).toBe(false);
  });

  test('a snapshot', async () => {
    const path = create(AES, '1M');
    io(path, 'write -P 1 0 128k');
    await using before = await openImage(path, { passphrase });
    const content = await readAll(before);
    run('qemu-img', [
      'snapshot',
      ...encrypted(path).slice(0, 2),
      '-c',
      'one',
      ...encrypted(path).slice(2),
    ]);
    io(path, 'write -P 2 64k 64k');
    await expectSame(path);
    await using disk = await openImage(path, { passphrase, snapshot: 'one' });
    expect((await readAll(disk)).equals(content)).toBe(true);
  });

  test('the wrong passphrase, none, what can be told without, and headers that are not there', async () => {
    const path = create(LUKS, '1M');
    io(path, 'write -P 1 0 128k');
    const none = await rejection(openImage(path));
    expect(none).toMatchObject({ code: 'UNSUPPORTED', feature: 'encryption' });
    const wrong = await rejection(openImage(path, { passphrase: Buffer.from('sesame open') }));
    expect(wrong).toMatchObject({ code: 'FORBIDDEN' });
    await using file = await openFile(path);
    expect(await qcow2.describe(file, context)).toMatchObject({
      encryption: 'luks',
      allocatedSize: 128 * KiB,
    });
    await using disk = await openImage(path, { passphrase });
    expect(await qcow2.describe(file, context)).toEqual(disk.details);
    expect(await allExtents(disk)).toHaveLength(2);

    // an encryption header that is not where it can be
    const good = readFileSync(path);
    const at = good.indexOf(Buffer.from([0x05, 0x37, 0xbe, 0x77])) + 8;
    expect(at).toBeGreaterThan(100);
    const codeOf = async (offset: bigint, length: bigint): Promise<unknown> => {
      const image = Buffer.from(good);
      image.writeBigUInt64BE(offset, at);
      image.writeBigUInt64BE(length, at + 8);
      const opening = qcow2.open(bufferSource(image), { ...context, passphrase });
      return (await rejection(opening)).code;
    };
    const offset = good.readBigUInt64BE(at);
    const length = good.readBigUInt64BE(at + 8);
    expect(await codeOf(1n << 40n, length)).toBe('TRUNCATED');
    expect(await codeOf(1n << 63n, length)).toBe('TRUNCATED');
    expect(await codeOf(0n, length)).toBe('CORRUPT');
    expect(await codeOf(good.readBigUInt64BE(40), length)).toBe('CORRUPT');
    expect(await codeOf(offset, 1n << 62n)).toBe('LIMIT');
    expect(await codeOf(offset, 100n)).toMatch(/CORRUPT|TRUNCATED/);
  });
});
