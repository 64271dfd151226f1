/** Ranges moved by a thread from one open file to another: read, zero test, tally and write in one place, one after the other. */

import { readSync, writeSync } from 'node:fs';
import { isZero } from '../bytes.ts';
import { SparsecopyError, markStep, type Step } from '../errors.ts';
import type { JobResult, Moved } from '../types.ts';

/** A range of a file that is to become a range of the disk, in bytes. */
export interface MoveRange {
  readonly offset: number;
  readonly length: number;
  readonly hostOffset: number;
  /** How many bytes are to be read, where they are compressed. */
  readonly hostLength?: number;
}

/** Where a disk is written to, and how. */
export interface Target {
  /** A descriptor. */
  readonly to: number;
  /** Where the disk starts in the destination, in bytes. */
  readonly seek: number;
  /** What becomes a hole when it is zero, and what counts as a block. */
  readonly grain: number;
  readonly blockSize: number;
}

/** Ranges to move between two open files. */
export interface Move extends Target {
  /** The source, for messages. */
  readonly name: string;
  /** A descriptor. */
  readonly from: number;
  readonly ranges: readonly MoveRange[];
}

/**
 * What is read, looked at and written before the next is: little enough to stay in the processor's cache. Writes of a MiB and more are now
 * and then a third as fast as smaller ones: the system looks for large pages for them.
 */
export const SLICE: number = 512 * 1024;

let slice: Buffer | undefined;

/** The job `move`. It throws what a `Mover` throws. */
export function move(task: Move): JobResult {
  const mover = makeMover(task);
  for (const range of task.ranges) mover.move(range);
  return { answer: mover.moved };
}

/** Writes to a target; its system calls may block, nobody waits on the thread for anything else. */
export interface Placer {
  /** Writes what is not zero of `bytes` to `offset` of the disk. @throws what writing throws, marked with its step. */
  readonly write: (bytes: Uint8Array, offset: number) => void;
  readonly moved: Moved;
}

/** Moves the ranges of one task. */
export interface Mover extends Placer {
  /** Moves a range that is not compressed. */
  move(range: MoveRange): void;
  /**
   * Fills `bytes` from the source.
   * @throws what reading throws; `TRUNCATED` when the source has become shorter. Both are marked with their step.
   */
  read(bytes: Uint8Array, offset: number): void;
}

export function makePlacer({ to, seek, grain, blockSize }: Target): Placer {
  const moved = { bytesRead: 0, bytesWritten: 0, diskSize: 0 };

  function writeRun(bytes: Uint8Array, start: number, end: number, offset: number): void {
    inStepNow('write', () => writeAll(to, bytes, start, end, seek + offset + start));
    moved.bytesWritten += end - start;
  }

  return {
    moved,
    write(bytes, offset): void {
      const { length } = bytes;
      const words = wordsOf(bytes);
      let start = -1;
      for (let at = 0; at < length; at += grain) {
        const count = countData(bytes, words, at, Math.min(length, at + grain), blockSize);
        moved.diskSize += count;
        if (count > 0) {
          if (start < 0) start = at;
        } else if (start >= 0) {
          writeRun(bytes, start, at, offset);
          start = -1;
        }
      }
      if (start >= 0) writeRun(bytes, start, length, offset);
    },
  };
}

export function makeMover(task: Move): Mover {
  const { name, from } = task;
  const placer = makePlacer(task);
  const { write } = placer;
  let bytesRead = 0;

  function read(bytes: Uint8Array, offset: number): void {
    inStepNow('source', () => {
      for (let filled = 0; filled < bytes.length;) {
        const position = offset + filled;
        const count = readSync(from, bytes, filled, bytes.length - filled, position);
        if (count === 0) throw shortened(name, position);
        filled += count;
      }
    });
    bytesRead += bytes.length;
  }

  return {
    read,
    write,
    get moved(): Moved {
      return { ...placer.moved, bytesRead };
    },
    move({ offset, length, hostOffset }): void {
      slice ??= Buffer.allocUnsafeSlow(SLICE);
      for (let at = 0; at < length; at += SLICE) {
        const bytes = slice.subarray(0, Math.min(SLICE, length - at));
        read(bytes, hostOffset + at);
        write(bytes, offset + at);
      }
    },
  };
}

function inStepNow(step: Step, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw markStep(error, step);
  }
}

function shortened(name: string, end: number): SparsecopyError {
  const sentence = `has become shorter: expected bytes at ${end}, found the end`;
  return new SparsecopyError('TRUNCATED', sentence, { source: name, offset: end, found: end });
}

/** The words of four bytes in `bytes`; none where these do not lie so. */
function wordsOf({ buffer, byteOffset, length }: Uint8Array): Int32Array {
  return byteOffset % 4 === 0
    ? new Int32Array(buffer, byteOffset, Math.floor(length / 4))
    : new Int32Array(0);
}

/** Bytes from `start` to `end` in blocks that are not all zero; `words` are those of `bytes`. */
function countData(
  bytes: Uint8Array,
  words: Int32Array,
  start: number,
  end: number,
  blockSize: number,
): number {
  if (bytes[start] === 0 && isZero(bytes, start, end)) return 0;
  let count = 0;
  for (let at = start; at < end; at += blockSize) {
    const stop = Math.min(end, at + blockSize);
    if (bytes[at] !== 0 || !areZero(bytes, words, at, stop)) count += stop - at;
  }
  return count;
}

/** As `isZero`, which costs more to call than it takes to look through a short block of words. */
function areZero(bytes: Uint8Array, words: Int32Array, start: number, end: number): boolean {
  const last = end / 4;
  if (start % 4 !== 0 || end % 4 !== 0 || last > words.length) return isZero(bytes, start, end);
  for (let at = start / 4; at < last; at++) if (words[at] !== 0) return false;
  return true;
}

/** As `writeFully` in write.ts does: a partial write is tried again, which brings the error out. */
function writeAll(
  to: number,
  bytes: Uint8Array,
  start: number,
  end: number,
  position: number,
): void {
  for (let at = start; at < end;) {
    const count = writeSync(to, bytes, at, end - at, position + at - start);
    if (count === 0) {
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    }
    at += count;
  }
}
