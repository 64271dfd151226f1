/** Makes a real disk: a GPT with one ext4 file system that holds files of this machine. */

import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from './native.ts';

const MiB = 2 ** 20;

export interface DiskOptions {
  /** Size of the disk in bytes, a multiple of 1 MiB. */
  readonly size: number;
  /** Bytes of files to put in, about. */
  readonly data: number;
  /** Where the files come from. */
  readonly folders?: readonly string[];
}

/**
 * Makes the raw disk `path`, sparse: partition table by sfdisk, file system by mkfs.ext4, filled with regular files from
 * `folders` up to `data` bytes.
 */
export function makeDisk(path: string, options: DiskOptions): void {
  const root = mkdtempSync(join(tmpdir(), 'sparsecopy-disk-'));
  try {
    fill(
      join(root, 'files'),
      options.folders ?? ['/usr/bin', '/usr/lib', '/usr/share'],
      options.data,
    );
    writeFileSync(path, '');
    truncateSync(path, options.size);
    run('sfdisk', ['--quiet', path], Buffer.from('label: gpt\nstart=1MiB, type=linux\n'));
    // One MiB before the partition, one behind it for the second table.
    const kib = (options.size - 2 * MiB) / 1024;
    run('mkfs.ext4', [
      '-q',
      '-F',
      '-E',
      `offset=${MiB}`,
      '-d',
      join(root, 'files'),
      path,
      `${kib}k`,
    ]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

/** Copies regular files of `folders`, in the order of their names, into `target` until `budget` bytes are there. */
function fill(target: string, folders: readonly string[], budget: number): void {
  let left = budget;
  const copyFolder = (from: string, to: string): void => {
    mkdirSync(to, { recursive: true });
    const entries = readdirSync(from, { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    );
    for (const entry of entries) {
      if (left <= 0) return;
      const source = join(from, entry.name);
      if (entry.isDirectory()) copyFolder(source, join(to, entry.name));
      else if (entry.isFile()) {
        const { size } = statSync(source);
        if (size > left) continue;
        cpSync(source, join(to, entry.name));
        left -= size;
      }
    }
  };
  for (const [number, folder] of folders.entries()) {
    if (left > 0) copyFolder(folder, join(target, `${number}`));
  }
}
