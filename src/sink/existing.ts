/** Lays a disk over what is there already: a block device, or a file that must keep what the disk does not cover. */

import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { alignUp, asBuffer, isZero } from '../bytes.ts';
import { inStep, markStep, SparsecopyError } from '../errors.ts';
import type { Chunk } from '../types.ts';
import { deviceSize } from '../stat.ts';
import { makeSink, type Sink } from './sink.ts';
import { makeWriter, type Writer } from './write.ts';

const open = promisify(fs.open);
const close = promisify(fs.close);
const fstat = promisify(fs.fstat);
const ftruncate = promisify(fs.ftruncate);
const fsync = promisify(fs.fsync);
const read = promisify(fs.read);

/** The unit of `st_blocks`. */
const STAT_BLOCK = 512;

/** The output is handled in windows of about this size: one read, one look, few writes. */
const WINDOW = 1024 * 1024;

/** Ranges to write that share one of these are written as one: the system would write the whole block anyway. */
const WRITE_GRAIN = 4096;

export interface ExistingOptions {
  /** Where in the output the disk starts, in bytes, default 0. */
  readonly seek?: number;
  /** Size of a regular file at the end, in bytes; default the larger of its old size and the end of the disk. */
  readonly finalSize?: number;
  /** Trust that the output is zero wherever the disk is zero: do not read it. */
  readonly nocheck?: boolean;
  /** What counts as a zero block, in bytes, default 512; more than 1 MiB counts as 1 MiB here. */
  readonly blockSize?: number;
  /** `fdatasync` after each so many bytes written. */
  readonly syncEvery?: number;
  /** Whether the end waits until all is on the disk; default true. */
  readonly sync?: boolean;
}

/**
 * A sink that writes into the existing file or block device `path`, in place. Under zero blocks the output is read first,
 * and zeros are written where it is not zero. A device is opened exclusively, keeps its size, and has its partition
 * table read again at the end. A failure leaves what was written until then.
 * @throws SparsecopyError `DESTINATION` (as the stream's error) when a device is in use or too small.
 */
export function existingFile(path: string, options: ExistingOptions = {}): Sink {
  const seek = options.seek ?? 0;
  const block = Math.min(options.blockSize ?? STAT_BLOCK, WINDOW);
  const windowLength = block * Math.floor(WINDOW / block);
  let fd: number | undefined;
  let writer: Writer | undefined;
  let isDevice = false;
  let oldSize = 0;
  let end = 0;
  let sizeOnDisk: number | undefined;
  let nonZeroDestination = 0;

  /** What is known of the window in hand: its new content, and which ranges of it are zero blocks. */
  const content = Buffer.alloc(windowLength);
  const old = Buffer.alloc(windowLength);
  let windowStart = 0;
  let ranges: { kind: 'data' | 'zero'; start: number; end: number }[] = [];

  /** Reads what the output holds at `position`; what lies past its end counts as zero. */
  const readOld = async (length: number, position: number): Promise<Buffer> => {
    let done = 0;
    while (fd !== undefined && done < length) {
      const { bytesRead } = await read(fd, old, done, length - done, position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return old.fill(0, done, length).subarray(0, length);
  };

  const endWindow = async (): Promise<void> => {
    const first = ranges[0];
    const last = ranges.at(-1);
    if (first === undefined || last === undefined || writer === undefined) return;
    const mustLook = options.nocheck !== true && ranges.some(({ kind }) => kind === 'zero');
    const there = mustLook
      ? await inStep(
          'check-read',
          readOld(last.end - first.start, seek + windowStart + first.start),
        )
      : undefined;
    const dirty: { start: number; end: number }[] = [];
    const mark = (from: number, to: number): void => {
      const previous = dirty.at(-1);
      // What lies between two dirty ranges has been looked at, and is zero on both sides, or else is not to be touched.
      const reach = there === undefined ? 1 : WRITE_GRAIN;
      if (previous !== undefined && from < alignUp(previous.end + 1, reach)) previous.end = to;
      else dirty.push({ start: from, end: to });
    };
    for (const range of ranges) {
      if (range.kind === 'data') mark(range.start, range.end);
      else if (there !== undefined) {
        for (let at = range.start; at < range.end;) {
          const blockEnd = Math.min(range.end, at + block - (at % block));
          if (!isZero(there, at - first.start, blockEnd - first.start)) {
            nonZeroDestination += blockEnd - at;
            mark(at, blockEnd);
          }
          at = blockEnd;
        }
      }
    }
    for (const { start, end: stop } of dirty) {
      await writer.write(content.subarray(start, stop), seek + windowStart + start);
    }
    await writer.drain();
    ranges = [];
  };

  return makeSink({
    async open(onError): Promise<void> {
      const stats = await inStep('destination', fs.promises.stat(path));
      isDevice = stats.isBlockDevice();
      const flags = fs.constants.O_RDWR | (isDevice ? fs.constants.O_EXCL : 0);
      fd = await inStep('destination', openExisting(path, flags, isDevice));
      oldSize = isDevice ? await inStep('destination', deviceSize(fd, stats)) : stats.size;
      writer = makeWriter(fd, { ...options, onError });
    },
    async write(chunk: Chunk): Promise<void> {
      const chunkEnd = chunk.offset + chunk.length;
      if (isDevice && seek + chunkEnd > oldSize) throw tooSmall(path, seek + chunkEnd, oldSize);
      end = Math.max(end, chunkEnd);
      for (let at = chunk.offset; at < chunkEnd;) {
        const start = at - (at % windowLength);
        if (start !== windowStart) {
          await endWindow();
          windowStart = start;
        }
        const stop = Math.min(chunkEnd, start + windowLength);
        if (chunk.kind === 'data') {
          asBuffer(chunk.bytes).copy(content, at - start, at - chunk.offset, stop - chunk.offset);
        } else content.fill(0, at - start, stop - start);
        const last = ranges.at(-1);
        if (last !== undefined && at - start !== last.end) await endWindow();
        ranges.push({ kind: chunk.kind, start: at - start, end: stop - start });
        at = stop;
      }
      if (chunk.kind === 'data') chunk.release?.();
    },
    async finish(): Promise<void> {
      await endWindow();
      if (fd === undefined) return;
      if (!isDevice) {
        const size = options.finalSize ?? Math.max(seek + end, oldSize);
        if (size !== oldSize) await inStep('truncate', ftruncate(fd, size));
      }
      if (options.sync !== false) await inStep('write', fsync(fd));
      if (!isDevice) sizeOnDisk = (await inStep('write', fstat(fd))).blocks * STAT_BLOCK;
      const closing = fd;
      fd = undefined;
      await inStep('write', close(closing));
      if (isDevice) {
        // Loaded by devices only: starting other programs costs as much as all of a small copy.
        const { rereadPartitionTable } = await import('./partition-table.ts');
        await rereadPartitionTable(path);
      }
    },
    async close(): Promise<void> {
      await writer?.settle();
      if (fd !== undefined) await close(fd).catch(() => undefined);
      fd = undefined;
    },
    figures: () => ({ bytesWritten: writer?.bytesWritten ?? 0, sizeOnDisk, nonZeroDestination }),
  });
}

/** The error for `needed` bytes that are to go to a device of `size` bytes. */
export function tooSmall(path: string, needed: number, size: number): unknown {
  return markStep(
    new SparsecopyError('DESTINATION', `the device holds ${size} bytes, ${needed} are needed`, {
      source: path,
      expected: needed,
      found: size,
    }),
    'destination',
  );
}

/** Opens `path`; a device that somebody else uses (mounted, swap, RAID member) is refused by the system. */
async function openExisting(path: string, flags: number, isDevice: boolean): Promise<number> {
  try {
    return await open(path, flags);
  } catch (error) {
    if (!isDevice || (error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
    throw new SparsecopyError('DESTINATION', 'the device is in use (mounted, or held by another)', {
      source: path,
      cause: error,
    });
  }
}
