/** Copies a disk whose bytes lie in a file, as they are or compressed, to a new file, without the bytes passing through this thread. */

import { once } from 'node:events';
import { finished } from 'node:stream/promises';
import { markStep } from './errors.ts';
import { makeRatioGuard } from './chunk/ratio.ts';
import type { Limits } from './limits.ts';
import type { Opened } from './open.ts';
import type { MovingSink } from './sink/sparse-file.ts';
import type { Stored, StoredExtent } from './types.ts';

/** Less data than this is copied before the threads have started. */
const WORTH = 64 * 1024 * 1024;

/** What a thread gets at a time: much against what asking it costs, little against what a cancelled copy may still do. */
const BATCH_LENGTH = 16 * 1024 * 1024;
const BATCH_RANGES = 512;

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

/** Where the disk's bytes lie, if moving them is possible and worth the threads. */
export function worthMoving(opened: Opened, blockSize: number): Stored | undefined {
  const { stored } = opened.disk ?? {};
  const allocatedSize = opened.details?.allocatedSize ?? 0;
  const isWorth = opened.threads.areWorth(allocatedSize, WORTH);
  return isWorth && LEAST_ALIGNMENT % blockSize === 0 ? stored : undefined;
}

/**
 * Has the threads move the whole disk, whose bytes are `stored`, into `sink`, and ends it; `totals` is kept up to date.
 * @throws what reading and writing throw, marked with their step; the signal's reason.
 */
export async function moveDisk(
  opened: Opened,
  stored: Stored,
  sink: MovingSink,
  blockSize: number,
  limits: Limits,
  totals: MoveTotals,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { threads } = opened;
  const movers = stored.compression === undefined ? Math.min(MOVERS, threads.size) : threads.size;
  const checkRatio = makeRatioGuard(opened, limits);
  const flying = new Set<Promise<void>>();
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

  const start = async (batch: readonly DataExtent[]): Promise<void> => {
    const length = batch.reduce((sum, extent) => sum + extent.length, 0);
    const flight: Promise<void> = sink
      .move(threads, stored, opened.name, batch, blockSize)
      .then(({ bytesRead, diskSize }) => {
        totals.diskSize += diskSize;
        totals.dataLength += length;
        opened.count(bytesRead);
        checkRatio(totals.diskSize);
      })
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => flying.delete(flight));
    flying.add(flight);
    // One more than there are threads: none of them waits for the next.
    if (flying.size > movers) await Promise.race(flying);
    check();
  };

  try {
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
    while (flying.size > 0) await Promise.all(flying);
    check();
    await opened.checkUnchanged();
    sink.end();
    await ended;
  } catch (error) {
    sink.destroy(error as Error);
    throw signal?.aborted === true ? signal.reason : markStep(error, 'source');
  } finally {
    await Promise.all(flying);
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
