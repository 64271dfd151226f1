/** The thread behind `mover.ts`: its system calls may block, nobody waits on this thread for anything else. */

import { readSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { isZero } from '../bytes.ts';
import type { Move, MoveAnswer, MoveFailure, MoveRange } from './mover.ts';

/** What is read, looked at and written before the next is: little enough to stay in the processor's cache. */
const SLICE = 1024 * 1024;

const buffer = Buffer.allocUnsafeSlow(SLICE);

parentPort?.on('message', (move: Move) => parentPort?.postMessage(doMove(move)));

function doMove(move: Move): MoveAnswer {
  let step: MoveFailure['step'] = 'source';
  let bytesWritten = 0;
  let diskSize = 0;
  try {
    for (const { fromOffset, toOffset, length } of slices(move.ranges)) {
      step = 'source';
      for (let filled = 0; filled < length;) {
        const position = fromOffset + filled;
        const count = readSync(move.from, buffer, filled, length - filled, position);
        if (count === 0) return { failure: { step, message: '', fields: {}, end: position } };
        filled += count;
      }
      step = 'write';
      for (const { start, end } of dataRuns(length, move.grain)) {
        writeAll(move.to, start, end, toOffset + start);
        bytesWritten += end - start;
        diskSize += countData(start, end, move.blockSize);
      }
    }
    return { bytesWritten, diskSize };
  } catch (error) {
    const { message, code, errno, syscall } = error as NodeJS.ErrnoException;
    return { failure: { step, message, fields: { code, errno, syscall } } };
  }
}

function* slices(ranges: readonly MoveRange[]): Generator<MoveRange> {
  for (const { fromOffset, toOffset, length } of ranges) {
    for (let at = 0; at < length; at += SLICE) {
      const slice = Math.min(SLICE, length - at);
      yield { fromOffset: fromOffset + at, toOffset: toOffset + at, length: slice };
    }
  }
}

/** The ranges of the buffer's first `length` bytes that are not zero, in blocks of `grain`. */
function* dataRuns(length: number, grain: number): Generator<{ start: number; end: number }> {
  let start: number | undefined;
  for (let at = 0; at < length; at += grain) {
    const isData = buffer[at] !== 0 || !isZero(buffer, at, Math.min(length, at + grain));
    if (isData) start ??= at;
    else if (start !== undefined) {
      yield { start, end: at };
      start = undefined;
    }
  }
  if (start !== undefined) yield { start, end: length };
}

/** Bytes from `start` to `end` in blocks that are not all zero. */
function countData(start: number, end: number, blockSize: number): number {
  let count = 0;
  for (let at = start; at < end; at += blockSize) {
    const stop = Math.min(end, at + blockSize);
    if (buffer[at] !== 0 || !isZero(buffer, at, stop)) count += stop - at;
  }
  return count;
}

/** As `writeFully` in write.ts does: a partial write is tried again, which brings the error out. */
function writeAll(to: number, start: number, end: number, position: number): void {
  for (let at = start; at < end;) {
    const count = writeSync(to, buffer, at, end - at, position + at - start);
    if (count === 0) {
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    }
    at += count;
  }
}
