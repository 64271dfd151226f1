/** What can be told of a file without reading it: its kind, which one it is, a block device's size, whether it has changed. */

import * as fs from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { SparsecopyError } from './errors.ts';

const read = promisify(fs.read);
const fstat = promisify(fs.fstat);

/** Which file a descriptor stands for: two names of one file have the same. */
export type FileIdentity = string;

/** Equal for two descriptors or names of the same regular file or block device; `undefined` for anything else. */
export function identityOf(stats: fs.Stats): FileIdentity | undefined {
  if (stats.isBlockDevice()) return `device ${stats.rdev}`;
  return stats.isFile() ? `file ${stats.dev} ${stats.ino}` : undefined;
}

/** What `stats` is of, in words. */
export function kindOf(stats: fs.Stats): string {
  if (stats.isFile()) return 'a regular file';
  if (stats.isDirectory()) return 'a directory';
  if (stats.isBlockDevice()) return 'a block device';
  if (stats.isCharacterDevice()) return 'a character device';
  if (stats.isFIFO()) return 'a FIFO';
  return 'a socket';
}

/**
 * Refuses what neither has a size nor an end that can be relied on: devices that give bytes for ever, pipes that nobody writes
 * to (security.md T24). To be called with the `fstat` of what is open, or before something is opened that may hang.
 * @throws SparsecopyError `SOURCE` for anything but a regular file or a block device.
 */
export function checkFileOrDevice(name: string, stats: fs.Stats): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  const found = kindOf(stats);
  throw new SparsecopyError('SOURCE', `is ${found}, expected a regular file or a block device`, {
    source: name,
    expected: 'file or block device',
    found,
  });
}

/** What a regular file was like at a time; `undefined` for anything else, whose times say nothing of its content. */
export type FileState = { readonly size: bigint; readonly modified: bigint } | undefined;

/** Of the file open as `fd`. */
export async function stateOf(fd: number): Promise<FileState> {
  const stats = await fstat(fd, { bigint: true });
  return stats.isFile() ? { size: stats.size, modified: stats.mtimeNs } : undefined;
}

/**
 * Tells whether the file open as `fd` was written to since it was in the state `before` (security.md T25). By default only one
 * that has become shorter is refused: its end was not read as it was. `strict` refuses every other size and time of modification.
 * @throws SparsecopyError `SOURCE` when it has changed so.
 */
export async function checkUnchanged(
  before: FileState,
  fd: number,
  name: string,
  strict: boolean,
): Promise<void> {
  const now = await stateOf(fd);
  if (before === undefined || now === undefined) return;
  if (strict ? now.size !== before.size : now.size < before.size) {
    throw new SparsecopyError(
      'SOURCE',
      `had ${before.size} bytes and has ${now.size} now: it was changed while it was read`,
      { source: name, expected: before.size, found: now.size },
    );
  }
  if (strict && now.modified !== before.modified) {
    throw new SparsecopyError('SOURCE', 'was written to while it was read', {
      source: name,
      expected: before.modified,
      found: now.modified,
    });
  }
}

/** sysfs counts in these, whatever the device's own sector size is. */
const SYSFS_SECTOR = 512;

/**
 * Size in bytes of the block device open as `fd`: from sysfs on Linux, elsewhere by looking for the last byte that
 * can be read.
 */
export async function deviceSize(fd: number, stats: fs.Stats): Promise<number> {
  if (process.platform === 'linux') {
    // dev_t as the kernel and glibc pack it: 12 bits of major at 8, 8 bits of minor at 0, the rest of both above.
    const device = BigInt(stats.rdev);
    const major = Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
    const minor = Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
    try {
      const sectors = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'latin1');
      return Number(sectors) * SYSFS_SECTOR;
    } catch {
      // No sysfs here (a container): look for the end.
    }
  }
  return lastReadable(fd);
}

/** The first offset at which a read gives nothing, by doubling and then halving. */
async function lastReadable(fd: number): Promise<number> {
  const block = Buffer.alloc(SYSFS_SECTOR);
  const isReadable = async (sector: number): Promise<boolean> => {
    try {
      const { bytesRead } = await read(fd, block, 0, block.length, sector * SYSFS_SECTOR);
      return bytesRead > 0;
    } catch {
      return false;
    }
  };
  if (!(await isReadable(0))) return 0;
  let good = 0;
  let bad = 1;
  while (await isReadable(bad)) {
    good = bad;
    bad *= 2;
  }
  while (bad - good > 1) {
    const middle = Math.floor((good + bad) / 2);
    if (await isReadable(middle)) good = middle;
    else bad = middle;
  }
  return bad * SYSFS_SECTOR;
}
