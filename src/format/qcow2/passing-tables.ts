/** The L2 tables of an image that passes once: in the order in which they lie in the file, not that of the disk. */

import { viewOf } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import { decodeL1Entry, ENTRY_SIZE } from './entry.ts';
import { isInPlace, misplaced, placed, type Layout } from './layout.ts';
import type { Part, UnallocatedRun } from './runs.ts';

/** Where an L2 table lies, as much of it as the virtual size needs, and what of the disk it describes. */
export interface TablePlace {
  readonly index: number;
  readonly hostOffset: number;
  readonly length: number;
  readonly guestOffset: number;
}

/** Tables are taken one by one, in the order of the file; those left aside come before those that have not been met. */
export interface PassingTables {
  /** Tables not taken yet. */
  readonly left: number;
  /** The next table that has not been met, if there is one. */
  readonly next: TablePlace | undefined;
  /** The first of the tables that were left aside, if there is one. */
  readonly late: TablePlace | undefined;
  /** Takes `late`, or `next` when there is no such. */
  take(): void;
  /** Leaves `next` aside. */
  leave(): void;
  /**
   * True when two entries name one table, which no writer does: half a MiB can make terabytes so. Whether there are more than the
   * file has room for is known at its end.
   */
  readonly areDoubtful: boolean;
  /** All tables, in the order of the file. */
  all(): Iterable<TablePlace>;
  /** What no table describes, ascending. */
  unallocated(): Iterable<UnallocatedRun>;
  /** The table at `index`, or undefined. */
  find(index: number): TablePlace | undefined;
  /**
   * The first table on the disk that is not within a file of `fileSize` bytes.
   * @throws SparsecopyError `CORRUPT` when there are more tables in the file than it has room for.
   */
  firstBeyond(fileSize: number): TablePlace | undefined;
}

/**
 * Parses `l1`, which is as much of the L1 table as the virtual size needs; tables before `passed` have gone by.
 * @throws SparsecopyError `CORRUPT` for entries that are not allowed, or that point at what is no table.
 */
export function parsePassingTables(l1: Uint8Array, layout: Layout, passed: number): PassingTables {
  const { clusterSize, entrySize, l1Needed, l1Offset, l2Coverage, virtualSize } = layout;
  const { hostOffsets, indexes } = sorted(l1, layout);
  const count = indexes.length;
  /** Number, in the order of the file, of the first table not taken, and of the first not met. */
  let late = 0;
  let next = 0;
  while (next < count && (hostOffsets[next] ?? 0) < passed) next++;
  let areDoubtful = false;
  for (let at = 0; at < count; at++) {
    const place = placeAt(at);
    if (!isInPlace(layout, place.hostOffset, place.length)) throw beyond(layout, place);
    if (hostOffsets[at + 1] === place.hostOffset) areDoubtful = true;
  }

  function placeAt(at: number): TablePlace {
    const index = indexes[at] ?? 0;
    const guestOffset = index * l2Coverage;
    const clusters = Math.ceil((virtualSize - guestOffset) / clusterSize);
    const length = Math.min(clusterSize, clusters * entrySize);
    return { index, hostOffset: hostOffsets[at] ?? 0, length, guestOffset };
  }

  return {
    get left(): number {
      return count - late;
    },
    get next(): TablePlace | undefined {
      return next < count ? placeAt(next) : undefined;
    },
    get late(): TablePlace | undefined {
      return late < next ? placeAt(late) : undefined;
    },
    take(): void {
      late++;
      next = Math.max(next, late);
    },
    leave(): void {
      next++;
    },
    areDoubtful,
    *all(): Generator<TablePlace> {
      for (let at = 0; at < count; at++) yield placeAt(at);
    },
    *unallocated(): Generator<UnallocatedRun> {
      const ascending = indexes.slice().sort();
      let start = 0;
      for (let at = 0; at <= count; at++) {
        const index = ascending[at] ?? l1Needed;
        const offset = start * l2Coverage;
        const length = Math.min(index * l2Coverage, virtualSize) - offset;
        if (length > 0) yield { kind: 'unallocated', offset, length };
        start = index + 1;
      }
    },
    find(index: number): TablePlace | undefined {
      const at = indexes.indexOf(index);
      return at === -1 ? undefined : placeAt(at);
    },
    firstBeyond(fileSize: number): TablePlace | undefined {
      let within = 0;
      let first: TablePlace | undefined;
      for (let at = 0; at < count; at++) {
        const place = placeAt(at);
        if (place.hostOffset < fileSize) within++;
        if (place.hostOffset + place.length <= fileSize) continue;
        if (first === undefined || place.index < first.index) first = place;
      }
      const most = Math.ceil(fileSize / clusterSize);
      if (within <= most) return first;
      throw new SparsecopyError(
        'CORRUPT',
        `L1 table at ${l1Offset} names ${within} L2 tables, the file of ${fileSize} bytes has room for ${most}`,
        { source: layout.name, offset: l1Offset, expected: most, found: within },
      );
    },
  };
}

/** The part of the disk that the table at `place` describes, whose bytes are `bytes`. */
export function partOf(layout: Layout, place: TablePlace, bytes: Uint8Array): Part {
  const { hostOffset, guestOffset } = place;
  const length = Math.min(layout.l2Coverage, layout.virtualSize - guestOffset);
  const table = { hostOffset, guestOffset, view: viewOf(bytes) };
  return { kind: 'table', offset: guestOffset, length, table };
}

/** The error for a table that lies where none can be. */
export function beyond(layout: Layout, { index, hostOffset, length }: TablePlace): SparsecopyError {
  return misplaced(layout, `L2 table ${index}`, hostOffset, length);
}

/** The tables that `l1` names, by their place in the file: their offsets, and their indexes in the L1 table. */
function sorted(
  l1: Uint8Array,
  { clusterBits, l1Offset, ...layout }: Layout,
): { hostOffsets: Float64Array; indexes: Uint32Array } {
  const view = viewOf(l1);
  const byIndex = new Float64Array(l1.length / ENTRY_SIZE);
  let count = 0;
  for (let index = 0; index < byIndex.length; index++) {
    const at = index * ENTRY_SIZE;
    const entry = decodeL1Entry(view.getUint32(at), view.getUint32(at + 4), clusterBits);
    if (entry.kind === 'invalid') {
      const sentence = `entry ${index} of the L1 table at ${l1Offset} ${entry.why}`;
      throw placed({ clusterBits, l1Offset, ...layout }, 'CORRUPT', sentence, l1Offset + at);
    }
    if (entry.kind === 'unallocated') continue;
    byIndex[index] = entry.hostOffset;
    count++;
  }
  const indexes = new Uint32Array(count);
  let isAscending = true;
  for (let index = 0, last = 0, at = 0; index < byIndex.length; index++) {
    const hostOffset = byIndex[index] ?? 0;
    if (hostOffset === 0) continue;
    if (hostOffset < last) isAscending = false;
    last = hostOffset;
    indexes[at++] = index;
  }
  if (!isAscending) indexes.sort((a, b) => (byIndex[a] ?? 0) - (byIndex[b] ?? 0) || a - b);
  return { hostOffsets: Float64Array.from(indexes, (index) => byIndex[index] ?? 0), indexes };
}
