/** Where a sparse file has its holes: SEEK_DATA and SEEK_HOLE through the optional native package `fs-ext`. */

import type { Extent } from '../types.ts';

/** lseek(2) on Linux; fs-ext passes numbers on as they are. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

type SeekSync = (fd: number, offset: number, whence: number) => number;

let loading: Promise<SeekSync | undefined> | undefined;

/**
 * lseek, or `undefined` where the package is not installed, was not compiled, the system has no SEEK_HOLE, or
 * `SPARSECOPY_NATIVE=0` forbids native parts. Loaded when it is first needed: most runs never do.
 */
function loadSeek(): Promise<SeekSync | undefined> {
  loading ??= (async (): Promise<SeekSync | undefined> => {
    if (process.env['SPARSECOPY_NATIVE'] === '0' || process.platform !== 'linux') return undefined;
    try {
      const fsExt = await import('fs-ext');
      return fsExt.default.seekSync;
    } catch {
      return undefined;
    }
  })();
  return loading;
}

/** True when holes of files can be found on this machine. */
export async function canFindHoles(): Promise<boolean> {
  return (await loadSeek()) !== undefined;
}

/**
 * The extents of the regular file `fd` from `start` to `end` (exclusive, at most its size): holes are zero extents.
 * Without SEEK_HOLE the range is one data extent.
 */
export async function* fileExtents(fd: number, start: number, end: number): AsyncGenerator<Extent> {
  const seek = await loadSeek();
  let at = start;
  while (at < end) {
    const data = seek === undefined ? at : Math.min(seekTo(seek, fd, at, SEEK_DATA) ?? end, end);
    if (data > at) yield { kind: 'zero', offset: at, length: data - at };
    if (data >= end) return;
    const hole = seek === undefined ? end : Math.min(seekTo(seek, fd, data, SEEK_HOLE) ?? end, end);
    yield { kind: 'data', offset: data, length: hole - data };
    at = hole;
  }
}

/** Where lseek lands; `undefined` when there is no data after `offset`. A file system without support: all is data. */
function seekTo(seek: SeekSync, fd: number, offset: number, whence: number): number | undefined {
  try {
    return seek(fd, offset, whence);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENXIO') return undefined;
    if (code === 'EINVAL' || code === 'ENOTSUP' || code === 'EOPNOTSUPP') {
      return whence === SEEK_DATA ? offset : undefined;
    }
    throw error;
  }
}
