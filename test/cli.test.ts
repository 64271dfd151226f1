/** The drop-in: every row of what the C tool does, its bugs right. */

import {
  existsSync,
  lstatSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { command, shell, startCommand } from './command.ts';
import { noise, tempDir } from './helpers.ts';

const zeros = (length: number): Buffer => Buffer.alloc(length);

/** A folder with the given files in it. */
function folderWith(files: Record<string, Uint8Array>): string {
  const folder = tempDir();
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  return folder;
}

function line(total: number, real: number, nonZero = 0): string {
  return `sparsecopy: total bytes = ${total} (real = ${real}, sparse = ${total - real}), nonzerodest = ${nonZero}\n`;
}

/** 8 blocks of 512 bytes: data, zero, data, data, zero, zero, data, zero. */
const blocks = Buffer.concat([
  noise(512, 1),
  zeros(512),
  noise(1024, 2),
  zeros(1024),
  noise(512, 3),
  zeros(512),
]);

describe('copying', () => {
  test('a file: same bytes, the closing line on stderr, nothing on stdout', () => {
    const cwd = folderWith({ src: blocks });
    const outcome = command(['src', 'dst'], { cwd });
    expect(outcome).toEqual({ status: 0, signal: null, stdout: '', stderr: line(4096, 2048) });
    expect(readFileSync(join(cwd, 'dst')).equals(blocks)).toBe(true);
    expect(readdirSync(cwd).sort()).toEqual(['dst', 'src']);
  });

  test('the last block may be short', () => {
    const cwd = folderWith({ src: Buffer.concat([zeros(512), noise(700)]) });
    expect(command(['src', 'dst'], { cwd }).stderr).toBe(line(1212, 700));
    const tail = folderWith({ src: Buffer.concat([noise(512), zeros(100)]) });
    expect(command(['src', 'dst'], { cwd: tail }).stderr).toBe(line(612, 512));
  });

  test('-q: no closing line', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-q', 'src', 'dst'], { cwd })).toMatchObject({ status: 0, stderr: '' });
  });

  test('a sparse file of 2 GiB out of /dev/null', () => {
    const cwd = tempDir();
    const outcome = command(['-f2G', '/dev/null', 'myfs'], { cwd });
    expect(outcome).toMatchObject({ status: 0, stderr: line(0, 0) });
    const stats = statSync(join(cwd, 'myfs'));
    expect([stats.size, stats.blocks]).toEqual([2 ** 31, 0]);
  });

  test('an old destination is replaced, its mode stays', () => {
    const cwd = folderWith({ src: blocks, dst: noise(100_000) });
    shell('chmod 640 dst', { cwd });
    expect(command(['src', 'dst'], { cwd }).status).toBe(0);
    expect(readFileSync(join(cwd, 'dst')).equals(blocks)).toBe(true);
    expect(statSync(join(cwd, 'dst')).mode & 0o777).toBe(0o640);
  });

  test('a link as DEST stays a link, and the file behind it is replaced', () => {
    const cwd = folderWith({ src: blocks, real: noise(10) });
    symlinkSync('real', join(cwd, 'dst'));
    expect(command(['src', 'dst'], { cwd }).status).toBe(0);
    expect(lstatSync(join(cwd, 'dst')).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(cwd, 'real')).equals(blocks)).toBe(true);
  });

  test('- is standard input, and standard output', () => {
    const cwd = tempDir();
    const outcome = command(['-', '-'], { cwd, input: blocks });
    expect(outcome).toMatchObject({ status: 0, stderr: line(4096, 2048) });
    expect(Buffer.from(outcome.stdout, 'latin1').equals(blocks)).toBe(true);
  });

  test('standard input that is a file is read from where it stands', () => {
    const cwd = folderWith({ src: blocks });
    expect(shell('$SC - a < src && (head -c 512 >/dev/null; $SC - b) < src', { cwd }).status).toBe(
      0,
    );
    expect(readFileSync(join(cwd, 'a')).equals(blocks)).toBe(true);
    // head reads ahead by more than it prints on some systems, so only the end is certain.
    const rest = readFileSync(join(cwd, 'b'));
    expect(blocks.subarray(blocks.length - rest.length).equals(rest)).toBe(true);
    expect(rest.length).toBeLessThan(blocks.length);
  });

  test('a FIFO and a character device as DEST get all bytes', () => {
    const cwd = folderWith({ src: blocks });
    const outcome = shell('mkfifo p && (cat p > got & $SC -q src p; wait) && $SC src /dev/null', {
      cwd,
    });
    expect(outcome).toMatchObject({ status: 0, stderr: line(4096, 2048) });
    expect(readFileSync(join(cwd, 'got')).equals(blocks)).toBe(true);
  });
});

describe('sizes', () => {
  test('-m: digits count blocks, of the size that -b sets wherever it stands', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-m', '1', 'src', 'dst'], { cwd }).stderr).toBe(line(512, 512));
    expect(command(['-b', '4', '-m', '1', 'src', 'dst'], { cwd }).stderr).toBe(line(2048, 2048));
    expect(command(['-m', '1', 'src', 'dst', '-b4'], { cwd }).stderr).toBe(line(2048, 2048));
    expect(readFileSync(join(cwd, 'dst')).equals(blocks.subarray(0, 2048))).toBe(true);
    expect(command(['-m', '1000b', 'src', 'dst'], { cwd }).stderr).toBe(line(1000, 512));
    expect(readFileSync(join(cwd, 'dst')).equals(blocks.subarray(0, 1000))).toBe(true);
    expect(command(['-m', '0', 'src', 'dst'], { cwd }).stderr).toBe(line(0, 0));
    expect(statSync(join(cwd, 'dst')).size).toBe(0);
  });

  test('-b: counting only, the file is the same', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-b', '1k', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 3072));
    expect(command(['-b', '1b', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048));
    expect(command(['-b', '64k', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 4096));
    expect(readFileSync(join(cwd, 'dst')).equals(blocks)).toBe(true);
  });

  test('-m -e: more than SIZE is an error, exactly SIZE is not, and nothing is left', () => {
    const cwd = folderWith({ src: blocks });
    const outcome = command(['-m', '7', '-e', 'src', 'dst'], { cwd });
    expect(outcome.status).toBe(12);
    expect(outcome.stderr).toMatch(/^sparsecopy: src: has more than the 3584 bytes/);
    expect(readdirSync(cwd)).toEqual(['src']);
    expect(command(['-m0', '-e', 'src', 'dst'], { cwd }).status).toBe(12);
    expect(command(['-m', '8', '-e', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(command(['-em7', '-', 'piped'], { cwd, input: blocks }).status).toBe(12);
    expect(existsSync(join(cwd, 'piped'))).toBe(false);
    expect(command(['-em8', '-', 'piped'], { cwd, input: blocks }).status).toBe(0);
    expect(command(['-em0', '-', 'none'], { cwd }).status).toBe(0);
    expect(command(['-e', 'src', 'dst'], { cwd }).status).toBe(0);
  });

  test('-s: before POS there is a hole', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-s', '16', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048));
    expect(readFileSync(join(cwd, 'dst')).equals(Buffer.concat([zeros(8192), blocks]))).toBe(true);
  });

  test('-f: the size at the end, larger or smaller', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-f', '1M', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(
      readFileSync(join(cwd, 'dst')).equals(Buffer.concat([blocks, zeros(2 ** 20 - 4096)])),
    ).toBe(true);
    expect(command(['-f', '2', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(readFileSync(join(cwd, 'dst')).equals(blocks.subarray(0, 1024))).toBe(true);
  });

  test('-y: syncs on the way', () => {
    const cwd = folderWith({ src: noise(2 ** 21) });
    const outcome = shell('strace -f -qq -e trace=fdatasync $SC -y 1M src dst 2>&1', { cwd });
    expect(outcome.status).toBe(0);
    expect(outcome.stdout.match(/fdatasync\(/g)?.length).toBeGreaterThanOrEqual(2);
    expect(command(['-y0', 'src', 'dst'], { cwd }).status).toBe(0);
  });

  test('--no-sync: the end waits for no disk, without it it does', () => {
    const cwd = folderWith({ src: noise(2 ** 20), old: noise(100) });
    const syncs = (args: string): number | undefined =>
      shell(`strace -f -qq -e trace=fsync,fdatasync $SC -q ${args} 2>&1`, { cwd }).stdout.match(
        /sync\(/g,
      )?.length;
    expect(syncs('src dst')).toBe(2); // the file, and the folder that has its new name
    expect(syncs('--no-sync src dst')).toBeUndefined();
    expect(syncs('-o src old')).toBe(1);
    expect(syncs('--no-sync -o src old')).toBeUndefined();
    for (const name of ['dst', 'old']) {
      expect(readFileSync(join(cwd, name)).equals(noise(2 ** 20))).toBe(true);
    }
  });
});

describe('overlay', () => {
  const old = noise(8192, 9);
  /** `blocks` over `old`: under a zero block there are zeros. */
  const laid = Buffer.concat([blocks, old.subarray(4096)]);

  test('-o: what the source does not cover stays; zeros are written where DEST is not zero', () => {
    const cwd = folderWith({ src: blocks, dst: old });
    const outcome = command(['-o', 'src', 'dst'], { cwd });
    expect(outcome).toMatchObject({ status: 0, stderr: line(4096, 2048, 2048) });
    expect(readFileSync(join(cwd, 'dst')).equals(laid)).toBe(true);
  });

  test('-o over zeros writes none, and counts none', () => {
    const cwd = folderWith({ src: blocks, dst: zeros(8192) });
    expect(command(['-o', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048, 0));
    expect(readFileSync(join(cwd, 'dst')).equals(Buffer.concat([blocks, zeros(4096)]))).toBe(true);
  });

  test('-o -n: zero blocks are not looked at', () => {
    const cwd = folderWith({ src: blocks, dst: old });
    expect(command(['-on', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048, 0));
    const kept = Buffer.from(laid);
    for (const at of [512, 2048, 2560, 3584]) old.copy(kept, at, at, at + 512);
    expect(readFileSync(join(cwd, 'dst')).equals(kept)).toBe(true);
  });

  test('-o -s: laid at POS, the old size stays or grows', () => {
    const cwd = folderWith({ src: blocks, dst: old });
    expect(command(['-o', '-s', '2', 'src', 'dst'], { cwd }).status).toBe(0);
    const expected = Buffer.from(old);
    blocks.copy(expected, 1024);
    expect(readFileSync(join(cwd, 'dst')).equals(expected)).toBe(true);
    expect(command(['-o', '-s', '15', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(
      readFileSync(join(cwd, 'dst')).equals(Buffer.concat([expected.subarray(0, 7680), blocks])),
    ).toBe(true);
  });

  test('-o -f: shrinks and grows', () => {
    const cwd = folderWith({ src: blocks, dst: old });
    expect(command(['-o', '-f', '10', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(readFileSync(join(cwd, 'dst')).equals(laid.subarray(0, 5120))).toBe(true);
  });

  test('-o without an old file is a new file', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-o', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048));
    expect(readFileSync(join(cwd, 'dst')).equals(blocks)).toBe(true);
  });

  test('over many windows, in blocks of every kind', () => {
    const big = Buffer.alloc(3 * 2 ** 20 + 700);
    for (let at = 0; at < big.length; at += 7000) noise(3000, at + 1).copy(big, at);
    const under = noise(4 * 2 ** 20, 77);
    const cwd = folderWith({ src: big, dst: under });
    const outcome = command(['-o', 'src', 'dst'], { cwd });
    expect(outcome.status).toBe(0);
    expect(
      readFileSync(join(cwd, 'dst')).equals(Buffer.concat([big, under.subarray(big.length)])),
    ).toBe(true);
    // Under noise every zero block is one that DEST was not zero in.
    const [, sparse, nonZero] = /sparse = (\d+)\), nonzerodest = (\d+)/.exec(outcome.stderr) ?? [];
    expect(nonZero).toBe(sparse);
  });

  test('-c: the first block of DEST must be zero', () => {
    const cwd = folderWith({ src: blocks, dst: old, clean: zeros(4096), short: noise(3) });
    const outcome = command(['-c', '-o', 'src', 'dst'], { cwd });
    expect(outcome.status).toBe(11);
    expect(outcome.stderr).toMatch(/^sparsecopy: dst: the block of 512 bytes at 0 is not zero\n$/);
    expect(readFileSync(join(cwd, 'dst')).equals(old)).toBe(true);
    expect(command(['-c', 'src', 'dst'], { cwd }).status).toBe(11);
    expect(readFileSync(join(cwd, 'dst')).equals(old)).toBe(true);
    expect(command(['-c', 'src', 'short'], { cwd }).status).toBe(11);
    expect(command(['-c', '-o', 'src', 'clean'], { cwd }).status).toBe(0);
    expect(command(['-c', 'src', 'new'], { cwd }).status).toBe(0);
  });
});

describe('the bugs of the C tool, right here', () => {
  test('1: a full device is an error', () => {
    const cwd = folderWith({ src: noise(100_000) });
    const outcome = command(['src', '/dev/full'], { cwd });
    expect(outcome.status).toBe(9);
    expect(outcome.stderr).toBe(
      'sparsecopy: cannot write /dev/full: no space left on device (ENOSPC)\n',
    );
    expect(shell('$SC src - > /dev/full', { cwd }).status).toBe(9);
  });

  test('2: a read error on SOURCE is an error', () => {
    const cwd = folderWith({ src: noise(3 * 2 ** 20) });
    expect(command(['.', 'dst'], { cwd })).toMatchObject({
      status: 2,
      stderr: 'sparsecopy: .: is a directory, which cannot be read as an image\n',
    });
    const outcome = shell(
      'UV_THREADPOOL_SIZE=1 strace -f -qq -o /dev/null -e trace=pread64 -P "$PWD/src" -e inject=pread64:error=EIO:when=3 $SC src dst',
      { cwd },
    );
    expect(outcome).toMatchObject({
      status: 2,
      stderr: 'sparsecopy: cannot read src: i/o error (EIO)\n',
    });
    expect(readdirSync(cwd)).toEqual(['src']);
  });

  test('3: -c keeps -s', () => {
    const cwd = folderWith({ src: blocks, dst: zeros(8192) });
    expect(command(['-o', '-c', '-s', '8', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(readFileSync(join(cwd, 'dst')).equals(Buffer.concat([zeros(4096), blocks]))).toBe(true);
  });

  // 4, the partition table, is in device.test.ts.

  test('5: what counts as zero does not depend on how a pipe cuts the bytes', async () => {
    const cwd = tempDir();
    const dst = join(cwd, 'dst');
    const bytes = Buffer.concat([noise(512), zeros(512)]);
    const child = startCommand(['-', dst]);
    for (const [from, to] of [
      [0, 300],
      [300, 1000],
      [1000, 1024],
    ]) {
      child.stdin?.write(bytes.subarray(from, to));
      await sleep(50);
    }
    child.stdin?.end();
    expect((await child.ended).stderr).toBe(line(1024, 512));
    expect(readFileSync(dst).equals(bytes)).toBe(true);
  });

  test('6: a failing fdatasync, and a failing fsync, are errors that leave nothing', () => {
    const cwd = folderWith({ src: noise(2 ** 20), dst: noise(10) });
    for (const [call, option] of [
      ['fdatasync', '-y64k'],
      ['fsync', '-q'],
    ]) {
      const outcome = shell(
        `strace -f -qq -o /dev/null -e trace=${call ?? ''} -e inject=${call ?? ''}:error=EIO $SC ${option ?? ''} src dst`,
        { cwd },
      );
      expect(outcome).toMatchObject({
        status: 9,
        stderr: 'sparsecopy: cannot write dst: i/o error (EIO)\n',
      });
      expect(readdirSync(cwd).sort()).toEqual(['dst', 'src']);
      expect(statSync(join(cwd, 'dst')).size).toBe(10);
    }
  });

  test('7: small blocks do not mean small writes', () => {
    const cwd = folderWith({ src: noise(8 * 2 ** 20) });
    const { stdout } = shell('strace -f -qq -e trace=pwrite64 $SC -q src dst 2>&1', { cwd });
    const sizes = [...stdout.matchAll(/pwrite64\(.*?, (\d+), \d+(?:\)| <unf)/g)].map((match) =>
      Number(match[1]),
    );
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(8 * 2 ** 20);
    expect(sizes.length).toBeLessThanOrEqual(8);
  });
});

describe('refusals', () => {
  test.each([
    [[]],
    [['a']],
    [['a', 'b', 'c']],
    [['-x', 'a', 'b']],
    [['-m', 'x', 'a', 'b']],
    [['-b0', 'a', 'b']],
    [['-f1.5k', 'a', 'b']],
    [['--format=vmdk9', 'a', 'b']],
    [['--json', 'a', '-']],
    [['info']],
    [['map', 'a', 'b']],
  ])('usage %j: exit 1, one line why', (argv) => {
    const outcome = command(argv, { cwd: tempDir() });
    expect(outcome).toMatchObject({ status: 1, stdout: '' });
    expect(outcome.stderr).toMatch(/^sparsecopy: .+\nTry 'sparsecopy --help'\.\n$/);
  });

  test('no SOURCE: 2, no place for DEST: 3', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['none', 'dst'], { cwd })).toMatchObject({
      status: 2,
      stderr: 'sparsecopy: cannot read none: no such file or directory (ENOENT)\n',
    });
    expect(command(['src', 'no/dst'], { cwd })).toMatchObject({
      status: 3,
      stderr: 'sparsecopy: cannot open no/dst: no such file or directory (ENOENT)\n',
    });
    expect(command(['src', '.'], { cwd })).toMatchObject({
      status: 3,
      stderr: 'sparsecopy: .: is a directory\n',
    });
  });

  test('DEST that is SOURCE, by any name', () => {
    const cwd = folderWith({ src: blocks });
    shell('ln src hard; ln -s src soft', { cwd });
    for (const [source, dest] of [
      ['src', 'src'],
      ['src', 'hard'],
      ['src', 'soft'],
      ['soft', 'hard'],
    ]) {
      const outcome = command([source ?? '', dest ?? ''], { cwd });
      expect(outcome.status).toBe(3);
      expect(outcome.stderr).toMatch(/is the same file as the source/);
    }
    expect(shell('$SC - src < src', { cwd }).status).toBe(3);
    expect(shell('$SC src - >> src', { cwd }).status).toBe(3);
    expect(readFileSync(join(cwd, 'src')).equals(blocks)).toBe(true);
  });

  test('what cannot seek: 4', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-s1', 'src', '-'], { cwd }).status).toBe(4);
    expect(command(['-o', 'src', '/dev/null'], { cwd }).status).toBe(4);
  });

  test('a reader that goes away: 9, without a stack', () => {
    const cwd = folderWith({ src: noise(2 ** 22) });
    const outcome = shell(
      'set +o pipefail; { $SC src -; echo "status $?" >&2; } | head -c 1000 > /dev/null',
      { cwd },
    );
    expect(outcome.stderr).toMatch(
      /^sparsecopy: cannot write the standard stream: broken pipe \(EPIPE\)\nstatus 9\n$/,
    );
  });
});

describe('signals', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    '%s leaves nothing, and the old file',
    async (signal) => {
      const cwd = folderWith({ dst: noise(100) });
      const child = startCommand(['-', join(cwd, 'dst')]);
      child.stdin?.write(noise(3 * 2 ** 20));
      while (readdirSync(cwd).length < 2) await sleep(10);
      child.kill(signal);
      expect(await child.ended).toMatchObject({ status: null, signal });
      expect(readdirSync(cwd)).toEqual(['dst']);
      expect(statSync(join(cwd, 'dst')).size).toBe(100);
    },
  );

  test('SIGKILL leaves the old file; what it left is removed later', async () => {
    const cwd = folderWith({ src: blocks, dst: noise(100) });
    const child = startCommand(['-', join(cwd, 'dst')]);
    child.stdin?.write(noise(3 * 2 ** 20));
    while (readdirSync(cwd).length < 3) await sleep(10);
    child.kill('SIGKILL');
    await child.ended;
    expect(statSync(join(cwd, 'dst')).size).toBe(100);
    const part = readdirSync(cwd).find((name) => name.startsWith('.dst.part-')) ?? '';
    shell(`touch -d '2 hours ago' ${part}`, { cwd });
    expect(command(['-q', 'src', 'dst'], { cwd }).status).toBe(0);
    expect(readdirSync(cwd).sort()).toEqual(['dst', 'src']);
  });
});

describe('more than the C tool', () => {
  test('--help, -h and --version', () => {
    for (const word of ['--help', '-h', '--hel']) {
      const outcome = command([word]);
      expect(outcome).toMatchObject({ status: 0, stderr: '' });
      expect(outcome.stdout).toMatch(/^Usage: sparsecopy \[OPTIONS\] SOURCE DEST +copy/);
    }
    const { version } = JSON.parse(
      readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8'),
    ) as { version: string };
    expect(command(['--version']).stdout).toBe(`sparsecopy ${version}\n`);
  });

  test('--json prints the report', () => {
    const cwd = folderWith({ src: Buffer.concat([blocks, zeros(2 ** 20)]) });
    const outcome = command(['--json', '-q', 'src', 'dst'], { cwd });
    const report = JSON.parse(outcome.stdout) as Record<string, unknown>;
    const { blocks: occupied } = statSync(join(cwd, 'dst'));
    expect(report).toEqual({
      format: 'raw',
      codecs: [],
      virtualSize: 4096 + 2 ** 20,
      diskSize: 2048,
      allocatedSize: 4096 + 2 ** 20,
      bytesRead: expect.any(Number) as number,
      bytesWritten: 4096,
      sizeOnDisk: occupied * 512,
      nonZeroDestination: 0,
      parkedPeak: 0,
      spooled: 0,
      durationMs: expect.any(Number) as number,
    });
    expect(report['bytesRead']).toBeGreaterThanOrEqual(4096 + 2 ** 20);
  });

  test('--no-decompress and --format raw copy the bytes as they are', () => {
    const cwd = folderWith({ plain: blocks });
    shell('gzip -k plain', { cwd });
    expect(command(['plain.gz', 'dst'], { cwd }).stderr).toBe(line(4096, 2048));
    expect(command(['--format', 'raw', '--no-decompress', 'plain.gz', 'dst'], { cwd }).status).toBe(
      0,
    );
    expect(readFileSync(join(cwd, 'dst')).equals(readFileSync(join(cwd, 'plain.gz')))).toBe(true);
  });

  test('--format qcow2 of something else is refused', () => {
    const cwd = folderWith({ src: blocks });
    const outcome = command(['--format=qcow2', 'src', 'dst'], { cwd });
    expect(outcome).toMatchObject({
      status: 2,
      stderr: 'sparsecopy: src: is not a qcow2 image, but was declared to be one\n',
    });
    expect(readdirSync(cwd)).toEqual(['src']);
  });

  test('info and map; a file called info is ./info', () => {
    const cwd = folderWith({ info: blocks });
    truncateSync(join(cwd, 'info'), 2 ** 20);
    expect(command(['info', 'info'], { cwd }).stdout).toMatch(
      /^image: +info\nformat: +raw\nvirtual size: +1 MiB \(1048576 bytes\)\n/,
    );
    const found = JSON.parse(command(['info', '--json', 'info'], { cwd }).stdout) as unknown;
    expect(found).toMatchObject({
      name: 'info',
      format: 'raw',
      codecs: [],
      virtualSize: 2 ** 20,
      sourceSize: 2 ** 20,
    });
    expect(command(['map', 'info'], { cwd }).stdout).toMatch(
      /^ +offset +length kind\n +0 +\d+ data\n/,
    );
    const extents = JSON.parse(command(['map', 'info', '--json'], { cwd }).stdout) as {
      length: number;
    }[];
    expect(extents.reduce((sum, { length }) => sum + length, 0)).toBe(2 ** 20);
    expect(command(['-q', './info', 'dst'], { cwd }).status).toBe(0);
    expect(command(['info', 'none'], { cwd })).toMatchObject({ status: 2 });
  });

  test('-p draws nothing where stderr is no terminal', () => {
    const cwd = folderWith({ src: blocks });
    expect(command(['-p', 'src', 'dst'], { cwd }).stderr).toBe(line(4096, 2048));
  });

  test('-p draws a bar on a terminal', () => {
    const cwd = folderWith({ src: noise(2 ** 22) });
    const outcome = shell('script -qec "$SC -p src dst" /dev/null', { cwd });
    expect(outcome.status).toBe(0);
    expect(outcome.stdout).toMatch(/\|=+\| 100\.0% 4 MiB read, 4 MiB of data/);
    expect(outcome.stdout).toMatch(/total bytes = 4194304/);
  });
});
