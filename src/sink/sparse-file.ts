/** A new sparse file that is complete or absent: written beside its final name, synced (unless that is not wanted), then renamed. */

import * as fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { inStep } from '../errors.ts';
import type { Ask, JobName } from '../threads.ts';
import type { Chunk, Moved } from '../types.ts';
import { findRuns } from './runs.ts';
import { makeSink, type Sink } from './sink.ts';
import { makeWriter, type Writer } from './write.ts';

const open = promisify(fs.open);
const close = promisify(fs.close);
const fstat = promisify(fs.fstat);
const ftruncate = promisify(fs.ftruncate);
const fsync = promisify(fs.fsync);
const fchmod = promisify(fs.fchmod);
const fchown = promisify(fs.fchown);

/** The unit of `st_blocks`, whatever the file system's block size. */
const STAT_BLOCK = 512;

/** What becomes a hole when it is zero: what file systems allocate. */
const GRAIN = 4096;

/** A part file that nobody has written to for so long, and whose process is gone, was left by a kill. */
const ABANDONED_MS = 60 * 60 * 1000;

/** Characters of the name that the part file's name repeats: with all of a long one it would be too long itself. */
const NAME_LENGTH = 64;

export interface SparseFileOptions {
  /** Where in the file the disk starts, in bytes, default 0; what lies before it is a hole. */
  readonly seek?: number;
  /** Size of the file at the end, in bytes; default the end of the disk. */
  readonly finalSize?: number;
  /** `fdatasync` after each so many bytes written. */
  readonly syncEvery?: number;
  /** Whether the end waits until all is on the disk; default true. */
  readonly sync?: boolean;
}

/** A new file, to which the disk's data can also be written past the stream. */
export interface MovingSink extends Sink {
  /** Resolves when `place` and `placeNow` may be called. @throws when there will be no file. */
  opened(): Promise<void>;
  /**
   * Starts to write `bytes` at `offset` of the disk, but for their zeros; resolves as soon as more may be given, with the bytes in
   * blocks of `blockSize` (a divisor of 512) that are not all zero. `release` is called when the bytes are no longer needed.
   * @throws the error of any write that has failed.
   */
  place(bytes: Uint8Array, offset: number, blockSize: number, release: () => void): Promise<number>;
  /** As `place`, and done when it returns, blocking this thread. */
  placeNow(bytes: Uint8Array, offset: number, blockSize: number): number;
  /**
   * Has `ask` do `job`, which writes to the file by itself, up to `end` of the disk at most; its message is `message` with the target.
   * Resolves with what it did. Several calls may be under way; the file stays open until none is.
   */
  move<Answer extends Moved>(ask: Ask, job: JobName, message: object, end: number): Promise<Answer>;
}

/**
 * A sink that makes the file `path`. Zero chunks become holes. Until the file is complete (and on the disk, with `sync`) it has a name
 * of its own (`.NAME.part-PID-RANDOM`) in the same folder; a failure removes that, and what `path` named before stays.
 * A file that is replaced leaves its mode and, where allowed, its owner to the new one.
 * Its errors are the system's, as the stream's error.
 */
export function sparseFile(path: string, options: SparseFileOptions = {}): MovingSink {
  const seek = options.seek ?? 0;
  const temporary = join(dirname(path), `${partPrefix(path)}${process.pid}-${randomName()}`);
  let fd: number | undefined;
  let writer: Writer | undefined;
  let end = 0;
  let sizeOnDisk: number | undefined;
  /** Under way. */
  const moves = new Set<Promise<unknown>>();

  const sink = makeSink({
    async open(onError): Promise<void> {
      await inStep('destination', removeAbandoned(path));
      // O_EXCL: whoever can write to the folder cannot make us follow a link of theirs.
      fd = await inStep('destination', open(temporary, 'wx'));
      writer = makeWriter(fd, { ...options, onError });
      sink.emit('ready');
    },
    async write(chunk: Chunk): Promise<void> {
      end = Math.max(end, chunk.offset + chunk.length);
      if (chunk.kind === 'data') {
        await writer?.write(chunk.bytes, seek + chunk.offset, chunk.release);
      }
    },
    async finish(): Promise<void> {
      if (fd === undefined || writer === undefined) return;
      await writer.drain();
      await inStep('truncate', ftruncate(fd, options.finalSize ?? seek + end));
      await inStep('write', keepOwner(path, fd));
      if (options.sync !== false) await inStep('write', fsync(fd));
      sizeOnDisk = (await inStep('write', fstat(fd))).blocks * STAT_BLOCK;
      const closing = fd;
      fd = undefined;
      await inStep('write', close(closing));
      await inStep('write', fs.promises.rename(temporary, path));
      if (options.sync !== false) await syncFolder(dirname(path));
    },
    async close(isComplete): Promise<void> {
      // Threads write to the descriptor: its number must not become another file's.
      await Promise.allSettled(moves);
      await writer?.settle();
      if (fd !== undefined) await close(fd).catch(() => undefined);
      fd = undefined;
      if (!isComplete && writer !== undefined) {
        await fs.promises.unlink(temporary).catch(() => undefined);
      }
    },
    figures: () => ({ bytesWritten: writer?.bytesWritten ?? 0, sizeOnDisk, nonZeroDestination: 0 }),
  });

  function writerNow(): Writer {
    // Once destroyed it only waits for what is under way.
    if (fd === undefined || writer === undefined || sink.destroyed) {
      throw new Error('the file is closed');
    }
    return writer;
  }

  async function opened(): Promise<void> {
    if (fd === undefined && !sink.destroyed) {
      await new Promise((resolve) => sink.once('ready', resolve).once('close', resolve));
    }
    writerNow();
  }

  return Object.assign(sink, {
    opened,
    async place(
      bytes: Uint8Array,
      offset: number,
      blockSize: number,
      release: () => void,
    ): Promise<number> {
      const { runs, diskSize } = findRuns(bytes, GRAIN, blockSize);
      end = Math.max(end, offset + bytes.length);
      let left = runs.length;
      const releaseOne = (): void => {
        if (--left === 0) release();
      };
      if (left === 0) release();
      for (const { from, to } of runs) {
        await writerNow().write(bytes.subarray(from, to), seek + offset + from, releaseOne);
      }
      return diskSize;
    },
    placeNow(bytes: Uint8Array, offset: number, blockSize: number): number {
      const writing = writerNow();
      end = Math.max(end, offset + bytes.length);
      const { runs, diskSize } = findRuns(bytes, GRAIN, blockSize);
      for (const { from, to } of runs) {
        writing.writeNow(bytes.subarray(from, to), seek + offset + from);
      }
      return diskSize;
    },
    async move<Answer extends Moved>(
      ask: Ask,
      job: JobName,
      message: object,
      moveEnd: number,
    ): Promise<Answer> {
      await opened();
      const moving = ask<Answer>(job, { ...message, to: fd, seek, grain: GRAIN });
      moves.add(moving);
      try {
        const moved = await moving;
        end = Math.max(end, moveEnd);
        writer?.note(moved.bytesWritten);
        return moved;
      } finally {
        moves.delete(moving);
      }
    },
  });
}

/** Gives `fd` the mode and, if this user may, the owner of the file that it is going to replace. */
async function keepOwner(path: string, fd: number): Promise<void> {
  const old = await fs.promises.stat(path).catch(() => undefined);
  if (old === undefined) return;
  const now = await fstat(fd);
  if (old.uid !== now.uid || old.gid !== now.gid) {
    await fchown(fd, old.uid, old.gid).catch(() => undefined);
  }
  // After chown, which clears set-id bits.
  await fchmod(fd, old.mode & 0o7777);
}

/** Eight hexadecimal digits. That they cannot be foretold does not matter: the file must be a new one. */
function randomName(): string {
  return Math.floor(Math.random() * 2 ** 32)
    .toString(16)
    .padStart(8, '0');
}

function partPrefix(path: string): string {
  return `.${basename(path).slice(0, NAME_LENGTH)}.part-`;
}

/** Removes what killed processes left of earlier tries at `path`. */
async function removeAbandoned(path: string): Promise<void> {
  const prefix = partPrefix(path);
  for (const name of await fs.promises.readdir(dirname(path))) {
    const pid = name.startsWith(prefix)
      ? /^(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length))?.[1]
      : undefined;
    if (pid === undefined || isAlive(Number(pid))) continue;
    const part = join(dirname(path), name);
    const stats = await fs.promises.stat(part).catch(() => undefined);
    if (stats === undefined || Date.now() - stats.mtimeMs < ABANDONED_MS) continue;
    await fs.promises.unlink(part).catch(() => undefined);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Makes the rename durable. Not every system lets a folder be opened; then there is no more to be done. */
async function syncFolder(path: string): Promise<void> {
  const fd = await open(path, 'r').catch(() => undefined);
  if (fd === undefined) return;
  await fsync(fd)
    .catch(() => undefined)
    .finally(() => close(fd));
}
