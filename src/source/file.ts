/** Regular files and block devices as Sources. */

import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { SparsecopyError } from '../errors.ts';
import { deviceSize, identityOf, kindOf, type FileIdentity } from '../stat.ts';
import type { Extent, Source, StoredExtent } from '../types.ts';
import { oneDataExtent, truncated } from './buffer.ts';
import { fileExtents } from './holes.ts';

const open = promisify(fs.open);
const fstat = promisify(fs.fstat);
const close = promisify(fs.close);
const read = promisify(fs.read);

/** A Source over an open file. */
export interface FileSource extends Source {
  /** Open for reading until it is disposed of. */
  readonly fd: number;
  readonly identity: FileIdentity | undefined;
}

/**
 * Opens the regular file or block device `path` for reading.
 * @throws SparsecopyError `SOURCE` when it is neither; system errors as they come.
 */
export async function openFile(path: string): Promise<FileSource> {
  const fd = await open(path, 'r');
  try {
    return await fileSource(fd, path, () => close(fd));
  } catch (error) {
    await close(fd);
    throw error;
  }
}

/**
 * A Source over the open descriptor `fd` of a regular file or block device; `dispose` gives the descriptor up.
 * @throws SparsecopyError `SOURCE` when it is neither.
 */
export async function fileSource(
  fd: number,
  name: string,
  dispose: () => Promise<void>,
): Promise<FileSource> {
  const stats = await fstat(fd);
  if (!stats.isFile() && !stats.isBlockDevice()) {
    throw new SparsecopyError(
      'SOURCE',
      `is ${kindOf(stats)}, expected a regular file or a block device`,
      { source: name, expected: 'file or block device', found: kindOf(stats) },
    );
  }
  const size = stats.isFile() ? stats.size : await deviceSize(fd, stats);
  const isFile = stats.isFile();
  let disposed: Promise<void> | undefined;
  return {
    name,
    size,
    fd,
    identity: identityOf(stats),
    async read(into: Uint8Array, offset: number): Promise<void> {
      let done = 0;
      while (done < into.length) {
        const { bytesRead } = await read(fd, into, done, into.length - done, offset + done);
        if (bytesRead === 0) throw truncated(name, offset, into.length, offset + done);
        done += bytesRead;
      }
    },
    extents: (start = 0, end = size) =>
      isFile
        ? fileExtents(fd, start, Math.min(end, size))
        : oneDataExtent(start, Math.min(end, size)),
    stored: isFile
      ? { fd, isWhole: true, extents: () => inPlace(fileExtents(fd, 0, size)) }
      : undefined,
    [Symbol.asyncDispose]: () => (disposed ??= dispose()),
  };
}

/** `extents` of a file, which lie where they are. */
async function* inPlace(
  extents: AsyncIterable<Extent>,
): AsyncGenerator<readonly StoredExtent[], void, void> {
  for await (const { kind, offset, length } of extents) {
    yield [
      kind === 'zero' ? { kind, offset, length } : { kind, offset, length, hostOffset: offset },
    ];
  }
}
