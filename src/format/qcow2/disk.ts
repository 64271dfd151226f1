/** The content of an open qcow2 image: which bytes of the file, and what decoder, make up a range of the disk. */

import { alignDown, alignUp } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import type { Disk, Extent, ImageDetails, Source, Stored } from '../../types.ts';
import { makeBuffers } from './buffers.ts';
import { makeCache } from './cache.ts';
import type { Decryptor } from './crypt.ts';
import { clusterError } from './decoder.ts';
import { groupPieces, hostEnd, joinRanges, type Group, type Piece } from './gather.ts';
import type { ClusterDecoder } from './inflate.ts';
import type { Layout } from './layout.ts';
import { runsOf, type PlainRun, type Run } from './runs.ts';
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

/** Encryption works on these, whatever the cluster size. */
const SECTOR_SIZE = 512;

/** All that an opened image is made of; `layout` and `tables` are those of `file`. */
export interface DiskParts {
  readonly file: Source;
  readonly layout: Layout;
  readonly tables: Tables;
  readonly details: ImageDetails;
  readonly decode: ClusterDecoder;
  readonly decryptor: Decryptor | undefined;
  /** Where plain clusters lie, when not in `file`. */
  readonly dataFile: Source | undefined;
  /** Where unallocated clusters are read from. */
  readonly backing: Source | undefined;
  readonly stored: Stored | undefined;
}

/** An opened image. It owns `file`, the data file and the backing file. */
export function makeDisk(parts: DiskParts): Disk {
  const { file, layout, tables, details, decode, decryptor, dataFile, backing, stored } = parts;
  const { clusterSize, fileSize, name, virtualSize } = layout;
  const data = dataFile ?? file;
  const backingSize = backing?.size ?? 0;
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
    if (pieces.length === 1 && only?.run.kind === 'plain') return data.read(only.target, start);
    // With a data file there are no compressed clusters: all pieces lie in it.
    const buffer = await buffers.take();
    try {
      const bytes = buffer.subarray(0, Math.min(end, data.size) - start);
      await data.read(bytes, start);
      await settle(
        pieces.map(async ({ run, target }) => {
          const input = bytes.subarray(run.hostOffset - start, hostEnd(run) - start);
          if (run.kind === 'plain') target.set(input);
          else {
            await decode(input, target).catch((error: unknown) => {
              throw clusterError(error, run, name, hostEnd(run) > fileSize);
            });
          }
        }),
      );
    } finally {
      buffers.give(buffer);
    }
  }

  async function copyFromKept(run: Run, target: Uint8Array): Promise<void> {
    const start = alignDown(run.offset, clusterSize);
    const cluster = await kept.get(start);
    target.set(cluster.subarray(run.offset - start, run.offset - start + run.length));
  }

  /** Where `run` ends in the middle of a sector, the whole of that is read. */
  async function readEncrypted(
    { offset, hostOffset, length }: PlainRun,
    target: Uint8Array,
    by: Decryptor,
  ): Promise<void> {
    const lead = offset % SECTOR_SIZE;
    const whole = alignUp(lead + length, SECTOR_SIZE);
    const bytes = whole === length ? target : Buffer.allocUnsafeSlow(whole);
    await data.read(bytes, hostOffset - lead);
    by.decrypt(bytes, hostOffset - lead, offset - lead);
    if (bytes !== target) target.set(bytes.subarray(lead, lead + length));
  }

  /** Reads the unallocated ones of `runs` from `source`, as far as it goes; what lies between them may be written to. */
  function readBacking(
    source: Source,
    runs: readonly Run[],
    into: Uint8Array,
    offset: number,
  ): Promise<void> {
    const wanted = runs.filter((run) => run.kind === 'unallocated' && run.offset < source.size);
    return settle(
      joinRanges(wanted).map(({ start, end }) =>
        source.read(into.subarray(start - offset, Math.min(end, source.size) - offset), start),
      ),
    );
  }

  /** What knows more of `run` than that it is allocated, or not. */
  function knowsOf({ kind }: Run): Source | undefined {
    if (kind === 'unallocated') return backing;
    // Zeros that are decrypted are none.
    return kind === 'plain' && decryptor === undefined ? dataFile : undefined;
  }

  return {
    name,
    size: virtualSize,
    details,
    stored,
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
      if (backing !== undefined) await readBacking(backing, runs, into, offset);
      const work: Promise<void>[] = [];
      const pieces: Piece[] = [];
      for (const run of runs) {
        const target = into.subarray(run.offset - offset, run.offset - offset + run.length);
        if (run.kind === 'zero') target.fill(0);
        else if (run.kind === 'unallocated') {
          target.subarray(Math.max(0, backingSize - run.offset)).fill(0);
        } else if (run.kind === 'plain' && decryptor !== undefined) {
          work.push(readEncrypted(run, target, decryptor));
        } else if (run.kind === 'plain' && run.length >= DIRECT) {
          work.push(data.read(target, run.hostOffset));
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
      const joiner = makeJoiner();
      for await (const part of tables.parts(start, Math.min(end, virtualSize))) {
        for (const run of runsOf(layout, part)) {
          const source = knowsOf(run);
          if (source === undefined) {
            const done = joiner.add(asExtent(run));
            if (done !== undefined) yield done;
            continue;
          }
          for await (const extent of extentsWithin(source, run)) {
            const done = joiner.add(extent);
            if (done !== undefined) yield done;
          }
        }
      }
      const last = joiner.end();
      if (last !== undefined) yield last;
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await tables.drain();
      await kept.drain();
      const owned = [backing, dataFile, file];
      await settle(owned.map(async (source) => source?.[Symbol.asyncDispose]()));
    },
  };
}

/** Joins extents of one kind that follow each other; both give one that is complete, if there is one. */
function makeJoiner(): { add(next: Extent): Extent | undefined; end(): Extent | undefined } {
  let last: Extent | undefined;
  return {
    add(next: Extent): Extent | undefined {
      if (last?.kind === next.kind) {
        last = { kind: last.kind, offset: last.offset, length: last.length + next.length };
        return undefined;
      }
      const done = last;
      last = next;
      return done;
    },
    end: () => last,
  };
}

function asExtent({ kind, offset, length }: Run): Extent {
  const isData = kind === 'plain' || kind === 'compressed';
  return { kind: isData ? 'data' : 'zero', offset, length };
}

/** What `source` has in a range of its bytes; zeros behind its end. */
async function* extentsWithin(
  source: Source,
  { offset, length }: { readonly offset: number; readonly length: number },
): AsyncGenerator<Extent, void, void> {
  const end = offset + length;
  const known = Math.max(offset, Math.min(end, source.size));
  if (known > offset) yield* source.extents(offset, known);
  if (known < end) yield { kind: 'zero', offset: known, length: end - known };
}

/** Waits for all of `work`, also when some of it fails: nothing is still writing to a buffer then. */
async function settle(work: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) {
    if (result.status === 'rejected') throw result.reason;
  }
}
