/** Data that lie in a file as they are, moved to a new one by this thread, which has the system read ahead. */

import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { markStep } from '../errors.ts';
import { shortened, type MoveRange } from './mover-job.ts';
import type { MovingSink } from './sparse-file.ts';

const read = promisify(fs.read);

/** What is read at a time, and how often at once: few reads, because handing one to the system's threads costs as much as copying 100 KiB. */
const READ_LENGTH = 2 * 1024 * 1024;
const READ_DEPTH = 2;

/**
 * What is written at a time, up to multiples of it: little, because the system gets memory for a write in one piece where it is aligned, and on
 * a virtual machine larger pieces were often three times as slow to fill (bench/README.md).
 */
const WRITE_LENGTH = 64 * 1024;

export interface SlicesRules {
  /** The source, for messages. */
  readonly name: string;
  /** A descriptor. */
  readonly from: number;
  readonly sink: MovingSink;
  /** What counts as a block in `diskSize`, in bytes. */
  readonly blockSize: number;
  /** Whether this thread writes by itself, and waits for it. */
  readonly blocking: boolean;
  /** Called for each part that has been moved, in bytes. */
  readonly onMoved: (length: number, diskSize: number) => void;
  /** Called for what goes wrong, marked with its step. */
  readonly onError: (error: unknown) => void;
  /** Throws when no more is to be started. */
  readonly check: () => void;
}

/** Moves ranges in slices, several of them at once. */
export interface Slices {
  /** Resolves when all of `range` has been started. @throws what `check` throws. */
  move(range: MoveRange): Promise<void>;
  /** Resolves when nothing is read any more, whatever became of it. */
  settle(): Promise<void>;
}

export function makeSlices(rules: SlicesRules): Slices {
  const { name, from, sink, blockSize, blocking, onMoved, onError, check } = rules;
  const flying = new Set<Promise<void>>();
  const free: Buffer[] = [];

  async function moveOne(offset: number, length: number, hostOffset: number): Promise<void> {
    try {
      const buffer = free.pop() ?? Buffer.allocUnsafeSlow(READ_LENGTH);
      await readFully(buffer.subarray(0, length), hostOffset);
      const slices = slicesOf(buffer, offset, length);
      let left = slices.length;
      const release = (): void => {
        if (--left === 0) free.push(buffer);
      };
      for (const { bytes, offset: at } of slices) {
        if (blocking) {
          onMoved(bytes.length, sink.placeNow(bytes, at, blockSize));
          release();
        } else onMoved(bytes.length, await sink.place(bytes, at, blockSize, release));
      }
    } catch (error) {
      onError(error);
    }
  }

  async function readFully(bytes: Uint8Array, offset: number): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        const position = offset + done;
        const { bytesRead } = await read(from, bytes, done, bytes.length - done, position);
        if (bytesRead === 0) throw shortened(name, position);
        done += bytesRead;
      }
    } catch (error) {
      throw markStep(error, 'source');
    }
  }

  return {
    async move({ offset, length, hostOffset }): Promise<void> {
      for (let at = 0; at < length;) {
        if (flying.size >= READ_DEPTH) await Promise.race(flying);
        check();
        const part = Math.min(length - at, READ_LENGTH - ((offset + at) % READ_LENGTH));
        const flight: Promise<void> = moveOne(offset + at, part, hostOffset + at).finally(() =>
          flying.delete(flight),
        );
        flying.add(flight);
        at += part;
      }
    },
    async settle(): Promise<void> {
      await Promise.all(flying);
    },
  };
}

/** The `length` bytes of `buffer`, which belong to `offset` of the disk, in parts that end at multiples of what is written at a time. */
function slicesOf(
  buffer: Buffer,
  offset: number,
  length: number,
): readonly { readonly bytes: Buffer; readonly offset: number }[] {
  const parts = [];
  for (let start = 0; start < length;) {
    const end = Math.min(length, start + WRITE_LENGTH - ((offset + start) % WRITE_LENGTH));
    parts.push({ bytes: buffer.subarray(start, end), offset: offset + start });
    start = end;
  }
  return parts;
}
