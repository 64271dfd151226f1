/** The main job: a disk image of any kind in, sparse raw out, and a report of what was there. */

import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { makePool } from './chunk/pool.ts';
import { DEFAULT_BLOCK_SIZE, tally, type Totals } from './chunk/tally.ts';
import { DEFAULT_GRAIN, checkBlockSize, detectZeros } from './chunk/zeros.ts';
import { SparsecopyError, markStep } from './errors.ts';
import { makeRatioGuard } from './chunk/ratio.ts';
import { limitsOf, type Limits } from './limits.ts';
import { makeBypass, moveDisk, worthMoving } from './move.ts';
import { open, type Opened, type OpenOptions } from './open.ts';
import { limitTime } from './policy.ts';
import { openDestination } from './sink/destination.ts';
import type { Sink } from './sink/sink.ts';
import type { Input } from './source/input.ts';
import type { Bypass, Chunk, CodecName, FormatName } from './types.ts';

/** Sizes and positions are in bytes. */
export interface CopyOptions extends OpenOptions {
  /** What counts as a zero block in `diskSize`, and under an existing destination; default 512. */
  readonly blockSize?: number;
  /** Lay the disk over an existing file instead of replacing it. It is written in place. */
  readonly overlay?: boolean;
  /** Over an existing file or device: trust that it is zero wherever the disk is zero, do not read it. */
  readonly nocheck?: boolean;
  /** Copy at most so much of the disk. */
  readonly maxWrite?: number;
  /** Fail when the disk is larger than `maxWrite`. */
  readonly errorRemainder?: boolean;
  /** Where in the destination the disk starts; default 0. */
  readonly seek?: number;
  /** Size of a regular file at the end; default the end of the disk, or the old size if that is larger (`overlay`). */
  readonly finalSize?: number;
  /** The first block of the destination must be zero, if it exists. */
  readonly check?: boolean;
  /** `fdatasync` after each so many bytes written. */
  readonly syncEvery?: number;
  /**
   * Whether the copy ends only when the destination is on the disk; default true. Without it the system writes when it likes: a
   * power failure may leave the name to an unfinished file, and an error of the disk may come too late to be reported.
   */
  readonly sync?: boolean;
  /**
   * Whether the calling thread may do its share with calls that block it for up to a tenth of a second: for a program that has nothing
   * else to do, as the command; default false.
   */
  readonly blocking?: boolean;
  /** Called about ten times a second, and once at the end. */
  readonly onProgress?: (progress: Progress) => void;
}

/** How far a copy is, in bytes. */
export interface Progress {
  /** Of the input as it came. */
  readonly sourceBytes: number;
  /** Size of the input, when known. */
  readonly sourceTotal: number | undefined;
  /** Of the disk, zeros included. */
  readonly virtualBytes: number;
  /** Size of the disk, when known. */
  readonly virtualTotal: number | undefined;
  /** Of the disk's actual non-zero data so far. */
  readonly diskSize: number;
}

/** What a copy found and did. Sizes are in bytes. */
export interface Report {
  readonly format: FormatName;
  /** The compressions that were peeled, outermost first. */
  readonly codecs: readonly CodecName[];
  /** The disk with its zeros, as far as it was copied. */
  readonly virtualSize: number;
  /** Actual non-zero data: bytes in blocks of `blockSize` that are not all zero. */
  readonly diskSize: number;
  /** What the format has allocated: holes, unallocated and zero clusters excluded. A stream of raw bytes is all allocated. */
  readonly allocatedSize: number;
  /** Of the input as it came. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** What the output occupies (`st_blocks * 512`); absent for devices and streams. */
  readonly sizeOnDisk: number | undefined;
  /** Bytes of zero blocks that were written because an existing destination was not zero there. */
  readonly nonZeroDestination: number;
  /**
   * The most that was kept, in memory and in a temporary file, of an image that passed once, because its place on the disk was
   * not known yet.
   */
  readonly parkedPeak: number;
  /** What went to a temporary file, in all: an image that could not be read in one pass, or a disk that had to be put in order. */
  readonly spooled: number;
  readonly durationMs: number;
}

/** Progress is told at most this often. */
const PROGRESS_MS = 100;

/**
 * Copies the disk in `source` to `destination`: a path (a new file, or a device), `-` (standard output) or a Writable.
 * A file is complete or absent: written beside its final name, synced (unless `sync` is false), then renamed.
 *
 * @throws SparsecopyError for everything that is refused; system errors as they come; the signal's reason on abort.
 * @throws RangeError when a size is not a non-negative integer.
 */
export async function sparsecopy(
  source: Input,
  destination: string | Writable,
  options: CopyOptions = {},
): Promise<Report> {
  const started = process.hrtime.bigint();
  checkSizes(options);
  options.signal?.throwIfAborted();
  const limits = limitsOf(options.policy, options.limits);
  const time = new AbortController();
  const name = typeof source === 'string' ? source : 'the input';
  const endTime = limitTime(name, limits, (error) => time.abort(markStep(error, 'source')));
  const signal =
    options.signal === undefined ? time.signal : AbortSignal.any([options.signal, time.signal]);
  try {
    return await copy(source, destination, { ...options, signal }, limits, started);
  } finally {
    endTime();
  }
}

async function copy(
  source: Input,
  destination: string | Writable,
  options: CopyOptions,
  limits: Limits,
  started: bigint,
): Promise<Report> {
  const tempDir = options.tempDir ?? (await folderOf(destination));
  const { maxWrite, signal, blocking = false } = options;
  const opened = await open(source, { ...options, tempDir });
  try {
    const expectedSize =
      opened.virtualSize === undefined
        ? undefined
        : Math.min(opened.virtualSize, maxWrite ?? Infinity);
    const { sink, newFile, looksAtZeros, needsOrder } = await openDestination(destination, {
      ...options,
      expectedSize,
      sourceIdentities: opened.identities,
    });
    const blockSize = options.blockSize ?? DEFAULT_BLOCK_SIZE;
    const counter = tally({ blockSize });
    const moved = { virtualSize: 0, diskSize: 0, dataLength: 0 };
    const isWhole = maxWrite === undefined && options.syncEvery === undefined;
    const stored = isWhole && newFile !== undefined ? worthMoving(opened, blockSize) : undefined;
    const totals = (): Totals => ({
      virtualSize: Math.max(moved.virtualSize, counter.totals.virtualSize),
      diskSize: moved.diskSize + counter.totals.diskSize,
    });
    const tell = (): void =>
      options.onProgress?.({
        sourceBytes: opened.bytesRead,
        sourceTotal: opened.sourceSize,
        virtualBytes: totals().virtualSize,
        virtualTotal: expectedSize,
        diskSize: totals().diskSize,
      });
    const timer = setInterval(tell, PROGRESS_MS).unref();
    try {
      if (newFile !== undefined && stored !== undefined) {
        await moveDisk(opened, stored, newFile, moved, { blockSize, limits, signal, blocking });
      } else {
        const checkRatio = makeRatioGuard(opened, limits);
        const onData = (length: number): void => {
          checkRatio(totals().diskSize);
          moved.dataLength += length;
        };
        const bypass =
          isWhole && newFile !== undefined
            ? makeBypass(opened, newFile, moved, blockSize, onData)
            : undefined;
        const chunks = chunksUpTo(opened, options, { anyOrder: !needsOrder, bypass, onData });
        const stages = [
          Readable.from(chunks, { objectMode: true, highWaterMark: 1 }),
          detectZeros({ blockSize: looksAtZeros ? blockSize : DEFAULT_GRAIN }),
          counter,
        ];
        await run(opened, stages, sink, signal);
      }
    } finally {
      clearInterval(timer);
    }
    tell();
    const isRawStream = opened.format === 'raw' && opened.disk === undefined;
    return {
      format: opened.format,
      codecs: opened.codecs,
      ...totals(),
      allocatedSize: isRawStream ? totals().virtualSize : moved.dataLength,
      bytesRead: opened.bytesRead,
      bytesWritten: sink.bytesWritten,
      sizeOnDisk: sink.sizeOnDisk,
      nonZeroDestination: sink.nonZeroDestination,
      parkedPeak: opened.parked.peak,
      spooled: opened.parked.spooled,
      durationMs: Math.round(Number(process.hrtime.bigint() - started) / 1e6),
    };
  } finally {
    await opened[Symbol.asyncDispose]();
  }
}

/**
 * Where a temporary file may be as large as the disk: beside a file that is about to be written.
 * `undefined` for other destinations: the system's folder.
 */
async function folderOf(destination: string | Writable): Promise<string | undefined> {
  if (typeof destination !== 'string' || destination === '-') return undefined;
  const folder = dirname(resolve(destination));
  const [stats, folderStats] = await Promise.all(
    [destination, folder].map((path) => stat(path).catch(() => undefined)),
  );
  const isFile = stats === undefined || stats.isFile();
  return isFile && folderStats?.isDirectory() === true ? folder : undefined;
}

/** How the disk is had. */
interface ChunkFlow {
  readonly anyOrder: boolean;
  readonly bypass: Bypass | undefined;
  /** Called with the length of data that have come. */
  readonly onData: (length: number) => void;
}

/** The disk up to `maxWrite`. @throws SparsecopyError `LIMIT` when there is more and that is an error. */
async function* chunksUpTo(
  opened: Opened,
  { maxWrite, errorRemainder }: CopyOptions,
  { anyOrder, bypass, onData }: ChunkFlow,
): AsyncGenerator<Chunk, void, void> {
  const remainder = (): unknown =>
    markStep(
      new SparsecopyError('LIMIT', `has more than the ${maxWrite} bytes that may be written`, {
        source: opened.name,
        limit: 'maxWrite',
        expected: maxWrite ?? 0,
      }),
      'remainder',
    );
  const mostAllowed = maxWrite ?? Infinity;
  if (errorRemainder === true && (opened.virtualSize ?? 0) > mostAllowed) throw remainder();
  // One byte more tells whether there is a remainder; nobody waits for it when nobody asks, or the size is known.
  const looksFurther = errorRemainder === true && opened.virtualSize === undefined;
  const end = maxWrite === undefined ? undefined : looksFurther ? maxWrite + 1 : maxWrite;
  for await (const chunk of opened.chunks({ pool: makePool(), end, anyOrder, bypass })) {
    if (chunk.offset + chunk.length > mostAllowed) throw remainder();
    if (chunk.kind === 'data') onData(chunk.length);
    yield chunk;
  }
  await opened.checkUnchanged();
}

/** Runs the pipeline to its end; when it rejects, nothing of it is open any more. */
async function run(
  opened: Opened,
  stages: readonly NodeJS.ReadWriteStream[] | readonly Readable[],
  sink: Sink,
  signal: AbortSignal | undefined,
): Promise<void> {
  // Whatever ends the copy must also end the wait for an input that may never give anything again.
  const onAbort = (): void => opened.cancel(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  sink.once('error', (error) => opened.cancel(error));
  const closed = new Promise((resolve) => sink.once('close', resolve));
  try {
    await pipeline([...stages, sink], { signal });
  } catch (error) {
    throw signal?.aborted === true ? signal.reason : markStep(error, 'source');
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await closed;
  }
}

/** @throws RangeError when one of the sizes is not a non-negative integer. */
function checkSizes(options: CopyOptions): void {
  if (options.blockSize !== undefined) checkBlockSize(options.blockSize);
  for (const name of ['maxWrite', 'seek', 'finalSize', 'syncEvery'] as const) {
    const value = options[name];
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 0)) {
      throw new RangeError(`${name} must be a non-negative integer of bytes, found ${value}`);
    }
  }
}
