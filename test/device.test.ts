/** Real block devices: loop devices as DEST and as SOURCE. */

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { info, sparsecopy } from '../src/index.ts';
import { command, shell } from './command.ts';
import { noise, rejection, tempDir } from './helpers.ts';
import { hasTool, run } from './native.ts';

const MiB = 2 ** 20;

/** Loop devices need root and a kernel with them: containers often have neither. */
const canLoop =
  hasTool('losetup') &&
  process.getuid?.() === 0 &&
  existsSync('/dev/loop-control') &&
  shell(
    'f=$(mktemp) && truncate -s 1M $f && l=$(losetup -f --show $f) && losetup -d $l; s=$?; rm -f $f; exit $s',
  ).status === 0;

/** A loop device over a new file with `content`. */
function loopDevice(content: Uint8Array): { device: string; backing: string } {
  const backing = join(tempDir(), 'backing');
  writeFileSync(backing, content);
  const device = run('losetup', ['-f', '--show', backing]).toString().trim();
  onTestFinished(() => void run('losetup', ['-d', device]));
  return { device, backing };
}

describe.skipIf(!canLoop)('loop devices (need root and a kernel that has them)', () => {
  const image = Buffer.concat([
    noise(MiB),
    Buffer.alloc(MiB),
    noise(4096),
    Buffer.alloc(MiB - 4096),
  ]);

  test('DEST: stale data under zeros is overwritten, the rest stays, the size stays', () => {
    const old = noise(4 * MiB, 5);
    const { device, backing } = loopDevice(old);
    const source = join(tempDir(), 'src');
    writeFileSync(source, image);
    const outcome = command([source, device]);
    expect(outcome).toMatchObject({
      status: 0,
      stderr: `sparsecopy: total bytes = ${3 * MiB} (real = ${MiB + 4096}, sparse = ${2 * MiB - 4096}), nonzerodest = ${2 * MiB - 4096}\n`,
    });
    const now = readFileSync(backing);
    expect(now.subarray(0, 3 * MiB).equals(image)).toBe(true);
    expect(now.subarray(3 * MiB).equals(old.subarray(3 * MiB))).toBe(true);
  });

  test('DEST that is zero already: only data is written', async () => {
    const { device, backing } = loopDevice(Buffer.alloc(4 * MiB));
    const report = await sparsecopy(asyncBytes(image), device);
    expect(report).toMatchObject({ bytesWritten: MiB + 4096, nonZeroDestination: 0 });
    expect(report.sizeOnDisk).toBeUndefined();
    expect(
      readFileSync(backing)
        .subarray(0, 3 * MiB)
        .equals(image),
    ).toBe(true);
  });

  test('DEST from a pipe, with -s, -n, -c', () => {
    const { device, backing } = loopDevice(Buffer.alloc(8 * MiB));
    expect(shell(`$SC -c -n -s 2M - ${device}`, { input: image }).status).toBe(0);
    expect(
      readFileSync(backing)
        .subarray(2 * MiB, 5 * MiB)
        .equals(image),
    ).toBe(true);
    expect(shell(`$SC -c - ${device}`, { input: image }).status).toBe(0);
    expect(shell(`$SC -c - ${device}`, { input: image }).status).toBe(11);
    expect(shell(`$SC -f 1M - ${device}`, { input: image }).status).toBe(0);
    expect(statSync(backing).size).toBe(8 * MiB);
  });

  test('DEST that is too small is refused before it is touched', async () => {
    const old = noise(2 * MiB, 6);
    const { device, backing } = loopDevice(old);
    const source = join(tempDir(), 'src');
    writeFileSync(source, image);
    const outcome = command([source, device]);
    expect(outcome).toMatchObject({
      status: 3,
      stderr: `sparsecopy: ${device}: the device holds ${2 * MiB} bytes, ${3 * MiB} are needed\n`,
    });
    expect(readFileSync(backing).equals(old)).toBe(true);
    // From a stream it is known only on the way.
    expect((await rejection(sparsecopy(asyncBytes(image), device))).code).toBe('DESTINATION');
  });

  test('DEST that is mounted is refused', () => {
    const { device } = loopDevice(Buffer.alloc(16 * MiB));
    const folder = tempDir();
    run('mkfs.ext4', ['-q', device]);
    run('mount', [device, folder]);
    onTestFinished(() => void run('umount', [folder]));
    const outcome = shell(`$SC - ${device}`, { input: image });
    expect(outcome).toMatchObject({
      status: 3,
      stderr: `sparsecopy: ${device}: the device is in use (mounted, or held by another)\n`,
    });
  });

  test('the partition table is read again when the device has been closed', () => {
    const { device } = loopDevice(Buffer.alloc(4 * MiB));
    const trace = join(tempDir(), 'trace');
    const outcome = shell(
      `strace -f -qq -s 200 -o ${trace} -e trace=execve,close,openat,fsync $SC - ${device}`,
      { input: image },
    );
    expect(outcome.status).toBe(0);
    const lines = readFileSync(trace, 'utf8').split('\n');
    const opened = lines.findIndex((text) => text.includes(`"${device}", O_RDWR|O_EXCL`));
    const synced = lines.findIndex((text) => text.includes('fsync('));
    const reread = lines.findIndex(
      (text) => text.includes('execve(') && text.includes('"--rereadpt"') && text.includes(device),
    );
    expect(opened).toBeGreaterThan(-1);
    expect(synced).toBeGreaterThan(opened);
    expect(reread).toBeGreaterThan(synced);
  });

  test('SOURCE: the whole device, and info of it', async () => {
    const { device } = loopDevice(image);
    const dst = join(tempDir(), 'dst');
    expect(command([device, dst]).status).toBe(0);
    expect(readFileSync(dst).equals(image)).toBe(true);
    expect(await info(device)).toMatchObject({ format: 'raw', virtualSize: 3 * MiB });
  });

  test('SOURCE and DEST the same device is refused', () => {
    const { device } = loopDevice(image);
    expect(command([device, device]).status).toBe(3);
  });
});

async function* asyncBytes(bytes: Buffer): AsyncGenerator<Buffer> {
  await Promise.resolve();
  yield bytes;
}
