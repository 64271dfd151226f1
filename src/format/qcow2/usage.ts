/** How often each cluster of a file is referred to: counters as wide as the image's own, where there are any. */

import { SparsecopyError } from '../../errors.ts';
import type { Findings } from './findings.ts';

/** Size of a page of counters in bytes; a sparse file needs few. */
const PAGE_SIZE = 64 * 1024;

/** qemu's INT_MAX: it checks no file with more clusters. */
const MOST_CLUSTERS = 2 ** 31 - 1;

/**
 * Counters of so many bytes at most. At the usual two bytes for each cluster of 64 KiB this is for 4 TiB in use, and it
 * keeps a check of whatever file below 256 MiB.
 */
const MOST_COUNTERS = 128 * 1024 * 1024;

export type Counters = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** As many counters of `refcountBits` bits or more as a page has. */
export function makeCounters(refcountBits: number): Counters {
  if (refcountBits <= 8) return new Uint8Array(PAGE_SIZE);
  if (refcountBits === 16) return new Uint16Array(PAGE_SIZE / 2);
  if (refcountBits === 32) return new Uint32Array(PAGE_SIZE / 4);
  return new Float64Array(PAGE_SIZE / 8);
}

export interface Usage {
  /** Count of clusters in the file: what is referred to may make it one more. */
  readonly clusterCount: number;
  /** Count of clusters that one page speaks of. */
  readonly pageCount: number;
  /** The counters of the clusters from `index * pageCount` on; `undefined` when all of them are 0. */
  page(index: number): Counters | undefined;
  get(cluster: number): number;
  /**
   * Counts a reference to each cluster that has one of `length` bytes at `offset`, `times` over. When the file ends too
   * early for them, or a counter cannot count so far, that is noted as a corruption at `place`.
   * @throws SparsecopyError `LIMIT` when there would be too many counters.
   */
  add(offset: number, length: number, place: number, what: () => string, times?: number): void;
}

export function makeUsage(
  file: { readonly name: string; readonly size: number },
  clusterSize: number,
  refcountBits: number,
  findings: Findings,
): Usage {
  let clusterCount = Math.ceil(file.size / clusterSize);
  if (clusterCount > MOST_CLUSTERS) {
    throw new SparsecopyError(
      'LIMIT',
      `has ${clusterCount} clusters, at most ${MOST_CLUSTERS} can be checked`,
      { source: file.name, expected: MOST_CLUSTERS, found: clusterCount },
    );
  }
  const most = 2 ** Math.min(refcountBits, 53) - 1;
  const pages: (Counters | undefined)[] = [];
  const pageCount = makeCounters(refcountBits).length;
  let made = 0;

  function makePage(index: number): Counters {
    if ((made + 1) * PAGE_SIZE > MOST_COUNTERS) {
      throw new SparsecopyError(
        'LIMIT',
        `has more clusters in use than can be counted in ${MOST_COUNTERS} bytes`,
        { source: file.name, expected: MOST_COUNTERS },
      );
    }
    made++;
    return (pages[index] = makeCounters(refcountBits));
  }

  return {
    get clusterCount(): number {
      return clusterCount;
    },
    pageCount,
    page: (index) => pages[index],
    get: (cluster) => pages[Math.floor(cluster / pageCount)]?.[cluster % pageCount] ?? 0,
    add(offset, length, place, what, times = 1): void {
      if (length <= 0) return;
      // The file may end within the last cluster, but not before it.
      if (offset + length - file.size >= clusterSize) {
        const sentence = (): string =>
          `${what()} needs ${length} bytes at ${offset}, file ends at ${file.size}`;
        findings.add('corruption', place, sentence, times);
        return;
      }
      const last = Math.floor((offset + length - 1) / clusterSize);
      for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
        const index = Math.floor(cluster / pageCount);
        const page = pages[index] ?? makePage(index);
        const at = cluster - index * pageCount;
        const count = (page[at] ?? 0) + times;
        if (count > most) {
          const sentence = (): string =>
            `${what()} refers to cluster ${cluster}, which has more than ${most} references`;
          findings.add('corruption', place, sentence, count - most);
        }
        page[at] = Math.min(count, most);
      }
      clusterCount = Math.max(clusterCount, last + 1);
    },
  };
}
