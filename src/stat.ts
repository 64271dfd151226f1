/** What can be told of a file before it is read: its kind, which file it is, and a block device's size. */

import * as fs from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const read = promisify(fs.read);

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
