/** Bit 63 of table entries: it says that a refcount is exactly one, and must not lie, or a write would go to a shared cluster. */

import { ENTRY_SIZE } from './entry.ts';
import {
  COPIED,
  forEachL1Entry,
  isInUse,
  offsetOf,
  type CheckedImage,
  type L1Table,
} from './mapping.ts';
import { countWithin, type Refcounts } from './refcounts.ts';
import { forEachTable, makeTableList } from './table-list.ts';

/**
 * Compares bit 63 of all entries of the active L1 table, and of its L2 tables, with the refcounts that the file stores: these are
 * in `usage` by now, for clusters of the file. Specification: "Cluster mapping", bit 63.
 */
export async function checkCopied(
  image: CheckedImage,
  l1: L1Table,
  refcounts: Refcounts,
): Promise<void> {
  const { entrySize, file, findings, hasDataFile, usage } = image;
  const { clusterCount } = usage;
  const { clusterSize } = image.header;
  const isExtended = entrySize > ENTRY_SIZE;
  const list = makeTableList(countWithin(file.size, l1.offset, l1.count));

  async function refcountOf(cluster: number): Promise<number | undefined> {
    if (cluster >= clusterCount) return refcounts.get(cluster);
    return refcounts.isReadable(cluster) ? usage.get(cluster) : undefined;
  }

  /** What cannot be read says nothing. */
  function compare(
    high: number,
    refcount: number | undefined,
    place: number,
    times: number,
    what: () => string,
  ): void {
    const isCopied = (high & COPIED) !== 0;
    if (refcount === undefined || (refcount === 1) === isCopied) return;
    const bit = isCopied ? 'set' : 'clear';
    const sentence = (): string => `${what()} has bit 63 ${bit}, and refcount ${refcount}`;
    findings.add('corruption', place, sentence, times);
  }

  async function checkTable(table: number, view: DataView, times: number): Promise<void> {
    /** Positions of entries whose refcounts have to be looked at closely: most are as they should be. */
    const suspects: number[] = [];
    for (let at = 0; at < clusterSize; at += entrySize) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (!isInUse(high, low, hasDataFile, isExtended)) continue;
      const isCopied = (high & COPIED) !== 0;
      if (hasDataFile) {
        // a cluster of a data file has one owner, always
        if (!isCopied) suspects.push(at);
        continue;
      }
      const cluster = Math.floor(offsetOf(high, low) / clusterSize);
      if (cluster >= clusterCount || (usage.get(cluster) === 1) !== isCopied) suspects.push(at);
    }
    for (const at of suspects) {
      const high = view.getUint32(at);
      const offset = offsetOf(high, view.getUint32(at + 4));
      const refcount = hasDataFile ? 1 : await refcountOf(Math.floor(offset / clusterSize));
      const what = (): string => `entry ${at / entrySize} of the L2 table at ${table}`;
      compare(high, refcount, table + at, times, what);
    }
  }

  const checkTables = (): Promise<void> =>
    forEachTable(file, list.take(), clusterSize, image.signal, checkTable);
  await forEachL1Entry(image, l1, async (index, high, low) => {
    const offset = offsetOf(high, low);
    if (offset === 0) return;
    const refcount = await refcountOf(Math.floor(offset / clusterSize));
    const place = l1.offset + index * ENTRY_SIZE;
    compare(high, refcount, place, 1, () => `entry ${index} of ${l1.name}`);
    // qemu-img leaves a table alone whose own refcount it cannot read
    if (refcount === undefined || offset >= file.size) return;
    if (list.isFull) await checkTables();
    list.push(offset);
  });
  await checkTables();
}
