/** What the L1 and L2 tables of an image refer to, entry by entry, with all that a check finds wrong in them. */

import { viewOf } from '../../bytes.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { Findings } from './findings.ts';
import type { Header } from './header.ts';
import type { PaddedFile } from './padded.ts';
import { countWithin, MOST_OFFSET } from './refcounts.ts';
import { forEachTable, makeTableList, type TableList } from './table-list.ts';
import type { Usage } from './usage.ts';

const TWO_32 = 2 ** 32;

/** In the high half of an entry. Bit 63: the refcount of what it points at is exactly one. Bit 62: compressed. */
export const COPIED = 0x80000000;
const COMPRESSED = 0x40000000;

/** Offset bits 32 to 55 in the high half, 9 to 31 in the low half. */
const OFFSET_HIGH = 0x00ffffff;
const OFFSET_LOW = 0xfffffe00;

/** Compressed data is measured in these, whatever the cluster size. */
const SECTOR_SIZE = 512;

/** Entries of an L1 table that are looked at together. */
const PIECE_COUNT = 128 * 1024;

/** An image while it is checked. */
export interface CheckedImage {
  readonly file: PaddedFile;
  readonly header: Header;
  /** Of an L2 table entry in bytes: 8, or 16 for an extended one. */
  readonly entrySize: number;
  /** Plain clusters lie in another file, and are not counted. */
  readonly hasDataFile: boolean;
  readonly usage: Usage;
  readonly findings: Findings;
  readonly signal: AbortSignal | undefined;
}

/** Clusters of the disk that are allocated, of these those compressed, and those that do not follow the one before. */
export interface Allocation {
  allocated: number;
  compressed: number;
  fragmented: number;
}

/** An L1 table: `name` is for messages. */
export interface L1Table {
  readonly name: string;
  readonly offset: number;
  /** Count of entries. */
  readonly count: number;
}

/** Counts a reference to each cluster of the L1 tables, of their L2 tables, and of what these map; in `allocation` too. */
export async function countMapping(
  image: CheckedImage,
  l1Tables: readonly L1Table[],
  allocation?: Allocation,
): Promise<void> {
  const { file, usage, findings } = image;
  const { clusterSize } = image.header;
  const list = makeTableList(
    l1Tables.reduce((sum, l1) => sum + countWithin(file.size, l1.offset, l1.count), 0),
  );
  for (const l1 of l1Tables) {
    const name = (): string => l1.name;
    usage.add(l1.offset, l1.count * ENTRY_SIZE, l1.offset, name);
    if (l1.count > 0 && l1.offset >= MOST_OFFSET) {
      findings.add('error', l1.offset, () => `${l1.name} at ${l1.offset} cannot be read`);
      continue;
    }
    await forEachL1Entry(image, l1, async (index, high, low) => {
      const place = l1.offset + index * ENTRY_SIZE;
      const what = (): string => `entry ${index} of ${l1.name}`;
      // bits 0-8 and 56-62: reserved
      if ((low & 0x1ff) !== 0 || (high & 0x7f000000) !== 0) {
        findings.add('corruption', place, () => `${what()} has reserved bits set`);
      }
      const offset = offsetOf(high, low);
      usage.add(offset, clusterSize, place, what);
      if (offset % clusterSize !== 0) {
        const why = `has offset ${offset}, not a multiple of the cluster size ${clusterSize}`;
        findings.add('corruption', place, () => `${what()} ${why}`);
      }
      if (offset >= file.size) return;
      if (list.isFull) await countTables(image, list, allocation);
      list.push(offset);
    });
  }
  await countTables(image, list, allocation);
}

/** Counts what the tables in `list` map, and empties it. */
async function countTables(
  image: CheckedImage,
  list: TableList,
  allocation: Allocation | undefined,
): Promise<void> {
  const size = image.header.clusterSize;
  const visit = (offset: number, view: DataView, times: number): undefined => {
    countTable(image, offset, view, times, allocation);
  };
  await forEachTable(image.file, list.take(), size, image.signal, visit);
}

function countTable(
  { header, entrySize, hasDataFile, usage, findings }: CheckedImage,
  table: number,
  view: DataView,
  times: number,
  allocation: Allocation | undefined,
): void {
  const { clusterBits, clusterSize } = header;
  const isExtended = entrySize > ENTRY_SIZE;
  let at = 0;
  const what = (): string => `entry ${at / entrySize} of the L2 table at ${table}`;
  const corrupt = (why: () => string): void =>
    findings.add('corruption', table + at, () => `${what()} ${why()}`, times);
  /** Where the cluster after the last plain one would lie if it followed that. */
  let follows = 0;
  for (; at < clusterSize; at += entrySize) {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    if (high === 0 && low === 0 && !isExtended) continue;
    // the bitmap of subclusters: which read as zeros, which are allocated
    const zeros = isExtended ? view.getUint32(at + 8) : 0;
    const allocated = isExtended ? view.getUint32(at + 12) : 0;
    if ((high & COMPRESSED) !== 0) {
      if ((high & COPIED) !== 0) corrupt(() => 'is compressed, and has bit 63 set');
      if (hasDataFile) {
        corrupt(() => 'is compressed, which a data file has no place for');
        continue;
      }
      if (zeros !== 0 || allocated !== 0) {
        corrupt(() => 'is compressed, but has subclusters');
        continue;
      }
      const x = 62 - (clusterBits - 8);
      const offset = (high & (2 ** (x - 32) - 1)) * TWO_32 + low;
      const sectors = ((high & 0x3fffffff) >>> (x - 32)) + 1;
      const length = sectors * SECTOR_SIZE - (low % SECTOR_SIZE);
      usage.add(offset, length, table + at, what, times);
      if (allocation !== undefined) {
        allocation.allocated += times;
        allocation.compressed += times;
        allocation.fragmented += times;
      }
      continue;
    }
    // bits 1-8 and 56-61: reserved
    if ((low & 0x1fe) !== 0 || (high & 0x3f000000) !== 0) corrupt(() => 'has reserved bits set');
    const offset = offsetOf(high, low);
    if (!isInUse(high, low, hasDataFile, isExtended)) {
      if (offset === 0 && allocated !== 0) corrupt(() => 'has subclusters allocated in no cluster');
      continue;
    }
    if ((zeros & allocated) !== 0) corrupt(() => 'has subclusters both allocated and zero');
    if (offset % clusterSize !== 0) {
      corrupt(() => `has offset ${offset}, not a multiple of the cluster size ${clusterSize}`);
    }
    if (allocation !== undefined) {
      allocation.allocated += times;
      if (follows !== 0 && offset !== follows) allocation.fragmented += times;
      follows = offset + clusterSize;
    }
    if (!hasDataFile) usage.add(offset, clusterSize, table + at, what, times);
  }
}

/** True for an entry that has a cluster, and not a compressed one. */
export function isInUse(
  high: number,
  low: number,
  hasDataFile: boolean,
  isExtended: boolean,
): boolean {
  if ((high & COMPRESSED) !== 0) return false;
  if ((high & OFFSET_HIGH) !== 0 || (low & OFFSET_LOW) !== 0) return true;
  // bit 0: reads as zeros; with bit 63, a data file can have a cluster at 0
  const isZero = (low & 1) !== 0 && !isExtended;
  return hasDataFile && !isZero && (high & COPIED) !== 0;
}

/** Calls `visit` for each entry that is not 0. */
export async function forEachL1Entry(
  { file, signal }: CheckedImage,
  l1: L1Table,
  visit: (index: number, high: number, low: number) => Promise<void>,
): Promise<void> {
  const count = countWithin(file.size, l1.offset, l1.count);
  const piece = Buffer.allocUnsafeSlow(Math.min(count, PIECE_COUNT) * ENTRY_SIZE);
  for (let start = 0; start < count; start += PIECE_COUNT) {
    signal?.throwIfAborted();
    const bytes = piece.subarray(0, (count - start) * ENTRY_SIZE);
    await file.read(bytes, l1.offset + start * ENTRY_SIZE);
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length; at += ENTRY_SIZE) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high !== 0 || low !== 0) await visit(start + at / ENTRY_SIZE, high, low);
    }
  }
}

/** The offset in an L1 or L2 table entry, bits 9 to 55: exact, since a multiple of 512 below 2^56 fits the 53 bits of a number. */
export function offsetOf(high: number, low: number): number {
  return (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0);
}
