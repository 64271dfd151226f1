/** Images as qemu makes them have in one pass the disk that qemu-img reads from them. */

import { closeSync, openSync, readFileSync, readdirSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { poke64, u64 } from '../fixtures/image.ts';
import { sparsecopy } from '../src/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { Chunk, Reference, Run, Source } from '../src/types.ts';
import { inPieces, noise, rejection, tempDir } from './helpers.ts';
import {
  expectSamePassing,
  openPassing,
  passAll,
  runsIn,
  seekAll,
  TIGHT,
  type Context,
} from './pass-helpers.ts';
import { encrypted, PASSPHRASE } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A raw file of 3 MiB and a bit, or the start of it: text, noise, and zeros large and small. */
function rawFile(folder: string, size = 3 * MiB + 12_345): string {
  const path = join(folder, 'in.raw');
  const content = Buffer.alloc(3 * MiB + 12_345);
  noise(300_000).copy(content, 100_000);
  content.fill('all work and no play makes a dull disk. ', 1_200_000, 2_000_000);
  for (let at = 2_000_000; at < 2_600_000; at += 9000) noise(4000, at).copy(content, at);
  content.fill('x', content.length - 3000);
  writeFileSync(path, content.subarray(0, size));
  return path;
}

/** `image`, which is encrypted, with its encryption header behind everything else. */
function cryptoHeaderLast(image: Buffer): Buffer {
  const at = image.indexOf(Buffer.from('0537be7700000010', 'hex')) + 8;
  const [offset, length] = [u64(image, at), u64(image, at + 8)];
  const end = Math.ceil(image.length / (64 * KiB)) * 64 * KiB;
  const moved = poke64(poke64(image, end + length, 0n), at, BigInt(end));
  image.copy(moved, end, offset, offset + length);
  return moved.fill(0xee, offset, offset + length);
}

function qemuImg(...args: string[]): void {
  run('qemu-img', args);
}

function qemuIo(path: string, ...commands: string[]): void {
  run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

/** Asserts that the image at `path` has in one pass the disk that qemu-img makes of it. */
async function expectSame(
  path: string,
  sizes = [4097, 64 * KiB],
  context: Context = {},
): Promise<void> {
  const image = readFileSync(path);
  const raw = `${path}.raw`;
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, raw);
  const seeking = await seekAll(image, context);
  expect(seeking.content.equals(readFileSync(raw))).toBe(true);
  await expectSamePassing(image, seeking, sizes, context);
  await expectSamePassing(image, seeking, sizes.slice(0, 1), {
    ...context,
    limits: { ...TIGHT, parkedSize: Math.max(64 * KiB, u64(image, 40)) },
  });
}

describeWith(['qemu-img', 'qemu-io'], 'images that qemu makes', () => {
  test.each(['512', '4k', '64k', '2M'])('convert to clusters of %s', async (size) => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const input = rawFile(folder, size === '512' ? 2 * MiB + 12_345 : undefined);
    for (const [flags, more] of [
      [[], ''],
      [['-c', '-W', '-m', '16'], ''],
      [['-c'], ',compression_type=zstd'],
      ...(size === '4k' ? [[['-W'], ',compat=0.10'] as const, [['-c'], ''] as const] : []),
      ...(size === '64k' || size === '2M' ? [[[], ',extended_l2=on'] as const] : []),
    ] as const) {
      const options = `cluster_size=${size}${more}`;
      qemuImg('convert', ...flags, '-f', 'raw', '-O', 'qcow2', '-o', options, input, path);
      await expectSame(path);
    }
  });

  test.each(['preallocation=metadata', 'preallocation=falloc', 'refcount_bits=1'])(
    '%s',
    async (options) => {
      const folder = tempDir();
      const path = join(folder, 'disk.qcow2');
      qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, '3M');
      await expectSame(path);
      qemuIo(path, 'write -P 5 100k 1M', 'write -z 300k 200k', 'discard 700k 64k');
      await expectSame(path);
    },
  );

  test('subclusters written one by one, over a backing file', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const base = rawFile(folder, 2 * MiB);
    const options = 'extended_l2=on,cluster_size=128k';
    qemuImg('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, '-o', options, path, '3M');
    const writes = [3, 5, 6, 40, 41, 300, 511].map((at) => `write -P ${at % 200} ${at * 4}k 4k`);
    qemuIo(path, ...writes, 'write -z 500k 20k', 'write -z 1600k 300k', 'discard 40k 8k');
    const openReference = ({ name }: Reference): Promise<Source> =>
      Promise.resolve(bufferSource(readFileSync(name), name));
    await expectSame(path, [1000, 64 * KiB], { openReference });
  });

  test('backing files shorter and longer than the disk, and one of the caller’s own', async () => {
    const folder = tempDir();
    const base = rawFile(folder, MiB + 700);
    const openReference = (): Promise<Source> =>
      Promise.resolve(bufferSource(readFileSync(base), 'base'));
    for (const size of ['3M', '512k']) {
      const path = join(folder, 'disk.qcow2');
      qemuImg('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, path, size);
      await expectSame(path, [512], { openReference });
      qemuIo(path, 'write -P 7 70k 100k', 'write -z 300k 65k');
      await expectSame(path, [1000, 64 * KiB], { openReference });
      qemuImg('rebase', '-u', '-f', 'qcow2', '-b', '', path);
      const image = readFileSync(path);
      const context = { openReference, hasOwnBacking: true };
      await expectSamePassing(image, await seekAll(image, context), [4097], context);
    }
  });

  test('resized: the L1 table has moved behind the data', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    for (const flags of [[], ['-c']]) {
      const options = 'cluster_size=512';
      qemuImg(
        'convert',
        ...flags,
        '-f',
        'raw',
        '-O',
        'qcow2',
        '-o',
        options,
        rawFile(folder),
        path,
      );
      qemuImg('resize', '-q', '-f', 'qcow2', path, '40M');
      qemuIo(path, 'write -P 9 20M 300k');
      const image = readFileSync(path);
      expect(u64(image, 40)).toBeGreaterThan(MiB / 2);
      await expectSame(path);
      const passed = await passAll(image, runsIn(image, 64 * KiB));
      expect(passed.parked.peak).toBeGreaterThan(u64(image, 40) / 2);
    }
  });

  test('snapshots inside, written to since', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=4k', rawFile(folder), path);
    qemuImg('snapshot', '-c', 'first', path);
    qemuIo(path, 'write -P 3 200k 300k', 'write -P 4 2M 100k');
    qemuImg('snapshot', '-c', 'second', path);
    qemuIo(path, 'write -P 5 250k 30k', 'write -z 2M 50k');
    const folderOfTemp = tempDir();
    await expectSame(path, [1000, Infinity], { tempDir: folderOfTemp });
    const image = readFileSync(path);
    const context = { limits: TIGHT, tempDir: folderOfTemp };
    const { parked } = await passAll(image, runsIn(image, 64 * KiB), context);
    expect(parked.spooled).toBeGreaterThan(0);
    expect(readdirSync(folderOfTemp)).toEqual([]);
  });

  test.each(['luks', 'aes'])('encrypted with %s', async (method) => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const time = method === 'luks' ? ',encrypt.iter-time=10' : '';
    for (const size of method === 'luks' ? ['64k'] : ['4k', '64k']) {
      qemuImg(
        'convert',
        ...['--object', `secret,id=key,data=${PASSPHRASE}`, '-f', 'raw', '-O', 'qcow2'],
        ...['-o', `encrypt.format=${method},encrypt.key-secret=key,cluster_size=${size}${time}`],
        ...[rawFile(folder, 3 * MiB), path],
      );
      const image = readFileSync(path);
      qemuImg('convert', ...encrypted(path), '-O', 'raw', `${path}.raw`);
      const context = { passphrase: Buffer.from(PASSPHRASE) };
      const seeking = await seekAll(image, context);
      expect(seeking.content.equals(readFileSync(`${path}.raw`))).toBe(true);
      await expectSamePassing(image, seeking, [4097, 64 * KiB], context);
      const limits = { ...TIGHT, parkedSize: u64(image, 40) };
      await expectSamePassing(image, seeking, [1000], { ...context, limits });
      if (method === 'luks') {
        const last = cryptoHeaderLast(image);
        expect((await seekAll(last, context)).content.equals(seeking.content)).toBe(true);
        await expectSamePassing(last, seeking, [64 * KiB], context);
      }
      const wrong = { passphrase: Buffer.from('wrong') };
      for (const secret of method === 'luks' ? [wrong, {}] : [{}]) {
        const wanted = await rejection(seekAll(image, secret));
        const error = await rejection(passAll(image, runsIn(image, 4096), secret));
        expect(error).toMatchObject({ code: wanted.code, message: wanted.message });
      }
    }
  });

  test('a disk of 16 TiB with little on it', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', path, '16T');
    const places = Array.from({ length: 30 }, (_, at) => `write -P ${at + 1} ${at * 549}G 64k`);
    qemuIo(path, ...places.reverse());
    const image = readFileSync(path);
    const disk = await openPassing(image, runsIn(image, 64 * KiB));
    let length = 0;
    let data = 0;
    let last: Chunk | undefined;
    for await (const chunk of disk.chunks()) {
      length += chunk.length;
      if (chunk.kind === 'zero') continue;
      data += chunk.length;
      expect(chunk.bytes.every((byte) => byte === chunk.offset / 549 / 2 ** 30 + 1)).toBe(true);
      last = chunk;
    }
    expect(last).toBeDefined();
    expect(length).toBe(disk.size);
    expect(data).toBe(30 * 64 * KiB);
    expect(disk.parked.peak).toBeLessThan(MiB);
    await disk[Symbol.asyncDispose]();
  });

  test('what is parked of usual images is little, and stays in memory', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const input = join(folder, 'in.raw');
    // data in each of eight tables
    const handle = openSync(input, 'w');
    for (let at = 0; at < 8; at++) writeSync(handle, noise(MiB, at + 1), 0, MiB, at * 512 * MiB);
    closeSync(handle);
    for (const flags of [[], ['-W']]) {
      qemuImg('convert', ...flags, '-f', 'raw', '-O', 'qcow2', input, path);
      const image = readFileSync(path);
      const disk = await openPassing(image, runsIn(image, 64 * KiB));
      for await (const chunk of disk.chunks()) expect(chunk.length).toBeGreaterThan(0);
      expect(disk.parked.peak).toBeLessThanOrEqual(64 * KiB);
      expect(disk.parked.spooled).toBe(0);
      await disk[Symbol.asyncDispose]();
    }
  });

  test('a slow consumer holds the input back, and only so many buffers are alive', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const input = join(folder, 'in.raw');
    const text = Buffer.alloc(20 * MiB, 'the quick brown fox jumps over the lazy dog. ');
    for (let at = 0; at < text.length; at += 100_000) noise(20_000, at + 1).copy(text, at);
    writeFileSync(input, text);
    for (const flags of [[], ['-c']]) {
      qemuImg('convert', ...flags, '-f', 'raw', '-O', 'qcow2', input, path);
      const image = readFileSync(path);
      let asked = 0;
      const counted = async function* (): AsyncGenerator<Run> {
        for await (const piece of runsIn(image, 64 * KiB)) {
          asked++;
          yield piece;
        }
      };
      const disk = await openPassing(image, counted());
      let alive = 0;
      let most = 0;
      const free: Buffer[] = [];
      const pool = {
        bufferSize: MiB,
        take(): Buffer {
          most = Math.max(most, ++alive);
          return free.pop() ?? Buffer.allocUnsafeSlow(MiB);
        },
        give(buffer: Buffer): void {
          alive--;
          free.push(buffer);
        },
      };
      for await (const chunk of disk.chunks(pool)) {
        const before = asked;
        await new Promise((resolve) => setTimeout(resolve, 1));
        expect(asked).toBe(before);
        if (chunk.kind === 'data') chunk.release?.();
      }
      // eight being filled, five waiting for their work, one being taken
      expect(most).toBeLessThanOrEqual(14);
      expect(alive).toBe(0);
      expect(disk.parked.peak).toBeLessThan(4 * MiB);
      await disk[Symbol.asyncDispose]();
    }
  });

  test('over an existing file: the same content, and the same count of what was not zero', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const flags = ['-c', '-W', '-m', '16', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=512'];
    qemuImg('convert', ...flags, rawFile(folder), path);
    const image = readFileSync(path);
    const { content } = await seekAll(image);
    const old = noise(content.length + 5000);
    old.fill(0, 700_000, 1_300_000);
    const reports = [];
    for (const source of [path, inPieces(image, 64 * KiB)]) {
      const output = join(folder, 'out.raw');
      writeFileSync(output, old);
      const report = await sparsecopy(source, output, { overlay: true });
      const out = readFileSync(output);
      expect(out.subarray(0, content.length).equals(content)).toBe(true);
      expect(out.subarray(content.length).equals(old.subarray(content.length))).toBe(true);
      reports.push(report);
    }
    const [seeking, passing] = reports;
    expect(passing).toMatchObject({
      virtualSize: seeking?.virtualSize,
      diskSize: seeking?.diskSize,
      nonZeroDestination: seeking?.nonZeroDestination,
    });
    expect(seeking?.nonZeroDestination).toBeGreaterThan(0);
  });
});
