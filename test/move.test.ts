/** Large disks whose bytes lie as they are in a file: threads move them, and nothing else may differ. */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { sparsecopy, type Progress } from '../src/index.ts';
import type { Move } from '../src/sink/mover-job.ts';
import { threadsOf } from '../src/threads.ts';
import { canFindHoles } from '../src/source/holes.ts';
import { shell, startCommand } from './command.ts';
import { rejection, sha256, tempDir } from './helpers.ts';
import { hasTool, run } from './native.ts';

const MiB = 2 ** 20;

const holes = await canFindHoles();

/** A disk of 100 MiB and a bit, 80 MiB of it data, in pieces of all lengths from a sector to many MiB. */
function makeRaw(path: string): void {
  const noise = randomBytes(MiB);
  const file = openSync(path, 'w');
  let data = 0;
  for (let at = 0, turn = 0; data < 80 * MiB; turn++) {
    const length = turn % 7 === 0 ? 12 * MiB : 512 * (1 + ((turn * 37) % 300));
    for (let done = 0; done < length; done += MiB) {
      writeSync(file, noise, 0, Math.min(MiB, length - done), at + done);
    }
    data += length;
    at += length + 512 * ((turn * 13) % 40);
  }
  closeSync(file);
  truncateSync(path, Math.ceil(statSync(path).size / 512) * 512 + 512 * 3000);
}

describe('moving', () => {
  test('gives what the stages give: bytes, sizes, holes', async () => {
    const folder = tempDir();
    const at = (name: string): string => join(folder, name);
    makeRaw(at('src'));
    const wanted = sha256(readFileSync(at('src')));
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', at('src'), at('plain.qcow2')]);
    run('qemu-img', [
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-o',
      'cluster_size=512',
      at('src'),
      at('small.qcow2'),
    ]);
    for (const name of ['src', 'plain.qcow2', 'small.qcow2']) {
      const seen: Progress[] = [];
      const moved = await sparsecopy(at(name), at('moved'), {
        onProgress: (progress) => seen.push(progress),
      });
      const movedBlocks = statSync(at('moved')).blocks;
      expect(sha256(readFileSync(at('moved'))), name).toBe(wanted);
      // A limit that limits nothing goes the other way.
      const staged = await sparsecopy(at(name), at('staged'), { maxWrite: 2 ** 40 });
      expect(sha256(readFileSync(at('staged'))), name).toBe(wanted);
      const { virtualSize, diskSize, allocatedSize } = moved;
      expect({ virtualSize, diskSize, allocatedSize }).toEqual({
        virtualSize: staged.virtualSize,
        diskSize: staged.diskSize,
        allocatedSize: staged.allocatedSize,
      });
      expect(Math.abs(movedBlocks - statSync(at('staged')).blocks)).toBeLessThan(200);
      expect(seen.at(-1)).toMatchObject({ virtualBytes: virtualSize, diskSize });
      expect(moved.bytesRead).toBeGreaterThan(80 * MiB);
      expect(moved.sizeOnDisk).toBe(movedBlocks * 512);
    }
    expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  test.runIf(holes)('short ranges, in threads, give the same', async () => {
    const folder = tempDir();
    const src = join(folder, 'src');
    const file = openSync(src, 'w');
    const piece = randomBytes(28 * 1024);
    piece.fill(0, 6144, 12_288);
    for (let turn = 0; turn < 3000; turn++)
      writeSync(file, piece, 0, piece.length, turn * 40 * 1024);
    closeSync(file);
    const wanted = await sparsecopy(src, join(folder, 'staged'), { maxWrite: 2 ** 40 });
    const digest = sha256(readFileSync(src));
    for (const options of [{}, { blocking: true }, { threads: 1 }, { threads: 0 }]) {
      const moved = await sparsecopy(src, join(folder, 'moved'), options);
      expect(sha256(readFileSync(join(folder, 'moved')))).toBe(digest);
      const { virtualSize, diskSize, allocatedSize, bytesWritten } = wanted;
      expect(moved).toMatchObject({ virtualSize, diskSize, allocatedSize, bytesWritten });
      expect(statSync(join(folder, 'moved')).blocks).toBe(statSync(join(folder, 'staged')).blocks);
    }
  });

  test('-s and -f hold', () => {
    const cwd = tempDir();
    makeRaw(join(cwd, 'src'));
    expect(
      shell('$SC -q -s 1M -f 300M src dst && cmp -n $((300<<20)) -i 0:1048576 src dst', { cwd })
        .stderr,
    ).toMatch(/^(cmp: EOF on '?src'?.*\n)?$/);
    expect(statSync(join(cwd, 'dst')).size).toBe(300 * MiB);
    expect(
      readFileSync(join(cwd, 'dst'))
        .subarray(0, MiB)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  test.runIf(hasTool('strace'))(
    'a failing read or write in a thread is the right error, and leaves nothing',
    () => {
      const cwd = tempDir();
      makeRaw(join(cwd, 'src'));
      writeFileSync(join(cwd, 'dst'), 'old');
      for (const [call, status, message] of [
        ['pread64', 2, 'cannot read src: i/o error (EIO)'],
        ['pwrite64', 9, 'cannot write dst: i/o error (EIO)'],
      ] as const) {
        const outcome = shell(
          `strace -f -qq -o /dev/null ${call === 'pread64' ? '-P "$PWD/src"' : ''} -e trace=${call} -e inject=${call}:error=EIO:when=9 $SC src dst`,
          { cwd },
        );
        expect(outcome).toMatchObject({ status, stderr: `sparsecopy: ${message}\n` });
        expect(readdirSync(cwd).sort()).toEqual(['dst', 'src']);
        expect(readFileSync(join(cwd, 'dst'), 'utf8')).toBe('old');
      }
    },
  );

  test('a folder that is not there: ENOENT, of the destination', async () => {
    const folder = tempDir();
    const src = join(folder, 'src');
    makeRaw(src);
    writeFileSync(join(folder, 'little'), randomBytes(1000));
    for (const source of [src, join(folder, 'little')]) {
      const destination = join(folder, 'none', 'dst');
      for (const blocking of [false, true]) {
        const error = await rejection(sparsecopy(source, destination, { blocking }));
        expect(error).toMatchObject({ code: 'ENOENT', path: join(folder, 'none') });
      }
      expect(shell(`$SC ${source} ${destination}`)).toMatchObject({
        status: 3,
        stderr: `sparsecopy: cannot open ${destination}: no such file or directory (ENOENT)\n`,
      });
    }
  });

  test.runIf(process.getuid?.() === 0 && hasTool('mount'))(
    'a full file system: ENOSPC, nothing left',
    async () => {
      const src = join(tempDir(), 'src');
      makeRaw(src);
      const folder = tempDir();
      run('mount', ['-t', 'tmpfs', '-o', 'size=40000k', 'tmpfs', folder]);
      onTestFinished(() => void run('umount', [folder]));
      expect((await rejection(sparsecopy(src, join(folder, 'dst')))).code).toBe('ENOSPC');
      expect(readdirSync(folder)).toEqual([]);
      expect(shell(`$SC ${src} dst`, { cwd: folder })).toMatchObject({
        status: 9,
        stderr: 'sparsecopy: cannot write dst: no space left on device (ENOSPC)\n',
      });
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  test('a source that is shorter than it was is TRUNCATED', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'src'), randomBytes(3 * MiB));
    const from = openSync(join(folder, 'src'), 'r');
    const to = openSync(join(folder, 'dst'), 'w');
    const { threads } = threadsOf(1);
    onTestFinished(async () => {
      await threads[Symbol.asyncDispose]();
      closeSync(from);
      closeSync(to);
    });
    const ranges = [{ offset: 0, length: 5 * MiB, hostOffset: 0 }];
    const task: Move = { name: 'src', from, to, seek: 0, ranges, grain: 4096, blockSize: 512 };
    const move = threads.ask('move', task);
    const error = await rejection(move);
    expect(error.code).toBe('TRUNCATED');
    expect(error.message).toBe(
      `src: has become shorter: expected bytes at ${3 * MiB}, found the end`,
    );
  });

  test('an abort leaves nothing; so does SIGTERM', async () => {
    const folder = tempDir();
    const src = join(folder, 'src');
    makeRaw(src);
    const controller = new AbortController();
    const copy = sparsecopy(src, join(folder, 'dst'), { signal: controller.signal });
    copy.catch(() => undefined);
    while (readdirSync(folder).length === 1) await new Promise((resolve) => setImmediate(resolve));
    controller.abort(new Error('enough'));
    expect((await rejection(copy)).message).toBe('enough');
    expect(readdirSync(folder)).toEqual(['src']);
    const child = startCommand([src, join(folder, 'dst')]);
    while (readdirSync(folder).length === 1) await new Promise((resolve) => setImmediate(resolve));
    child.kill('SIGTERM');
    expect(await child.ended).toMatchObject({ signal: 'SIGTERM' });
    expect(readdirSync(folder)).toEqual(['src']);
  });

  test.runIf(holes)('does not read holes', async () => {
    const folder = tempDir();
    makeRaw(join(folder, 'src'));
    truncateSync(join(folder, 'src'), 2 ** 40);
    const report = await sparsecopy(join(folder, 'src'), join(folder, 'dst'));
    expect(report.virtualSize).toBe(2 ** 40);
    expect(report.bytesRead).toBeLessThan(120 * MiB);
  });
});
