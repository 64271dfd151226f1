/** The refcounts that a qcow2 file stores: a table of blocks of counts of 1 to 64 bits. */

import { viewOf } from '../../bytes.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { Findings } from './findings.ts';
import type { Header } from './header.ts';
import type { PaddedFile } from './padded.ts';
import type { Counters, Usage } from './usage.ts';

const TWO_32 = 2 ** 32;

/** How much of the table is read at once. */
const PIECE = 1024 * 1024;

/** Reads of blocks at once: small ones lie apart, and each costs a trip to a thread. */
const DEPTH = 16;

/** No file has bytes at or behind this: qemu's BDRV_MAX_LENGTH. */
export const MOST_OFFSET = 2 ** 63 - 2 ** 30;

/** Clusters from `start` to `end` (exclusive). */
interface Clusters {
  readonly start: number;
  readonly end: number;
}

export interface Refcounts {
  /**
   * Fills `into` with the refcounts of the clusters from `first` on, `count` of them, and gives those of them whose
   * refcounts cannot be read, ascending. `undefined` when all are 0, and `into` is as it was.
   */
  load(first: number, count: number, into: Counters): Promise<readonly Clusters[] | undefined>;
  /** The refcount of a cluster, wherever it lies; `undefined` when it cannot be read. */
  get(cluster: number): Promise<number | undefined>;
  /** False when `get` would give `undefined`. */
  isReadable(cluster: number): boolean;
}

/**
 * Decodes `count` refcounts of `bits` bits each from the start of `bytes` into `into` from `at` on; counts of 64 bits are not
 * exact from 2^53 on. Specification: "Host cluster management", refcount block entry.
 */
function decodeRefcounts(
  bytes: Uint8Array,
  bits: number,
  count: number,
  into: Counters,
  at: number,
): void {
  const view = viewOf(bytes);
  switch (bits) {
    case 8:
      into.set(bytes.subarray(0, count), at);
      break;
    case 16:
      for (let index = 0; index < count; index++) into[at + index] = view.getUint16(index * 2);
      break;
    case 32:
      for (let index = 0; index < count; index++) into[at + index] = view.getUint32(index * 4);
      break;
    case 64:
      for (let index = 0; index < count; index++) {
        into[at + index] = view.getUint32(index * 8) * TWO_32 + view.getUint32(index * 8 + 4);
      }
      break;
    default: {
      // within a byte, the first is in the lowest bits
      const mask = 2 ** bits - 1;
      for (let index = 0; index < count; index++) {
        const bit = index * bits;
        into[at + index] = (view.getUint8(bit >>> 3) >>> (bit & 7)) & mask;
      }
    }
  }
}

/**
 * Reads the refcount table of the image in `file`, whose size has been checked. Counts a reference to each of its blocks: since a
 * block may have no other, all other references must have been counted before.
 * Specification: "Host cluster management", refcount table entry.
 */
export async function openRefcounts(
  file: PaddedFile,
  header: Header,
  usage: Usage,
  findings: Findings,
): Promise<Refcounts> {
  const { clusterSize, refcountBits, refcountTableOffset } = header;
  const blockCount = (clusterSize * 8) / refcountBits;
  const tableCount = countWithin(
    file.size,
    refcountTableOffset,
    (header.refcountTableClusters * clusterSize) / ENTRY_SIZE,
  );
  /** Where the blocks lie; 0 for none, NaN for one that cannot be read. */
  const offsets = new Float64Array(tableCount);

  const piece = Buffer.allocUnsafeSlow(Math.min(PIECE, tableCount * ENTRY_SIZE));
  for (let start = 0; start < tableCount; start += PIECE / ENTRY_SIZE) {
    const bytes = piece.subarray(0, (tableCount - start) * ENTRY_SIZE);
    await file.read(bytes, refcountTableOffset + start * ENTRY_SIZE);
    const view = viewOf(bytes);
    for (let index = 0; index < bytes.length / ENTRY_SIZE; index++) {
      const high = view.getUint32(index * ENTRY_SIZE);
      const low = view.getUint32(index * ENTRY_SIZE + 4);
      if (high !== 0 || low !== 0) offsets[start + index] = takeEntry(start + index, high, low);
    }
  }

  /** Looks at an entry that is not 0, and gives the value for `offsets`. */
  function takeEntry(index: number, high: number, low: number): number {
    const place = refcountTableOffset + index * ENTRY_SIZE;
    const corrupt = (why: string): void =>
      findings.add('corruption', place, () => `entry ${index} of the refcount table ${why}`);
    // bits 9-63: offset
    const offset = high * TWO_32 + ((low & 0xfffffe00) >>> 0);
    const isAligned = (low & 0xfffffe00 & (clusterSize - 1)) === 0;
    // bits 0-8: reserved
    if ((low & 0x1ff) !== 0) corrupt('has reserved bits set');
    else if (!isAligned) {
      corrupt(`has offset ${offset}, not a multiple of the cluster size ${clusterSize}`);
    } else if (offset / clusterSize >= usage.clusterCount) {
      corrupt(`needs ${clusterSize} bytes at ${offset}, file ends at ${file.size}`);
    } else if (offset !== 0) {
      const name = (): string => `entry ${index} of the refcount table`;
      usage.add(offset, clusterSize, place, name);
      const uses = usage.get(offset / clusterSize);
      if (uses !== 1) corrupt(`is at ${offset}, and so are ${uses - 1} other structures`);
    }
    return isAligned && offset < MOST_OFFSET ? offset : NaN;
  }

  return {
    async load(first, count, into): Promise<readonly Clusters[] | undefined> {
      const end = first + count;
      const unreadable: Clusters[] = [];
      let isEmpty = true;
      let reads: Promise<void>[] = [];
      const settle = async (): Promise<void> => {
        const results = await Promise.allSettled(reads);
        reads = [];
        for (const result of results) if (result.status === 'rejected') throw result.reason;
      };
      for (let start = first; start < end;) {
        const index = Math.floor(start / blockCount);
        const next = Math.min(end, (index + 1) * blockCount);
        const offset = offsets[index] ?? 0;
        if (Number.isNaN(offset)) unreadable.push({ start, end: next });
        if (offset !== 0) {
          if (isEmpty) into.fill(0);
          isEmpty = false;
        }
        if (offset > 0 && offset < file.size) {
          const length = next - start;
          const at = start - first;
          const bytes = Buffer.allocUnsafe(Math.ceil((length * refcountBits) / 8));
          const within = ((start - index * blockCount) * refcountBits) / 8;
          const decode = (): void => decodeRefcounts(bytes, refcountBits, length, into, at);
          reads.push(file.read(bytes, offset + within).then(decode));
          if (reads.length === DEPTH) await settle();
        }
        start = next;
      }
      await settle();
      return isEmpty ? undefined : unreadable;
    },
    async get(cluster): Promise<number | undefined> {
      const offset = offsets[Math.floor(cluster / blockCount)] ?? 0;
      if (Number.isNaN(offset)) return undefined;
      if (offset === 0) return 0;
      const bit = (cluster % blockCount) * refcountBits;
      const byte = Math.floor(bit / 64) * 8;
      const bytes = Buffer.alloc(8);
      await file.read(bytes, offset + byte);
      const counts = new Float64Array(64 / refcountBits);
      decodeRefcounts(bytes, refcountBits, counts.length, counts, 0);
      return counts[(bit - byte * 8) / refcountBits];
    },
    isReadable: (cluster) => !Number.isNaN(offsets[Math.floor(cluster / blockCount)] ?? 0),
  };
}

/** How many of `count` entries of a table at `offset` may be other than 0: the file ends behind them. */
export function countWithin(fileSize: number, offset: number, count: number): number {
  return Math.max(0, Math.min(count, Math.ceil((fileSize - offset) / ENTRY_SIZE)));
}
