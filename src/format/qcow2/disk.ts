/** The content of an open qcow2 image: which bytes of the file, and what decoder, make up a range of the disk. */

import { alignDown } from '../../bytes.ts';
import { isSparsecopyError, SparsecopyError } from '../../errors.ts';
import type { Disk, Extent, ImageDetails, Source } from '../../types.ts';
import { makeBuffers } from './buffers.ts';
import { makeCache } from './cache.ts';
import { groupPieces, hostEnd, type Group, type Piece } from './gather.ts';
import type { ClusterDecoder } from './inflate.ts';
import { runsOf, type Layout, type Run } from './runs.ts';
import type { Tables } from './tables.ts';

/** Plain runs from this size on are read straight into the caller's buffer; shorter ones may share a read. */
const DIRECT = 32 * 1024;

/** Length of one gathering read, unless a single compressed cluster needs more. */
const GATHER = 1024 * 1024;

/** Gathering reads at once: as many as callers have reads in flight, to no more than 8 MiB. */
const GATHER_DEPTH = 8;

/**
 * Decoded clusters that were wanted in part and are kept: reads that cut a cluster come in pairs, several pairs at
 * once, and readers in small steps come back to the same cluster.
 */
const KEPT_CLUSTERS = 4;

/** An opened image. It owns `file`; `layout` and `tables` are those of the file. */
export function makeDisk(
  file: Source,
  layout: Layout,
  tables: Tables,
  details: ImageDetails,
  decode: ClusterDecoder,
): Disk {
  const { clusterSize, fileSize, name, virtualSize } = layout;
  // The bits of a compressed cluster's length end at twice its size.
  const bufferSize = Math.max(GATHER, 2 * clusterSize);
  const buffers = makeBuffers(GATHER_DEPTH, bufferSize);
  /** By the offset of the cluster on the disk. */
  const kept = makeCache(KEPT_CLUSTERS, async (offset: number): Promise<Uint8Array> => {
    const cluster = new Uint8Array(clusterSize);
    for (const run of await runsBetween(offset, Math.min(offset + clusterSize, virtualSize))) {
      if (run.kind === 'compressed') await readGroups([{ run, target: cluster }]);
    }
    return cluster;
  });

  async function runsBetween(start: number, end: number): Promise<Run[]> {
    const runs: Run[] = [];
    for await (const part of tables.parts(start, end)) runs.push(...runsOf(layout, part));
    return runs;
  }

  function readGroups(pieces: readonly Piece[]): Promise<void> {
    return settle(groupPieces(pieces, bufferSize).map(readGroup));
  }

  async function readGroup({ start, end, pieces }: Group): Promise<void> {
    const [only] = pieces;
    if (pieces.length === 1 && only?.run.kind === 'plain') return file.read(only.target, start);
    const buffer = await buffers.take();
    try {
      const bytes = buffer.subarray(0, Math.min(end, fileSize) - start);
      await file.read(bytes, start);
      await settle(
        pieces.map(async ({ run, target }) => {
          const input = bytes.subarray(run.hostOffset - start, hostEnd(run) - start);
          if (run.kind === 'plain') target.set(input);
          else await decodeCluster(run, input, target);
        }),
      );
    } finally {
      buffers.give(buffer);
    }
  }

  async function decodeCluster(
    run: Piece['run'],
    input: Uint8Array,
    target: Uint8Array,
  ): Promise<void> {
    try {
      await decode(input, target);
    } catch (error) {
      if (!isSparsecopyError(error)) throw error;
      // All that the entry promises is there, so what ends early contradicts it.
      const isCut = error.code === 'TRUNCATED' && hostEnd(run) > fileSize;
      throw new SparsecopyError(
        error.code === 'TRUNCATED' && !isCut ? 'CORRUPT' : error.code,
        `compressed cluster at ${run.hostOffset} (disk offset ${run.offset}): ${error.message}`,
        {
          source: name,
          offset: run.hostOffset,
          cause: error,
          ...(error.limit === undefined ? {} : { limit: error.limit }),
        },
      );
    }
  }

  async function copyFromKept(run: Run, target: Uint8Array): Promise<void> {
    const start = alignDown(run.offset, clusterSize);
    const cluster = await kept.get(start);
    target.set(cluster.subarray(run.offset - start, run.offset - start + run.length));
  }

  return {
    name,
    size: virtualSize,
    details,
    async read(into: Uint8Array, offset: number): Promise<void> {
      const end = offset + into.length;
      if (offset < 0 || end > virtualSize) {
        throw new SparsecopyError(
          'TRUNCATED',
          `read of ${into.length} bytes at ${offset} goes past the end of the disk at ${virtualSize}`,
          { source: name, offset, expected: end, found: virtualSize },
        );
      }
      // All tables first: then everything below starts at once, and nobody fails while nobody looks.
      const runs = await runsBetween(offset, end);
      const work: Promise<void>[] = [];
      const pieces: Piece[] = [];
      for (const run of runs) {
        const target = into.subarray(run.offset - offset, run.offset - offset + run.length);
        if (run.kind === 'zero') target.fill(0);
        else if (run.kind === 'plain' && run.length >= DIRECT) {
          work.push(file.read(target, run.hostOffset));
        } else if (run.kind === 'compressed' && run.length < clusterSize) {
          work.push(copyFromKept(run, target));
        } else {
          pieces.push({ run, target });
        }
      }
      if (pieces.length > 0) work.push(readGroups(pieces));
      await settle(work);
    },
    async *extents(start = 0, end = virtualSize): AsyncGenerator<Extent, void, void> {
      let extent: Extent | undefined;
      for await (const part of tables.parts(start, Math.min(end, virtualSize))) {
        for (const run of runsOf(layout, part)) {
          const kind = run.kind === 'zero' ? 'zero' : 'data';
          if (extent?.kind === kind) {
            extent = { kind, offset: extent.offset, length: extent.length + run.length };
          } else {
            if (extent !== undefined) yield extent;
            extent = { kind, offset: run.offset, length: run.length };
          }
        }
      }
      if (extent !== undefined) yield extent;
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await tables.drain();
      await kept.drain();
      await file[Symbol.asyncDispose]();
    },
  };
}

/** Waits for all of `work`, also when some of it fails: nothing is still writing to a buffer then. */
async function settle(work: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) {
    if (result.status === 'rejected') throw result.reason;
  }
}
