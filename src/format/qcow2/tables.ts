/** The L1 table and the L2 tables of an open image: which are in memory, and which are on their way. */

import { SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Source } from '../../types.ts';
import { viewOf } from '../../bytes.ts';
import { makeCache } from './cache.ts';
import { decodeL1Entry, ENTRY_SIZE } from './entry.ts';
import { isInPlace, misplaced, placed, type Layout } from './layout.ts';
import type { L2Table, Part } from './runs.ts';

export interface Tables {
  /**
   * The disk from `start` to `end` (exclusive) in parts: ascending, gapless, never empty.
   * @throws SparsecopyError `CORRUPT`, `TRUNCATED`; a system error as it came.
   */
  parts(start: number, end: number): AsyncIterable<Part>;
  /** Resolves when nothing is being read any more. */
  drain(): Promise<void>;
}

/** L2 tables asked for before their turn; 512-byte clusters have one for each 32 KiB of disk. */
const AHEAD = 4;

/** A copy in order needs one table, and the next while its reads cross the border. */
const LEAST_CACHED = 2;

/**
 * Reads the L1 table of the image in `file`, as far as the virtual size needs it; its size has been checked.
 * @throws SparsecopyError `TRUNCATED` when it goes beyond the end of the file, `CORRUPT` when it names more tables than fit.
 */
export async function openTables(file: Source, layout: Layout, limits: Limits): Promise<Tables> {
  const { clusterSize, entrySize, fileSize, l1Needed, l1Offset, l2Coverage, virtualSize } = layout;
  const l1Length = l1Needed * ENTRY_SIZE;
  if (l1Length > 0 && l1Offset + l1Length > fileSize) {
    throw new SparsecopyError(
      'TRUNCATED',
      `L1 table at ${l1Offset} needs ${l1Length} bytes, file ends at ${fileSize}`,
      { source: layout.name, offset: l1Offset, expected: l1Offset + l1Length, found: fileSize },
    );
  }
  const l1 = Buffer.allocUnsafeSlow(l1Length);
  if (l1Length > 0) await file.read(l1, l1Offset);
  const l1View = viewOf(l1);
  refuseTooMany(l1View, layout);

  /** Offset of the L2 table with this index in the L1 table, or 0. */
  function l2Offset(index: number): number {
    const high = l1View.getUint32(index * ENTRY_SIZE);
    const low = l1View.getUint32(index * ENTRY_SIZE + 4);
    const entry = decodeL1Entry(high, low, layout.clusterBits);
    switch (entry.kind) {
      case 'unallocated':
        return 0;
      case 'table':
        return entry.hostOffset;
      case 'invalid':
        throw placed(
          layout,
          'CORRUPT',
          `entry ${index} of the L1 table at ${l1Offset} ${entry.why}`,
          l1Offset + index * ENTRY_SIZE,
        );
    }
  }

  async function loadTable(index: number): Promise<L2Table> {
    const hostOffset = l2Offset(index);
    const guestOffset = index * l2Coverage;
    const clusters = Math.ceil((virtualSize - guestOffset) / clusterSize);
    const length = Math.min(clusterSize, clusters * entrySize);
    if (!isInPlace(layout, hostOffset, length)) {
      throw misplaced(layout, `L2 table ${index}`, hostOffset, length);
    }
    const bytes = Buffer.allocUnsafeSlow(length);
    await file.read(bytes, hostOffset);
    return { hostOffset, guestOffset, view: viewOf(bytes) };
  }

  const capacity = Math.floor(limits.qcow2L2CacheSize / clusterSize);
  const cache = makeCache(Math.max(LEAST_CACHED, capacity), loadTable);

  return {
    async *parts(start: number, end: number): AsyncGenerator<Part, void, void> {
      /** Asked for and not yet needed: whoever comes to the turn of one gets its error, if there is one. */
      const asked = new Map<number, Promise<L2Table>>();
      for (let offset = start; offset < end;) {
        const index = Math.floor(offset / l2Coverage);
        let next = index + 1;
        if (l2Offset(index) === 0) {
          while (next * l2Coverage < end && l2Offset(next) === 0) next++;
        } else {
          for (let ahead = index; ahead <= index + AHEAD && ahead * l2Coverage < end; ahead++) {
            if (!asked.has(ahead) && l2Offset(ahead) !== 0) asked.set(ahead, cache.get(ahead));
          }
        }
        const length = Math.min(end, next * l2Coverage) - offset;
        const loading = asked.get(index);
        asked.delete(index);
        if (loading === undefined) yield { kind: 'unallocated', offset, length };
        else yield { kind: 'table', offset, length, table: await loading };
        offset += length;
      }
    },
    drain: () => cache.drain(),
  };
}

/**
 * Refuses an L1 table that names more places in the file than the file has clusters: some entries name the same L2 table,
 * and half a MiB would become terabytes of work. What lies beyond the end may just be cut off.
 */
function refuseTooMany(l1: DataView, layout: Layout): void {
  const { clusterBits, clusterSize, fileSize, l1Offset } = layout;
  let count = 0;
  for (let at = 0; at < l1.byteLength; at += ENTRY_SIZE) {
    const entry = decodeL1Entry(l1.getUint32(at), l1.getUint32(at + 4), clusterBits);
    if (entry.kind === 'table' && entry.hostOffset < fileSize) count++;
  }
  const most = Math.ceil(fileSize / clusterSize);
  if (count <= most) return;
  throw new SparsecopyError(
    'CORRUPT',
    `L1 table at ${l1Offset} names ${count} L2 tables, the file of ${fileSize} bytes has room for ${most}`,
    { source: layout.name, offset: l1Offset, expected: most, found: count },
  );
}
