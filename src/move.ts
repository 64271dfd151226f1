/** Copies a disk whose bytes lie in a file, as they are or compressed, to a new file, without the stages. */

import { finished } from 'node:stream/promises';
import { makeRatioGuard } from './chunk/ratio.ts';
import { markStep } from './errors.ts';
import { makeHelpers } from './helpers.ts';
import type { Limits } from './limits.ts';
import type { Opened } from './open.ts';
import type { MovingSink } from './sink/sparse-file.ts';
import { makeSlices } from './sink/slices.ts';
import type { Ask, JobName, Threads } from './threads.ts';
import type { Bypass, Moved, Stored, StoredExtent } from './types.ts';

/** From so much data on a disk is moved: less is copied before threads have started. */
const WORTH = 64 * 1024 * 1024;

/** What is moved at a time: much against what asking it costs, little against what a cancelled copy may still do. */
const BATCH_LENGTH = 16 * 1024 * 1024;
const BATCH_RANGES = 512;

/**
 * Shorter ranges than this (on average of a batch) are moved by threads, when there are enough of them to be worth their start: to each read
 * belongs a turn from thread to thread, which a thread saves.
 */
const LEAST_SLICED = 256 * 1024;

/** Threads that copy without decoding: writes to one file exclude each other, so the second one reads while the first one writes. */
const MOVERS = 2;

/** Any source has its data extents at multiples of it: a block of this size or a divisor never spans two of them. */
const LEAST_ALIGNMENT = 512;

/** What a move has found so far, in bytes. */
export interface MoveTotals {
  virtualSize: number;
  diskSize: number;
  /** What the format has allocated. */
  dataLength: number;
}

type DataExtent = StoredExtent & { readonly kind: 'data' };

/** Where the disk's bytes lie, if moving them is possible and worth it; what is compressed only threads can move. */
export function worthMoving(
  { disk, details, threads }: Opened,
  blockSize: number,
): Stored | undefined {
  const stored = disk?.stored;
  const size = details?.allocatedSize ?? 0;
  const isLarge = stored?.compression === undefined && size >= WORTH;
  const isWorth = isLarge || threads.areWorth(size, WORTH);
  return isWorth && LEAST_ALIGNMENT % blockSize === 0 ? stored : undefined;
}

export interface MoveOptions {
  readonly blockSize: number;
  readonly limits: Limits;
  readonly signal: AbortSignal | undefined;
  /** Whether this thread moves batches, too. */
  readonly blocking: boolean;
}

/** How many threads move `stored`; one less where this thread does, too. */
function countHelpers({ compression }: Stored, { size }: Threads, blocking: boolean): number {
  const movers = compression === undefined ? Math.min(MOVERS, size) : size;
  return blocking ? Math.max(1, movers - 1) : movers;
}

/**
 * Moves the whole disk, whose bytes are `stored`, into `sink`, and ends it; `totals` is kept up to date. Long ranges of bytes that lie
 * as they are go by slices, the others to threads.
 * @throws what reading and writing throw, marked with their step; the signal's reason.
 */
export async function moveDisk(
  opened: Opened,
  stored: Stored,
  sink: MovingSink,
  totals: MoveTotals,
  { blockSize, limits, signal, blocking }: MoveOptions,
): Promise<void> {
  const { name, threads } = opened;
  const { fd: from, compression } = stored;
  const checkRatio = makeRatioGuard(opened, limits);
  // Not `once` of node:events, which rejects for an error, too, while nobody may be waiting.
  const closed = new Promise((resolve) => sink.once('close', resolve));
  const ended = finished(sink);
  ended.catch(() => undefined);
  let failure: { error: unknown } | undefined;
  const onError = (error: unknown): void => {
    failure ??= { error };
  };
  const check = (): void => {
    signal?.throwIfAborted();
    if (sink.errored !== null) throw sink.errored;
    if (failure !== undefined) throw failure.error;
  };
  const onData = (length: number): void => {
    totals.dataLength += length;
    checkRatio(totals.diskSize);
  };
  const slices = makeSlices({
    ...{ name, from, sink, blockSize, blocking, onError, check },
    onMoved(length, diskSize): void {
      totals.diskSize += diskSize;
      opened.count(length);
      onData(length);
    },
  });
  const moveRanges = makeMoveRanges(sink, totals, blockSize, onData);
  const job = compression === undefined ? 'move' : 'move-clusters';
  const helpers = makeHelpers<readonly DataExtent[]>(threads, {
    count: countHelpers(stored, threads, blocking),
    blocking,
    async work(ask, batch): Promise<void> {
      try {
        const moved = await moveRanges(ask, job, { name, from, ranges: batch, compression }, batch);
        opened.count(moved.bytesRead);
      } catch (error) {
        onError(error);
      }
    },
  });
  /** Of the data so far, what lies in short ranges. */
  let shortLength = 0;
  const start = async (batch: readonly DataExtent[], length: number): Promise<void> => {
    const isShort = length < batch.length * LEAST_SLICED;
    if (isShort) shortLength += length;
    const isWorth = isShort && threads.areWorth(shortLength, WORTH);
    if (compression !== undefined || isWorth) await helpers.give(batch);
    else for (const range of batch) await slices.move(range);
    check();
  };
  const settle = async (): Promise<void> => {
    await Promise.all([helpers.settle(), slices.settle()]);
  };

  try {
    await sink.opened();
    let batch: DataExtent[] = [];
    let batchLength = 0;
    let lastZero: StoredExtent | undefined;
    for await (const extents of stored.extents()) {
      for (const piece of cut(extents)) {
        totals.virtualSize = piece.offset + piece.length;
        if (piece.kind === 'zero') {
          lastZero = piece;
          continue;
        }
        batch.push(piece);
        batchLength += piece.length;
        if (batchLength < BATCH_LENGTH && batch.length < BATCH_RANGES) continue;
        await start(batch, batchLength);
        batch = [];
        batchLength = 0;
      }
    }
    if (batch.length > 0) await start(batch, batchLength);
    await settle();
    check();
    await opened.checkUnchanged();
    // Nobody need write the others: it is a new file.
    sink.end(lastZero);
    await ended;
  } catch (error) {
    // What follows from the sink's own error is no news.
    const first: unknown = sink.errored ?? error;
    sink.destroy(first as Error);
    throw signal?.aborted === true ? signal.reason : markStep(first, 'source');
  } finally {
    await settle();
    helpers.close();
    await closed;
  }
}

/** `extents` in pieces of at most a batch. */
function* cut(extents: readonly StoredExtent[]): Generator<StoredExtent> {
  for (const extent of extents) {
    const { kind, offset, length } = extent;
    // A compressed cluster is one piece.
    if (kind === 'zero' || extent.hostLength !== undefined || length <= BATCH_LENGTH) {
      yield extent;
      continue;
    }
    for (let at = 0; at < length; at += BATCH_LENGTH) {
      const part = Math.min(BATCH_LENGTH, length - at);
      yield { kind, offset: offset + at, length: part, hostOffset: extent.hostOffset + at };
    }
  }
}

/** Has `ask` do `job` with `message`, which writes `ranges` of the disk. */
type MoveRanges = <Answer extends Moved>(
  ask: Ask,
  job: JobName,
  message: object,
  ranges: readonly { readonly offset: number; readonly length: number }[],
) => Promise<Answer>;

/** Moves to `sink`; `totals` is kept up to date, and `onData` called with the length of what has been written. */
function makeMoveRanges(
  sink: MovingSink,
  totals: MoveTotals,
  blockSize: number,
  onData: (length: number) => void,
): MoveRanges {
  return async <Answer extends Moved>(...[ask, job, message, ranges]: Parameters<MoveRanges>) => {
    const end = ranges.reduce((last, { offset, length }) => Math.max(last, offset + length), 0);
    const moved = await sink.move<Answer>(ask, job, { ...message, blockSize }, end);
    totals.virtualSize = Math.max(totals.virtualSize, end);
    totals.diskSize += moved.diskSize;
    onData(ranges.reduce((sum, { length }) => sum + length, 0));
    return moved;
  };
}

/** What has threads write to `sink` what they decode of an image that passes; the rest as for `makeMoveRanges`. */
export function makeBypass(
  { threads }: Opened,
  sink: MovingSink,
  totals: MoveTotals,
  blockSize: number,
  onData: (length: number) => void,
): Bypass {
  const moveRanges = makeMoveRanges(sink, totals, blockSize, onData);
  return {
    blockSize,
    move: (job, message, ranges) => moveRanges(threads.ask, job, message, ranges),
  };
}
