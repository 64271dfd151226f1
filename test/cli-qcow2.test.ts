/** The command's options for qcow2, and its commands check and compare, on images that qemu-img made. */

import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { command, shell, type CommandOptions, type Outcome } from './command.ts';
import { noise, sha256, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const MiB = 2 ** 20;
const CLUSTER = 65536;
const SECRET = 'correct horse battery';

/** 4 MiB: data, zeros, data. */
const disk = Buffer.concat([noise(MiB, 1), Buffer.alloc(2 * MiB), noise(MiB, 2)]);
/** The same with another first MiB. */
const changed = Buffer.concat([noise(MiB, 3), disk.subarray(MiB)]);

/** Where the images of this file are. */
let folder = '';

/** Runs the command among the images. */
function sc(args: readonly string[], options: CommandOptions = {}): Outcome {
  return command(args, { cwd: folder, ...options });
}

/** Which of the disks of this file `bytes` are. */
function named(bytes: Buffer): string {
  if (bytes.equals(disk)) return 'disk';
  return bytes.equals(changed) ? 'changed' : `sha256 ${sha256(bytes)}`;
}

/** Which disk the command copies with these options; its standard error where it fails. */
function copied(args: readonly string[], options: CommandOptions = {}): string {
  const path = join(tempDir(), 'disk.raw');
  const outcome = sc(['-q', ...args, path], options);
  if (outcome.status === 0) return named(readFileSync(path));
  expect(existsSync(path)).toBe(false);
  expect(outcome.status).toBe(2);
  return outcome.stderr;
}

/** The exit status of qemu-img. */
function qemuStatus(...args: string[]): number | null {
  return spawnSync('qemu-img', args, { cwd: folder }).status;
}

/** Overwrites `bytes` (in hex) at `offset` of a copy of `from`, called `to`. */
function damaged(from: string, to: string, offset: number, bytes: string): void {
  copyFileSync(join(folder, from), join(folder, to));
  const fd = openSync(join(folder, to), 'r+');
  writeSync(fd, Buffer.from(bytes, 'hex'), 0, bytes.length / 2, offset);
  closeSync(fd);
}

/** Where qemu-img puts the refcount block and the L2 table of a new image. */
const REFCOUNT_BLOCK = 2 * CLUSTER;
const L2_TABLE = 4 * CLUSTER;

describeWith(['qemu-img', 'qemu-io', 'gzip'], 'qcow2', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'sparsecopy-test-'));
    const at = (name: string): string => join(folder, name);
    const img = (...args: string[]): unknown => run('env', ['-C', folder, 'qemu-img', ...args]);
    const io = (name: string, ...commands: string[]): unknown =>
      run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((one) => ['-c', one]), at(name)]);

    writeFileSync(at('disk.raw'), disk);
    writeFileSync(at('changed.raw'), changed);
    writeFileSync(at('first.bin'), changed.subarray(0, MiB));
    img('convert', '-O', 'qcow2', 'disk.raw', 'plain.qcow2');
    img('convert', '-c', '-O', 'qcow2', 'disk.raw', 'packed.qcow2');

    // The snapshots have the disk, the image has since changed.
    copyFileSync(at('plain.qcow2'), at('snapshots.qcow2'));
    img('snapshot', '-c', 'before', 'snapshots.qcow2');
    img('snapshot', '-c', 'two words', 'snapshots.qcow2');
    io('snapshots.qcow2', `write -s ${at('first.bin')} 0 1M`);

    img('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'plain.qcow2', 'overlay.qcow2');
    io('overlay.qcow2', `write -s ${at('first.bin')} 0 1M`);
    writeFileSync(at('zeros.raw'), Buffer.alloc(4 * MiB));

    writeFileSync(at('secret'), `${SECRET}\n`);
    writeFileSync(at('secret-bare'), SECRET);
    writeFileSync(at('secret-wrong'), `${SECRET}\n\n`);
    const encrypt = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    img(
      'convert',
      '--object',
      `secret,id=s,file=${at('secret-bare')}`,
      '-O',
      'qcow2',
      '-o',
      encrypt,
      'disk.raw',
      'luks.qcow2',
    );

    // Incompatible feature bit 1, in the last of the eight bytes at 72.
    damaged('plain.qcow2', 'corrupt-bit.qcow2', 79, '02');
    img('create', '-q', '-f', 'qcow2', 'large.qcow2', '2T');

    damaged('plain.qcow2', 'unaligned.qcow2', L2_TABLE, '8000000000050200');
    damaged('plain.qcow2', 'twice.qcow2', L2_TABLE, '8000000000060000');
    damaged('plain.qcow2', 'leak.qcow2', REFCOUNT_BLOCK + 2 * (4 + 1 + 32), '0001');
    truncateSync(at('leak.qcow2'), (4 + 1 + 32 + 1) * CLUSTER);
    writeFileSync(at('text.raw'), Buffer.alloc(MiB, 'text that can be compressed. '));
    img('convert', '-c', '-O', 'qcow2', 'text.raw', 'text.qcow2');
    damaged('text.qcow2', 'garbage.qcow2', L2_TABLE + CLUSTER, 'ff'.repeat(200));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  describe('snapshots', () => {
    test('info lists them', () => {
      const outcome = sc(['info', 'snapshots.qcow2']);
      expect(outcome.status).toBe(0);
      const [, table] = outcome.stdout.split(/^(?= +id )/m);
      const lines = (table ?? '').split('\n');
      expect(lines[0]).toMatch(/^ {2}id {2}name +virtual size +vm state +date \(UTC\)$/);
      const date = '20\\d\\d-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d';
      expect(lines[1]).toMatch(new RegExp(`^ {2}1 {3}"before" +4194304 +0 {2}${date}$`));
      expect(lines[2]).toMatch(new RegExp(`^ {2}2 {3}"two words" +4194304 +0 {2}${date}$`));
      expect(lines.slice(3)).toEqual(['']);

      const { snapshots } = JSON.parse(sc(['info', '--json', 'snapshots.qcow2']).stdout) as {
        snapshots: { id: string; name: string; date: number }[];
      };
      expect(snapshots).toMatchObject([
        { id: '1', name: 'before', virtualSize: 4 * MiB, vmStateSize: 0 },
        { id: '2', name: 'two words', virtualSize: 4 * MiB, vmStateSize: 0 },
      ]);
      // The table shows what JSON has, in another form.
      const shown = new Date((snapshots[0]?.date ?? 0) * 1000).toISOString();
      expect(lines[1]).toContain(shown.slice(0, 10));
      expect(lines[1]).toContain(shown.slice(11, 19));
    });

    test('--snapshot reads one, by name or id; without it the disk as it is now', () => {
      expect(copied(['snapshots.qcow2'])).toBe('changed');
      for (const name of ['before', '2']) {
        expect(copied(['--snapshot', name, 'snapshots.qcow2'])).toBe('disk');
      }
      const image = readFileSync(join(folder, 'snapshots.qcow2'));
      expect(copied(['--snapshot=before', '-'], { input: image })).toBe('disk');
    });

    test('--snapshot of one that is not there', () => {
      expect(copied(['--snapshot', 'after', 'snapshots.qcow2'])).toMatch(
        /^sparsecopy: snapshots\.qcow2: .*"after".*\n$/,
      );
    });
  });

  describe('backing files', () => {
    test('are not opened unasked', () => {
      expect(copied(['overlay.qcow2'])).toMatch(
        /^sparsecopy: overlay\.qcow2: .*"plain\.qcow2".*\n$/,
      );
      expect(sc(['info', 'overlay.qcow2']).stdout).toMatch(
        /^backing file: +"plain\.qcow2"\nbacking format: +"qcow2"$/m,
      );
    });

    test('--allow-references, in the folder of the image or another', () => {
      expect(copied(['--allow-references', 'overlay.qcow2'])).toBe('changed');
      expect(copied([`--allow-references=${folder}`, 'overlay.qcow2'])).toBe('changed');
      expect(copied(['--allow-references=.', 'overlay.qcow2'])).toBe('changed');
      const elsewhere = tempDir();
      expect(copied([`--allow-references=${elsewhere}`, 'overlay.qcow2'])).toMatch(
        /^sparsecopy: overlay\.qcow2: .*plain\.qcow2.*\n$/,
      );
      // From a pipe, names start at the working directory.
      const image = readFileSync(join(folder, 'overlay.qcow2'));
      expect(copied(['--allow-references', '-'], { input: image })).toBe('changed');
    });

    test('the folder is attached: a word that follows is an operand', () => {
      const outcome = sc(['--allow-references', '.', 'overlay.qcow2', 'out.raw']);
      expect(outcome).toMatchObject({ status: 1, stdout: '' });
      expect(outcome.stderr).toMatch(/found 3 operands/);
      const empty = sc(['--allow-references=', 'overlay.qcow2', 'out.raw']);
      expect(empty).toMatchObject({ status: 1 });
      expect(existsSync(join(folder, 'out.raw'))).toBe(false);
    });

    test('--backing names it oneself', () => {
      expect(copied(['--backing', 'plain.qcow2', 'overlay.qcow2'])).toBe('changed');
      const overZeros = Buffer.concat([changed.subarray(0, MiB), Buffer.alloc(3 * MiB)]);
      expect(copied(['--backing=zeros.raw', 'overlay.qcow2'])).toBe(named(overZeros));
      expect(copied(['--backing', 'none', 'overlay.qcow2'])).toMatch(/ENOENT|no such file/);
    });
  });

  describe('encryption', () => {
    test('info says so, without a passphrase', () => {
      expect(sc(['info', 'luks.qcow2']).stdout).toMatch(/^encryption: +luks$/m);
    });

    test('--passphrase, --passphrase-file, and - for standard input', () => {
      expect(copied(['--passphrase', SECRET, 'luks.qcow2'])).toBe('disk');
      expect(copied([`--passphrase=${SECRET}`, 'luks.qcow2'])).toBe('disk');
      expect(copied(['--passphrase-file', 'secret', 'luks.qcow2'])).toBe('disk');
      expect(copied(['--passphrase-file', 'secret-bare', 'luks.qcow2'])).toBe('disk');
      const input = Buffer.from(`${SECRET}\n`);
      expect(copied(['--passphrase-file', '-', 'luks.qcow2'], { input })).toBe('disk');
      const image = readFileSync(join(folder, 'luks.qcow2'));
      expect(copied(['--passphrase-file', 'secret', '-'], { input: image })).toBe('disk');
    });

    test('one newline goes, not two', () => {
      expect(copied(['--passphrase-file', 'secret-wrong', 'luks.qcow2'])).toMatch(/passphrase/);
    });

    test('none, or a wrong one', () => {
      expect(copied(['luks.qcow2'])).toMatch(/^sparsecopy: luks\.qcow2: .*passphrase.*\n$/);
      expect(copied(['--passphrase', 'wrong', 'luks.qcow2'])).toMatch(
        /^sparsecopy: luks\.qcow2: .*passphrase.*\n$/,
      );
    });

    test.each([
      [['--passphrase', SECRET, '--passphrase-file', 'secret', 'luks.qcow2', 'out.raw']],
      [['--passphrase-file', '-', '-', 'out.raw']],
      [['--passphrase-file', '-', '--backing', '-', 'overlay.qcow2', 'out.raw']],
      [['--passphrase-file', '-', 'compare', 'luks.qcow2', '-']],
      [['--passphrase-file', 'none', 'luks.qcow2', 'out.raw']],
      [['--passphrase-file', '/dev/zero', 'luks.qcow2', 'out.raw']],
    ])('usage: %j', (args) => {
      const outcome = sc(args, { input: Buffer.from(SECRET) });
      expect(outcome).toMatchObject({ status: args.includes('compare') ? 2 : 1, stdout: '' });
      expect(outcome.stderr).toMatch(/^sparsecopy: .+\nTry 'sparsecopy --help'\.\n$/);
      expect(existsSync(join(folder, 'out.raw'))).toBe(false);
    });

    test('the passphrase is never shown', () => {
      for (const args of [
        ['--passphrase', SECRET, 'plain.qcow2', 'no/where'],
        ['--passphrase', `${SECRET} `, 'luks.qcow2', 'out.raw'],
        [`--passphrase=${SECRET}`, '--nothing', 'luks.qcow2', 'out.raw'],
        [`--passphras=${SECRET}`, 'luks.qcow2', 'out.raw'],
        ['--passphrase', SECRET, 'map', '--json', 'luks.qcow2'],
        ['--passphrase', SECRET, 'check', '--json', 'luks.qcow2'],
        ['--passphrase', SECRET, 'compare', '--json', 'luks.qcow2', 'changed.raw'],
        ['--passphrase', SECRET, '--json', 'luks.qcow2', join(tempDir(), 'out.raw')],
      ]) {
        const { stdout, stderr } = sc(args);
        expect(stdout + stderr, args.join(' ')).not.toBe('');
        expect(stdout + stderr, args.join(' ')).not.toContain('correct');
      }
    });
  });

  describe('what is refused unless asked', () => {
    test('--allow-corrupt', () => {
      expect(copied(['corrupt-bit.qcow2'])).toMatch(/^sparsecopy: corrupt-bit\.qcow2: .*corrupt/);
      expect(copied(['--allow-corrupt', 'corrupt-bit.qcow2'])).toBe('disk');
    });

    test('--untrusted has smaller limits', () => {
      expect(sc(['map', 'large.qcow2']).status).toBe(0);
      const outcome = sc(['--untrusted', 'map', 'large.qcow2']);
      expect(outcome).toMatchObject({ status: 2, stdout: '' });
      expect(outcome.stderr).toMatch(/^sparsecopy: large\.qcow2: .*2199023255552.*\n$/);
      expect(copied(['--untrusted', 'plain.qcow2'])).toBe('disk');
    });

    test('--max-ratio: data that grow out of next to nothing', () => {
      const folder = tempDir();
      const bomb = join(folder, 'bomb.gz');
      shell(`head -c 100M /dev/zero | tr '\\0' A | gzip -9 > ${bomb}`);
      const out = join(folder, 'out.raw');
      const refused = sc(['-q', bomb, out]);
      expect(refused.status).toBe(2);
      expect(refused.stderr).toMatch(/^sparsecopy: .*bomb\.gz: .*more than 1000 for each\n$/);
      expect(existsSync(out)).toBe(false);
      expect(sc(['-q', '--max-ratio', '2000', bomb, out]).status).toBe(0);
      expect(statSync(out).size).toBe(100 * MiB);
      expect(sc(['--max-ratio', 'many', bomb, out]).status).toBe(1);
    });

    test('--untrusted refuses a cluster with two owners', () => {
      expect(copied(['twice.qcow2'])).toMatch(/^sha256 /);
      expect(copied(['--untrusted', 'twice.qcow2'])).toMatch(/^sparsecopy: twice\.qcow2: .+\n$/);
    });
  });

  describe('temporary files', () => {
    test('what had to be spooled is told, in --json and on standard error', () => {
      const image = readFileSync(join(folder, 'snapshots.qcow2'));
      const path = join(tempDir(), 'out.raw');
      const args = ['--snapshot', 'before', '--json', '-', path];
      const outcome = sc(args, { input: image });
      expect(outcome.status).toBe(0);
      const report = JSON.parse(outcome.stdout) as Record<string, number>;
      expect(report['spooled']).toBe(image.length);
      expect(outcome.stderr).toMatch(
        /^sparsecopy: total bytes = 4194304 .*\nsparsecopy: \d.* went through a temporary file\n$/,
      );
      expect(outcome.stderr).toContain(`(${image.length} bytes)`);
      expect(sc(['-q', ...args], { input: image })).toMatchObject({ status: 0, stderr: '' });
      // Nothing of the kind from a file.
      const seeking = sc(['--json', 'plain.qcow2', path]);
      expect(JSON.parse(seeking.stdout)).toMatchObject({ spooled: 0, parkedPeak: 0 });
      expect(seeking.stderr.split('\n')).toHaveLength(2);
    });

    describeWith(['strace'], '--temp-dir', () => {
      test('is where they are', () => {
        const temp = tempDir();
        const out = join(tempDir(), 'out.raw');
        const line = `strace -f -qq -e trace=openat,open $SC -q --snapshot before --temp-dir ${temp} - ${out} < <(cat snapshots.qcow2) 2>&1`;
        const outcome = shell(line, { cwd: folder });
        expect(outcome.status).toBe(0);
        expect(outcome.stdout).toContain(`"${temp}/`);
        expect(readdirSync(temp)).toEqual([]);
        expect(named(readFileSync(out))).toBe('disk');
      });
    });

    test('--temp-dir that is no folder', () => {
      const outcome = sc(['--temp-dir', 'plain.qcow2', 'plain.qcow2', 'out.raw']);
      expect(outcome).toMatchObject({ status: 1, stdout: '' });
      expect(outcome.stderr).toMatch(/^sparsecopy: --temp-dir: 'plain\.qcow2' is not a folder\n/);
      expect(sc(['--temp-dir=none', 'plain.qcow2', 'out.raw']).status).toBe(1);
    });
  });

  describe('compare', () => {
    test.each([
      ['disk.raw', 'plain.qcow2', 0],
      ['plain.qcow2', 'packed.qcow2', 0],
      ['plain.qcow2', 'changed.raw', 1],
      ['zeros.raw', 'packed.qcow2', 1],
      ['none', 'plain.qcow2', 2],
      ['plain.qcow2', 'none', 2],
      ['text.raw', 'garbage.qcow2', 4],
    ])('%s and %s: the exit status of qemu-img, %i', (a, b, status) => {
      expect(qemuStatus('compare', a, b)).toBe(status);
      const outcome = sc(['compare', a, b]);
      expect(outcome.status).toBe(status);
      expect(outcome.stderr === '').toBe(status < 2);
      expect(outcome.stdout === '').toBe(status >= 2);
    });

    test('what it says', () => {
      expect(sc(['compare', 'disk.raw', 'plain.qcow2']).stdout).toBe('The images are identical.\n');
      expect(sc(['compare', 'disk.raw', 'changed.raw']).stdout).toMatch(
        /^The images differ at offset \d+( \(in the sector at \d+\))?\.\n$/,
      );
      expect(sc(['compare', '-q', 'disk.raw', 'changed.raw'])).toMatchObject({
        status: 1,
        stdout: '',
      });
      const longer = join(tempDir(), 'longer.raw');
      writeFileSync(longer, disk);
      truncateSync(longer, 5 * MiB);
      const sizes = `The sizes differ: disk.raw 4 MiB (4194304 bytes), ${longer} 5 MiB (5242880 bytes).\n`;
      expect(sc(['compare', 'disk.raw', longer])).toMatchObject({
        status: 0,
        stdout: `${sizes}The images are identical.\n`,
      });
      expect(sc(['compare', 'disk.raw', longer, '--strict'])).toMatchObject({
        status: 1,
        stdout: sizes,
      });
      writeSync(openSync(longer, 'r+'), 'x', 5 * MiB - 1);
      expect(sc(['compare', 'disk.raw', longer])).toMatchObject({
        status: 1,
        stdout: 'The images differ at offset 5242879 (in the sector at 5242368).\n',
      });
      expect(sc(['compare', '--strict', 'plain.qcow2', 'disk.raw'])).toMatchObject({
        status: 1,
        stdout: 'What is allocated differs at offset 1048576.\n',
      });
      expect(sc(['compare', 'disk.raw', 'none']).stderr).toBe(
        'sparsecopy: cannot read none: no such file or directory (ENOENT)\n',
      );
    });

    test('--json', () => {
      const outcome = sc(['compare', '--json', 'packed.qcow2', 'changed.raw']);
      expect(outcome.status).toBe(1);
      expect(JSON.parse(outcome.stdout)).toEqual({
        identical: false,
        difference: { kind: 'content', offset: 0 },
        a: {
          name: 'packed.qcow2',
          format: 'qcow2',
          codecs: [],
          virtualSize: 4 * MiB,
          bytesRead: expect.any(Number) as number,
        },
        b: {
          name: 'changed.raw',
          format: 'raw',
          codecs: [],
          virtualSize: 4 * MiB,
          bytesRead: expect.any(Number) as number,
        },
      });
    });

    test('either may be standard input, compressed or not; not both', () => {
      const image = readFileSync(join(folder, 'packed.qcow2'));
      expect(sc(['compare', '-', 'disk.raw'], { input: image }).status).toBe(0);
      expect(sc(['compare', 'disk.raw', '-'], { input: image }).status).toBe(0);
      expect(sc(['compare', 'changed.raw', '-'], { input: image }).status).toBe(1);
      const packed = run('gzip', ['-c', join(folder, 'changed.raw')]);
      expect(sc(['compare', 'snapshots.qcow2', '-'], { input: packed }).status).toBe(0);
      expect(sc(['compare', '-', '-'], { input: image })).toMatchObject({ status: 2, stdout: '' });
    });

    test('--snapshot, --backing and --format are for A; the passphrase is for both', () => {
      expect(sc(['compare', '--snapshot=before', 'snapshots.qcow2', 'disk.raw']).status).toBe(0);
      expect(
        sc(['compare', '--snapshot=before', 'snapshots.qcow2', 'snapshots.qcow2']).status,
      ).toBe(1);
      expect(sc(['compare', '--backing=plain.qcow2', 'overlay.qcow2', 'changed.raw']).status).toBe(
        0,
      );
      expect(sc(['compare', '--format=raw', 'plain.qcow2', 'plain.qcow2']).status).toBe(1);
      expect(sc(['compare', '--passphrase', SECRET, 'luks.qcow2', 'disk.raw']).status).toBe(0);
      expect(sc(['compare', '--passphrase', SECRET, 'disk.raw', 'luks.qcow2']).status).toBe(0);
      expect(sc(['compare', 'disk.raw', 'luks.qcow2']).status).toBe(2);
      expect(sc(['compare', '--allow-references', 'changed.raw', 'overlay.qcow2']).status).toBe(0);
    });

    test('no usage error looks like a difference', () => {
      for (const args of [
        ['compare'],
        ['compare', 'disk.raw'],
        ['compare', 'disk.raw', 'disk.raw', 'disk.raw'],
        ['compare', '--nothing', 'disk.raw', 'disk.raw'],
        ['compare', '--format=vmdk9', 'disk.raw', 'disk.raw'],
      ]) {
        expect(sc(args), args.join(' ')).toMatchObject({ status: 2, stdout: '' });
      }
    });

    test('a difference is told while the pipe sleeps', () => {
      const started = performance.now();
      const line = '(cat disk.raw; sleep 60) | { $SC compare - changed.raw; echo $?; kill 0; }';
      const outcome = shell(`setsid bash -c '${line}'`, { cwd: folder });
      expect(outcome.stdout).toMatch(/^The images differ at offset 0\.\n1\n/);
      expect(performance.now() - started).toBeLessThan(50_000);
    });
  });

  describe('check', () => {
    test.each([
      ['plain.qcow2', 0],
      ['packed.qcow2', 0],
      ['snapshots.qcow2', 0],
      ['none', 1],
      ['unaligned.qcow2', 2],
      ['twice.qcow2', 2],
      ['leak.qcow2', 3],
      ['disk.raw', 63],
    ])('%s: the exit status of qemu-img, %i', (name, status) => {
      expect(qemuStatus('check', name)).toBe(status);
      const outcome = sc(['check', name]);
      expect(outcome.status).toBe(status);
      expect(outcome.stdout === '').toBe(status === 1 || status === 63);
      expect(outcome.stderr === '').toBe(status !== 1 && status !== 63);
    });

    test('what it says', () => {
      expect(sc(['check', 'plain.qcow2']).stdout).toBe(
        'No errors were found.\n' +
          '32 of 64 clusters are allocated, 0.00% fragmented, 0.00% compressed.\n' +
          `The image ends at 2.3 MiB (${37 * CLUSTER} bytes).\n`,
      );
      expect(sc(['check', 'leak.qcow2']).stdout).toMatch(
        /^leak: .+\nFound 0 corruptions, 1 leaked cluster, 0 check errors\.\n/,
      );
      const report = JSON.parse(sc(['check', '--json', 'twice.qcow2']).stdout) as {
        problems: unknown[];
      };
      expect(report).toMatchObject({ name: 'twice.qcow2', format: 'qcow2', verdict: 'corrupt' });
      expect(report.problems.length).toBeGreaterThan(0);
      expect(sc(['check', 'disk.raw']).stderr).toMatch(
        /^sparsecopy: disk\.raw: is a raw image.*\n$/,
      );
    });

    test('-q, and encryption, for which qemu-img wants the passphrase', () => {
      expect(sc(['check', '-q', 'leak.qcow2'])).toMatchObject({ status: 3, stdout: '' });
      expect(sc(['check', 'luks.qcow2']).status).toBe(0);
    });

    test('standard input, compressed', () => {
      const input = run('gzip', ['-c', join(folder, 'leak.qcow2')]);
      expect(sc(['check', '-'], { input }).status).toBe(3);
    });

    test('usage is what could not be done', () => {
      expect(sc(['check'])).toMatchObject({ status: 1, stdout: '' });
      expect(sc(['check', 'plain.qcow2', 'packed.qcow2'])).toMatchObject({ status: 1, stdout: '' });
    });
  });

  test('a file called check or compare is ./check, ./compare', () => {
    const cwd = tempDir();
    copyFileSync(join(folder, 'plain.qcow2'), join(cwd, 'check'));
    copyFileSync(join(folder, 'disk.raw'), join(cwd, 'compare'));
    expect(command(['-q', './check', './compare'], { cwd }).status).toBe(0);
    expect(named(readFileSync(join(cwd, 'compare')))).toBe('disk');
    expect(command(['compare', 'check', 'compare'], { cwd }).status).toBe(0);
    expect(command(['check', 'check'], { cwd }).status).toBe(0);
  });

  test('--strict is for compare', () => {
    for (const args of [
      ['info', 'plain.qcow2'],
      ['plain.qcow2', 'out.raw'],
    ]) {
      expect(sc(['--strict', ...args])).toMatchObject({ status: 1, stdout: '' });
    }
  });

  test.each([
    [['unaligned.qcow2', '/dev/null'], 2],
    [['corrupt-bit.qcow2', '-'], 2],
    [['map', 'unaligned.qcow2'], 2],
    [['compare', 'garbage.qcow2', 'text.raw'], 4],
  ])('what is broken ends in one line: %j', (args, status) => {
    const outcome = sc(args);
    expect(outcome).toMatchObject({ status, stdout: '' });
    expect(outcome.stderr).toMatch(/^sparsecopy: [^\n]+\n$/);
  });
});
