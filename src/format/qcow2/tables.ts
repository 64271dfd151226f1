/** The L1 table and the L2 tables of an open image: which are in memory, and which are on their way. */

import { SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Source } from '../../types.ts';
import { viewOf } from '../../bytes.ts';
import { makeCache } from './cache.ts';
import { decodeL1Entry, ENTRY_SIZE } from './entry.ts';
import { isInPlace, misplaced, placed, type L2Table, type Layout, type Part } from './runs.ts';

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
 * @throws SparsecopyError `TRUNCATED` when it goes beyond the end of the file.
 */
export async function openTables(file: Source, layout: Layout, limits: Limits): Promise<Tables> {
  const { clusterSize, fileSize, l1Needed, l1Offset, l2Coverage, virtualSize } = layout;
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
    const length = Math.min(clusterSize, clusters * ENTRY_SIZE);
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
        if (loading === undefined) yield { kind: 'zero', offset, length };
        else yield { kind: 'table', offset, length, table: await loading };
        offset += length;
      }
    },
    drain: () => cache.drain(),
  };
}
