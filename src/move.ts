/** Copies a disk whose bytes lie in a file, as they are or compressed, to a new file, without the bytes passing through this thread. */

import { once } from 'node:events';
import { finished } from 'node:stream/promises';
import { makeRatioGuard } from './chunk/ratio.ts';
import { markStep } from './errors.ts';
import { askHere } from './jobs.ts';
import type { Limits } from './limits.ts';
import type { Opened } from './open.ts';
import type { MovingSink } from './sink/sparse-file.ts';
import type { Ask, JobName, Lane, Threads } from './threads.ts';
import type { Bypass, Moved, Stored, StoredExtent } from './types.ts';

/** Less data than this is copied before the threads have started. */
const WORTH = 64 * 1024 * 1024;

/** What is moved at a time: much against what asking it costs, little against what a cancelled copy may still do. */
const BATCH_LENGTH = 16 * 1024 * 1024;
const BATCH_RANGES = 512;

/** Movers that copy without decoding: writes to one file exclude each other, so the second one reads while the first one writes. */
const MOVERS = 2;

/** Batches that a thread has: one that it moves, and one more, so that it need not wait. */
const DEPTH = 2;

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

/** Where the disk's bytes lie, if moving them is possible and worth the threads. */
export function worthMoving(opened: Opened, blockSize: number): Stored | undefined {
  const { stored } = opened.disk ?? {};
  const allocatedSize = opened.details?.allocatedSize ?? 0;
  const isWorth = opened.threads.areWorth(allocatedSize, WORTH);
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
function helpersFor({ compression }: Stored, { size }: Threads, blocking: boolean): number {
  const movers = compression === undefined ? Math.min(MOVERS, size) : size;
  return blocking ? Math.max(1, movers - 1) : movers;
}

/**
 * Has the threads move the whole disk, whose bytes are `stored`, into `sink`, and ends it; `totals` is kept up to date.
 * @throws what reading and writing throw, marked with their step; the signal's reason.
 */
export async function moveDisk(
  opened: Opened,
  stored: Stored,
  sink: MovingSink,
  totals: MoveTotals,
  { blockSize, limits, signal, blocking }: MoveOptions,
): Promise<void> {
  const { threads } = opened;
  const { compression } = stored;
  const job = compression === undefined ? 'move' : 'move-clusters';
  const checkRatio = makeRatioGuard(opened, limits);
  const helpers: { readonly lane: Lane; readonly flying: Set<Promise<void>> }[] = [];
  // Not `once` of node:events, which rejects for an error, too, while nobody may be waiting.
  const closed = new Promise((resolve) => sink.once('close', resolve));
  const ended = finished(sink);
  ended.catch(() => undefined);
  let failure: { error: unknown } | undefined;
  const check = (): void => {
    signal?.throwIfAborted();
    if (failure !== undefined) throw failure.error;
    if (sink.errored !== null) throw sink.errored;
  };

  const moveRanges = makeMoveRanges(sink, totals, blockSize, (length) => {
    totals.dataLength += length;
    checkRatio(totals.diskSize);
  });
  const move = async (ask: Ask, batch: readonly DataExtent[]): Promise<void> => {
    try {
      const message = { name: opened.name, from: stored.fd, ranges: batch, compression };
      const moved = await moveRanges(ask, job, message, batch);
      opened.count(moved.bytesRead);
    } catch (error) {
      failure ??= { error };
    }
  };
  const start = async (batch: readonly DataExtent[]): Promise<void> => {
    const free = helpers.find(({ flying }) => flying.size < DEPTH);
    if (free !== undefined) {
      const { lane, flying } = free;
      const flight: Promise<void> = move(lane.ask, batch).finally(() => flying.delete(flight));
      flying.add(flight);
    } else if (blocking) {
      await move(askHere, batch);
      // Answers, signals and timers have their turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (!blocking && helpers.every(({ flying }) => flying.size === DEPTH)) {
      await Promise.race(helpers.flatMap(({ flying }) => [...flying]));
    }
    check();
  };
  const settle = async (): Promise<void> => {
    await Promise.all(helpers.flatMap(({ flying }) => [...flying]));
  };

  try {
    for (let count = helpersFor(stored, threads, blocking); count > 0; count--) {
      helpers.push({ lane: threads.lane(), flying: new Set() });
    }
    let batch: DataExtent[] = [];
    let batchLength = 0;
    for await (const extent of stored.extents()) {
      for (const piece of pieces(extent)) {
        totals.virtualSize = piece.offset + piece.length;
        if (piece.kind === 'zero') {
          if (!sink.write(piece)) await Promise.race([once(sink, 'drain'), ended]);
          continue;
        }
        batch.push(piece);
        batchLength += piece.length;
        if (batchLength < BATCH_LENGTH && batch.length < BATCH_RANGES) continue;
        await start(batch);
        batch = [];
        batchLength = 0;
      }
    }
    if (batch.length > 0) await start(batch);
    await settle();
    check();
    await opened.checkUnchanged();
    sink.end();
    await ended;
  } catch (error) {
    sink.destroy(error as Error);
    throw signal?.aborted === true ? signal.reason : markStep(error, 'source');
  } finally {
    await settle();
    for (const { lane } of helpers) lane.close();
    await closed;
  }
}

/** `extent` in pieces of at most a batch. */
function* pieces(extent: StoredExtent): Generator<StoredExtent> {
  // A compressed cluster is one piece.
  if (extent.kind === 'zero' || extent.hostLength !== undefined) {
    yield extent;
    return;
  }
  const { kind, offset, length, hostOffset } = extent;
  for (let at = 0; at < length; at += BATCH_LENGTH) {
    const part = Math.min(BATCH_LENGTH, length - at);
    yield { kind, offset: offset + at, length: part, hostOffset: hostOffset + at };
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
