/** The only place that writes to files: positioned, complete, several in flight, and never quiet about a full disk. */

import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { markStep } from '../errors.ts';

const write = promisify(fs.write);
const fdatasync = promisify(fs.fdatasync);

/**
 * The system is told to start writing to the disk each time so much is dirty, in the background: otherwise it all waits for
 * the sync at the end. Measured: that sync was a quarter of the time of a fast copy.
 */
const FLUSH_EVERY = 64 * 1024 * 1024;

/** The first time earlier: until then the disk has nothing to do. */
const FIRST_FLUSH = 16 * 1024 * 1024;

/** Writes in flight: one being done, one waiting. Writes to one file exclude each other in the kernel; more only take threads from the reads. */
const WRITE_DEPTH = 2;

/**
 * Writes all of `bytes` at `position`. Node reports a partial write, and no error, when the disk fills up or a limit is
 * reached: the rest is tried again, which brings the error out.
 * @throws the system's error; `ENOSPC` when a write takes nothing.
 */
async function writeFully(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await write(fd, bytes, done, bytes.length - done, position + done);
    if (bytesWritten === 0) throw noSpace();
    done += bytesWritten;
  }
}

/** As `writeFully`, and done when it returns. */
export function writeFullyNow(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) {
    const count = fs.writeSync(fd, bytes, done, bytes.length - done, position + done);
    if (count === 0) throw noSpace();
    done += count;
  }
}

function noSpace(): Error {
  const sentence = 'ENOSPC: no space left on device, write';
  return Object.assign(new Error(sentence), { code: 'ENOSPC', syscall: 'write' });
}

export interface Writer {
  /**
   * Starts a write of `bytes` at `position`; resolves as soon as another may be started. `release` is called when the
   * bytes are no longer needed.
   * @throws the error of any write that has failed.
   */
  write(bytes: Uint8Array, position: number, release?: () => void): Promise<void>;
  /** Writes `bytes` at `position` before it returns, blocking this thread. @throws its error, marked with its step. */
  writeNow(bytes: Uint8Array, position: number): void;
  /** Takes note of bytes that somebody else has written to the file. */
  note(length: number): void;
  /** Resolves when no write is in flight. @throws as `write` does. */
  drain(): Promise<void>;
  /** Resolves when no write is in flight, whatever became of them. */
  settle(): Promise<void>;
  /** Bytes written so far. */
  readonly bytesWritten: number;
}

export interface WriterOptions {
  /** Bytes after which `fdatasync` is called, each time; the C tool's `-y`. Its errors are errors. */
  readonly syncEvery?: number;
  /** Whether there will be a sync at the end, which needs less time when the system starts early; default true. */
  readonly sync?: boolean;
  /** Called when a write in flight fails, so that nobody waits for an input that is of no more use. */
  readonly onError?: (error: unknown) => void;
}

/** A writer to the open descriptor `fd`. */
export function makeWriter(fd: number, options: WriterOptions = {}): Writer {
  const flying = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  let unsynced = 0;
  let unflushed = FLUSH_EVERY - FIRST_FLUSH;
  let flush: Promise<void> | undefined;

  const fail = (error: unknown): void => {
    failure ??= { error: markStep(error, 'write') };
    options.onError?.(error);
  };
  const check = (): void => {
    if (failure !== undefined) throw failure.error;
  };
  const settle = async (): Promise<void> => {
    while (flying.size > 0) await Promise.all(flying);
    await flush;
  };
  /** One flush at a time: on a slow disk the next one has more to do. */
  const flushBehind = (): void => {
    if (flush !== undefined || options.sync === false) return;
    unflushed = 0;
    flush = fdatasync(fd)
      .catch(fail)
      .finally(() => {
        flush = undefined;
      });
  };

  return {
    bytesWritten: 0,
    async write(bytes, position, release): Promise<void> {
      check();
      const flight: Promise<void> = writeFully(fd, bytes, position)
        .then(() => {
          (this as { bytesWritten: number }).bytesWritten += bytes.length;
        }, fail)
        .finally(() => {
          flying.delete(flight);
          release?.();
        });
      flying.add(flight);
      unsynced += bytes.length;
      unflushed += bytes.length;
      if (options.syncEvery !== undefined && unsynced >= options.syncEvery) {
        unsynced = 0;
        await settle();
        check();
        await fdatasync(fd).catch(fail);
      }
      if (unflushed >= FLUSH_EVERY) flushBehind();
      if (flying.size >= WRITE_DEPTH) await Promise.race(flying);
      check();
    },
    writeNow(bytes, position): void {
      try {
        writeFullyNow(fd, bytes, position);
      } catch (error) {
        throw markStep(error, 'write');
      }
      this.note(bytes.length);
    },
    note(length: number): void {
      (this as { bytesWritten: number }).bytesWritten += length;
      unflushed += length;
      if (unflushed >= FLUSH_EVERY) flushBehind();
    },
    async drain(): Promise<void> {
      await settle();
      check();
    },
    settle,
  };
}
