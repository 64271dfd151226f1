/** Ranges moved by a thread from one open file to another: read, zero test, tally and write in one place, one after the other. */

import { readSync } from 'node:fs';
import { SparsecopyError, markStep, type Step } from '../errors.ts';
import type { JobResult, Moved } from '../types.ts';
import { findRuns } from './runs.ts';
import { writeFullyNow } from './write.ts';

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

/** What is read, looked at and written before the next is: little enough to stay in the processor's cache. */
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

  return {
    moved,
    write(bytes, offset): void {
      const { runs, diskSize } = findRuns(bytes, grain, blockSize);
      moved.diskSize += diskSize;
      inStepNow('write', () => {
        for (const { from, to: end } of runs) {
          writeFullyNow(to, bytes.subarray(from, end), seek + offset + from);
          moved.bytesWritten += end - from;
        }
      });
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

/** For a source that has become shorter since it was opened. */
export function shortened(name: string, end: number): SparsecopyError {
  const sentence = `has become shorter: expected bytes at ${end}, found the end`;
  return new SparsecopyError('TRUNCATED', sentence, { source: name, offset: end, found: end });
}
