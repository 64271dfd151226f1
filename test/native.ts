/** The native tools that tests and benchmarks call. */

import { spawnSync } from 'node:child_process';

/** Debian's package for each tool that a test may need. */
export const packages = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  gzip: 'gzip',
  xz: 'xz-utils',
  lz4: 'lz4',
  zstd: 'zstd',
  'mkfs.ext4': 'e2fsprogs',
  sfdisk: 'fdisk',
  losetup: 'mount',
  mount: 'mount',
  strace: 'strace',
} as const;

export type Tool = keyof typeof packages;

/** True when `tool` is on the PATH (the system folders are searched too, for users without them on theirs). */
export function hasTool(tool: Tool): boolean {
  return spawnSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${tool}`]).status === 0;
}

/**
 * qemu-img measures how fast it is before it makes a key, and gives up where a clock shows no time between two moments, as happens now and
 * then on busy machines.
 */
const CLOCK = /Unable to get accurate CPU usage/;

/** Runs a native tool to its end, in the folder `cwd` if one is named, and gives its standard output. Throws with its standard error if it fails. */
export function run(
  command: string,
  args: readonly string[],
  input?: Uint8Array,
  cwd?: string,
  tries = 10,
): Buffer {
  const result = spawnSync(command, args, {
    input,
    cwd,
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
    maxBuffer: 2 ** 30,
  });
  if (result.error !== undefined) throw result.error;
  if (result.status !== 0) {
    if (tries > 1 && CLOCK.test(result.stderr.toString())) {
      return run(command, args, input, cwd, tries - 1);
    }
    throw new Error(
      `${command} ${args.join(' ')}: exit ${result.status ?? -1}: ${result.stderr.toString()}`,
    );
  }
  return result.stdout;
}
