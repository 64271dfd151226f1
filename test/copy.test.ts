import { randomBytes } from 'node:crypto';
/** The library's main call: inputs of every kind, reports, progress, cancelling, faults, memory. */

import {
  createReadStream,
  existsSync,
  openSync,
  closeSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { describe, expect, onTestFinished, test } from 'vitest';
import { info, map, sparsecopy, type Progress } from '../src/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { canFindHoles } from '../src/source/holes.ts';
import { shell } from './command.ts';
import { inPieces, noise, rejection, sha256, tempDir, watchedSource } from './helpers.ts';
import { hasTool, run } from './native.ts';
import { describeWith } from './tools.ts';

const MiB = 2 ** 20;
const TiB = 2 ** 40;

/** 5 MiB: noise, zeros, noise with a zero hole, a short tail. */
const disk = Buffer.concat([
  noise(MiB),
  Buffer.alloc(2 * MiB),
  noise(MiB + 512, 2),
  Buffer.alloc(MiB - 1000),
  noise(300, 3),
]);

const holes = await canFindHoles();

describe('inputs', () => {
  const expected = disk;
  test.each<[string, (path: string) => Parameters<typeof sparsecopy>[0]]>([
    ['a path', (path) => path],
    ['a Readable', (path) => createReadStream(path)],
    ['a Readable in object mode', () => Readable.from([disk.subarray(0, 7), disk.subarray(7)])],
    ['an async iterable in pieces of 1', () => inPieces(disk.subarray(0, 20_000), 1)],
    ['an async iterable in pieces of 97', () => inPieces(disk, 97)],
    ['an async iterable in pieces of 65536', () => inPieces(disk, 65_536)],
    ['a Source', () => bufferSource(disk)],
    ['gzip in pieces of 97', () => inPieces(gzipSync(disk), 97)],
    ['gzip of gzip', () => inPieces(gzipSync(gzipSync(disk)), 65_536)],
  ])('%s', async (title, input) => {
    const folder = tempDir();
    const path = join(folder, 'src');
    const dst = join(folder, 'dst');
    writeFileSync(path, disk);
    const report = await sparsecopy(input(path), dst);
    const content = title.endsWith('pieces of 1') ? expected.subarray(0, 20_000) : expected;
    expect(readFileSync(dst).equals(content)).toBe(true);
    expect(report.virtualSize).toBe(content.length);
    expect(report.codecs).toEqual(
      title.startsWith('gzip') ? Array<string>(title === 'gzip of gzip' ? 2 : 1).fill('gzip') : [],
    );
    expect(readdirSync(folder).sort()).toEqual(['dst', 'src']);
  });

  test('compressions are peeled up to the limit and no further', async () => {
    let bytes: Buffer = noise(1000);
    for (let layer = 0; layer < 8; layer++) bytes = gzipSync(bytes);
    const dst = join(tempDir(), 'dst');
    expect((await sparsecopy(bufferSource(bytes), dst)).codecs).toHaveLength(8);
    const error = await rejection(sparsecopy(bufferSource(gzipSync(bytes)), dst));
    expect(error.code).toBe('LIMIT');
  });

  test("a caller's Source is not disposed of", async () => {
    let disposed = 0;
    const source = {
      ...bufferSource(disk),
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.resolve();
        disposed++;
      },
    };
    await sparsecopy(source, join(tempDir(), 'dst'));
    expect(disposed).toBe(0);
  });
});

describe('outputs', () => {
  test('a Writable gets all bytes and is ended', async () => {
    const pieces: Buffer[] = [];
    const target = new Writable({
      write(piece: Buffer, _encoding, done) {
        pieces.push(Buffer.from(piece));
        done();
      },
    });
    const report = await sparsecopy(bufferSource(disk), target);
    expect(Buffer.concat(pieces).equals(disk)).toBe(true);
    expect(target.writableFinished).toBe(true);
    expect(report).toMatchObject({ bytesWritten: disk.length, sizeOnDisk: undefined });
  });

  test('zeros are holes, and what is reported is what is there', async () => {
    const dst = join(tempDir(), 'dst');
    const report = await sparsecopy(bufferSource(disk), dst);
    const { blocks, size } = statSync(dst);
    expect(size).toBe(disk.length);
    expect(report.sizeOnDisk).toBe(blocks * 512);
    expect(blocks * 512).toBeLessThan(2.2 * MiB);
    expect(report.bytesWritten).toBeLessThan(2.1 * MiB);
    expect(report.diskSize).toBe(countBlocks(disk, 512));
    expect((await sparsecopy(bufferSource(disk), dst, { blockSize: 65_536 })).diskSize).toBe(
      countBlocks(disk, 65_536),
    );
  });

  test('two at once in one process do not mix', async () => {
    const folder = tempDir();
    const other = noise(3 * MiB, 9);
    await Promise.all([
      sparsecopy(inPieces(gzipSync(disk), 1000), join(folder, 'a')),
      sparsecopy(inPieces(gzipSync(other), 1000), join(folder, 'b')),
    ]);
    expect(readFileSync(join(folder, 'a')).equals(disk)).toBe(true);
    expect(readFileSync(join(folder, 'b')).equals(other)).toBe(true);
  });

  test.each(['blockSize', 'maxWrite', 'seek', 'finalSize', 'syncEvery'])(
    '%s must be a size',
    async (name) => {
      for (const value of [-1, 1.5, NaN, 2 ** 60]) {
        const folder = tempDir();
        const copy = sparsecopy(bufferSource(disk), join(folder, 'dst'), { [name]: value });
        expect(await rejection(copy)).toBeInstanceOf(RangeError);
        expect(readdirSync(folder)).toEqual([]);
      }
    },
  );
});

describe('progress and cancelling', () => {
  test('progress grows, knows the totals that can be known, and ends with the whole', async () => {
    const seen: Progress[] = [];
    const folder = tempDir();
    const src = join(folder, 'src');
    writeFileSync(src, Buffer.concat(Array<Buffer>(20).fill(disk)));
    const report = await sparsecopy(src, join(folder, 'dst'), {
      onProgress: (progress) => void seen.push(progress),
    });
    const last = seen.at(-1);
    expect(last).toEqual({
      sourceBytes: report.bytesRead,
      sourceTotal: disk.length * 20,
      virtualBytes: disk.length * 20,
      virtualTotal: disk.length * 20,
      diskSize: report.diskSize,
    });
    for (const [at, progress] of seen.entries()) {
      expect(progress.virtualBytes).toBeGreaterThanOrEqual(seen[at - 1]?.virtualBytes ?? 0);
    }
    const piped: Progress[] = [];
    await sparsecopy(inPieces(gzipSync(disk), 1000), join(folder, 'dst'), {
      onProgress: (progress) => void piped.push(progress),
    });
    expect(piped.at(-1)).toMatchObject({
      sourceTotal: undefined,
      virtualTotal: undefined,
      virtualBytes: disk.length,
    });
  });

  test('an abort rejects with its reason at once, also when the input never goes on, and leaves nothing', async () => {
    const folder = tempDir();
    const input = new PassThrough();
    input.write(disk);
    const controller = new AbortController();
    const copy = sparsecopy(input, join(folder, 'dst'), { signal: controller.signal });
    copy.catch(() => undefined);
    while (readdirSync(folder).length === 0) await sleep(5);
    const reason = new Error('enough');
    controller.abort(reason);
    expect(await rejection(copy)).toBe(reason);
    expect(readdirSync(folder)).toEqual([]);
    expect(input.destroyed).toBe(true);
  });

  test('an abort before the start does nothing', async () => {
    const folder = tempDir();
    const signal = AbortSignal.abort(new Error('too late'));
    expect(
      (await rejection(sparsecopy(bufferSource(disk), join(folder, 'dst'), { signal }))).message,
    ).toBe('too late');
    expect(readdirSync(folder)).toEqual([]);
  });

  test('an async iterable that hangs does not keep a failed copy waiting', async () => {
    async function* hangs(): AsyncGenerator<Buffer> {
      yield noise(2 * MiB);
      await new Promise(() => undefined);
    }
    const target = new Writable({
      write(_piece, _encoding, done) {
        done(new Error('no more'));
      },
    });
    expect((await rejection(sparsecopy(hangs(), target))).message).toBe('no more');
  });
});

describe('faults', () => {
  test('every failing read surfaces, nothing is left, no descriptor stays open', async () => {
    const before = openDescriptors();
    for (let failAt = 0; ; failAt++) {
      const folder = tempDir();
      writeFileSync(join(folder, 'dst'), 'old');
      const source = watchedSource(bufferSource(disk), failAt);
      const copy = sparsecopy(source, join(folder, 'dst'));
      if (failAt < 6) {
        expect((await rejection(copy)).code).toBe('EIO');
        expect(readFileSync(join(folder, 'dst'), 'utf8')).toBe('old');
        expect(readdirSync(folder)).toEqual(['dst']);
      } else {
        await copy;
        break;
      }
    }
    expect(openDescriptors()).toBe(before);
  });

  test.runIf(hasTool('strace'))('every failing write surfaces and leaves nothing', () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'src'), disk);
    writeFileSync(join(folder, 'dst'), 'old');
    for (let number = 1; number < 8; number++) {
      const outcome = shell(
        `UV_THREADPOOL_SIZE=1 strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:error=EIO:when=${number} $SC src dst`,
        { cwd: folder },
      );
      if (outcome.status === 0) {
        expect(number).toBeGreaterThan(2);
        expect(readFileSync(join(folder, 'dst')).equals(disk)).toBe(true);
        return;
      }
      expect(outcome).toMatchObject({
        status: 9,
        stderr: 'sparsecopy: cannot write dst: i/o error (EIO)\n',
      });
      expect(readdirSync(folder).sort()).toEqual(['dst', 'src']);
      expect(readFileSync(join(folder, 'dst'), 'utf8')).toBe('old');
    }
    throw new Error('the copy never succeeded');
  });

  test('a source that fails passes its own error', async () => {
    async function* fails(): AsyncGenerator<Buffer> {
      yield noise(MiB);
      await Promise.resolve();
      throw new Error('my own');
    }
    const folder = tempDir();
    expect((await rejection(sparsecopy(fails(), join(folder, 'dst')))).message).toBe('my own');
    expect(readdirSync(folder)).toEqual([]);
  });

  test.runIf(process.getuid?.() === 0 && hasTool('mount'))(
    'a full file system: ENOSPC, nothing left, the old file stays',
    async () => {
      const folder = tempDir();
      // Not a multiple of the write size: the last write before the end is partial, which Node reports without an error.
      run('mount', ['-t', 'tmpfs', '-o', 'size=1000k', 'tmpfs', folder]);
      onTestFinished(() => void run('umount', [folder]));
      writeFileSync(join(folder, 'dst'), 'old');
      const error = await rejection(sparsecopy(bufferSource(noise(3 * MiB)), join(folder, 'dst')));
      expect(error.code).toBe('ENOSPC');
      expect(readdirSync(folder)).toEqual(['dst']);
      expect(readFileSync(join(folder, 'dst'), 'utf8')).toBe('old');
      const src = join(tempDir(), 'src');
      writeFileSync(src, noise(3 * MiB));
      expect(shell(`$SC ${src} dst`, { cwd: folder })).toMatchObject({
        status: 9,
        stderr: 'sparsecopy: cannot write dst: no space left on device (ENOSPC)\n',
      });
      expect(readdirSync(folder)).toEqual(['dst']);
    },
  );

  test('a file size limit is an error', () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'src'), noise(MiB));
    const outcome = shell('ulimit -f 100; $SC src dst', { cwd: folder });
    expect(outcome).toMatchObject({
      status: 9,
      stderr: 'sparsecopy: cannot write dst: file too large (EFBIG)\n',
    });
    expect(readdirSync(folder)).toEqual(['src']);
  });
});

describe('size is no matter', () => {
  test.runIf(holes)('a sparse raw file of 16 TiB with a few blocks', async () => {
    const folder = tempDir();
    const src = join(folder, 'src');
    const file = openSync(src, 'w');
    // The file system's own limit is one block short of 16 TiB.
    const size = 16 * TiB - 4096;
    truncateSync(src, size);
    for (const at of [0, 5 * TiB, size - 4096]) writeSync(file, noise(4096), 0, 4096, at);
    closeSync(file);
    const started = performance.now();
    const report = await sparsecopy(src, join(folder, 'dst'));
    expect(report).toMatchObject({
      virtualSize: size,
      diskSize: 3 * 4096,
      allocatedSize: 3 * 4096,
      bytesWritten: 3 * 4096,
    });
    expect(report.bytesRead).toBeLessThan(200_000);
    expect(performance.now() - started).toBeLessThan(20_000);
    const extents = [];
    for await (const extent of map(join(folder, 'dst'))) extents.push(extent);
    expect(extents.map(({ kind, offset }) => [kind, offset])).toEqual([
      ['data', 0],
      ['zero', 4096],
      ['data', 5 * TiB],
      ['zero', 5 * TiB + 4096],
      ['data', size - 4096],
    ]);
  });

  test('peak memory of the command stays small while a slow reader holds it back', () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'src'), gzipSync(randomBytes(250 * MiB), { level: 0 }));
    const outcome = shell('/usr/bin/time -f "peak %M" $SC src - | { sleep 1; cat > /dev/null; }', {
      cwd: folder,
    });
    expect(outcome.status).toBe(0);
    expect(Number(/peak (\d+)/.exec(outcome.stderr)?.[1])).toBeLessThan(200_000);
  });
});

describeWith(
  ['qemu-img', 'gzip', 'xz', 'lz4', 'zstd', 'mkfs.ext4', 'sfdisk'],
  'a real disk, every way in',
  () => {
    test('gives the bytes that qemu-img gives', async () => {
      const { makeDisk } = await import('./disk.ts');
      const folder = tempDir();
      const at = (name: string): string => join(folder, name);
      makeDisk(at('disk.raw'), { size: 64 * MiB, data: 12e6 });
      const raw = at('disk.raw');
      run('qemu-img', ['convert', '-O', 'qcow2', raw, at('plain.qcow2')]);
      run('qemu-img', ['convert', '-c', '-O', 'qcow2', raw, at('deflate.qcow2')]);
      run('qemu-img', [
        'convert',
        '-c',
        '-O',
        'qcow2',
        '-o',
        'compression_type=zstd',
        raw,
        at('zstd.qcow2'),
      ]);
      run('sh', [
        '-c',
        `cd ${folder}; gzip -1 -k disk.raw; xz -0 -k -T2 disk.raw; lz4 -q disk.raw disk.raw.lz4; zstd -q disk.raw; gzip -1 -k plain.qcow2; xz -0 -k deflate.qcow2; zstd -q plain.qcow2; lz4 -q zstd.qcow2 zstd.qcow2.lz4`,
      ]);
      const wanted = sha256(readFileSync(raw));
      const realSize = countBlocks(readFileSync(raw), 512);
      const inputs = readdirSync(folder);
      expect(inputs).toHaveLength(12);
      for (const name of inputs) {
        for (const input of [
          at(name),
          createReadStream(at(name)),
          createReadStream(at(name), { highWaterMark: 9973 }),
        ]) {
          const report = await sparsecopy(input, at('out'));
          expect(sha256(readFileSync(at('out'))), name).toBe(wanted);
          expect(report, name).toMatchObject({ virtualSize: 64 * MiB, diskSize: realSize });
          expect(statSync(at('out')).blocks * 512).toBeLessThan(1.05 * statSync(raw).blocks * 512);
        }
      }
      expect(await info(at('plain.qcow2'))).toMatchObject({
        format: 'qcow2',
        virtualSize: 64 * MiB,
      });
      expect(await info(at('plain.qcow2.gz'))).toMatchObject({
        format: 'qcow2',
        codecs: ['gzip'],
        virtualSize: 64 * MiB,
      });
    });
  },
);

function countBlocks(bytes: Buffer, blockSize: number): number {
  let count = 0;
  const zero = Buffer.alloc(blockSize);
  for (let at = 0; at < bytes.length; at += blockSize) {
    const block = bytes.subarray(at, at + blockSize);
    if (!block.equals(zero.subarray(0, block.length))) count += block.length;
  }
  return count;
}

function openDescriptors(): number {
  return existsSync('/proc/self/fd') ? readdirSync('/proc/self/fd').length : 0;
}
