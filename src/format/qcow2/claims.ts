/** Which part of the file has an owner already: an image in which two things share one is no writer's work. */

import { alignUp } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Layout } from './layout.ts';
import type { CompressedRun, PlainRun, Run } from './runs.ts';

/** Notes owners, in any order. */
export interface Claims {
  /** @throws SparsecopyError `CORRUPT` when the L2 table at `hostOffset` lies where something else does, `LIMIT`. */
  table(hostOffset: number): void;
  /** @throws SparsecopyError `CORRUPT` when data of `run` lie where something else does, `LIMIT`. */
  run(run: Run): void;
}

/** Compressed data is measured in these. */
const SECTOR_SIZE = 512;

/**
 * Claims of the image with this layout; its header, L1 table, refcount table and snapshot table are noted from the start.
 *
 * Compressed clusters share clusters of the file, and at their borders sectors (their length counts whole ones), but no two
 * start at the same byte. What is remembered has the bound `limits.qcow2ClaimsSize`, wherever in the file it lies.
 * @throws SparsecopyError `CORRUPT` when what the header names lies on each other.
 */
export function makeClaims(layout: Layout, limits: Limits): Claims {
  const { clusterSize, hasDataFile, name } = layout;
  const budget = makeBudget(layout, limits);
  /** Clusters with one owner. */
  const whole = makeBits(budget);
  /** Clusters with compressed data. */
  const shared = makeBits(budget);
  /** Sectors within compressed data, and sectors in which some begin or end. */
  const inner = makeBits(budget);
  const border = makeBits(budget);
  const starts = makeNumbers(budget);
  /** The cluster of the disk, and that of the file, claimed last: subclusters come one by one. */
  let lastGuest = -1;
  let lastHost = -1;

  for (const { what, hostOffset, length } of layout.metadata) claimWhole(what, hostOffset, length);

  function claimWhole(what: string, hostOffset: number, length: number): void {
    const end = Math.ceil((hostOffset + length) / clusterSize);
    for (let cluster = Math.floor(hostOffset / clusterSize); cluster < end; cluster++) {
      if (!whole.add(cluster) || shared.has(cluster)) throw twice(what, cluster * clusterSize);
    }
  }

  function claimPlain({ offset, hostOffset, length }: PlainRun): void {
    const guest = Math.floor(offset / clusterSize);
    const host = Math.floor(hostOffset / clusterSize);
    const isKnown = guest === lastGuest && host === lastHost;
    const claimed = isKnown ? clusterSize - (hostOffset % clusterSize) : 0;
    lastGuest = Math.floor((offset + length - 1) / clusterSize);
    lastHost = Math.floor((hostOffset + length - 1) / clusterSize);
    if (length > claimed) claimWhole(at(offset), hostOffset + claimed, length - claimed);
  }

  function claimCompressed({ offset, hostOffset, hostLength }: CompressedRun): void {
    if (!starts.add(hostOffset)) throw twice(at(offset), hostOffset);
    const first = Math.floor(hostOffset / SECTOR_SIZE);
    const last = Math.floor((hostOffset + hostLength - 1) / SECTOR_SIZE);
    for (let sector = first; sector <= last; sector++) {
      const isBorder = sector === first || sector === last;
      const isFree = isBorder
        ? (border.add(sector), !inner.has(sector))
        : inner.add(sector) && !border.has(sector);
      if (!isFree) throw twice(at(offset), sector * SECTOR_SIZE);
    }
    const end = Math.ceil((hostOffset + hostLength) / clusterSize);
    for (let cluster = Math.floor(hostOffset / clusterSize); cluster < end; cluster++) {
      shared.add(cluster);
      if (whole.has(cluster)) throw twice(at(offset), cluster * clusterSize);
    }
  }

  function twice(what: string, hostOffset: number): SparsecopyError {
    const there = layout.metadata.find(
      (other) =>
        hostOffset >= other.hostOffset &&
        hostOffset < alignUp(other.hostOffset + other.length, clusterSize),
    );
    const owner = there === undefined ? 'other data or another table is' : `the ${there.what} is`;
    const sentence = `${what} lies at ${hostOffset}, where ${owner} already`;
    return new SparsecopyError('CORRUPT', sentence, { source: name, offset: hostOffset });
  }

  return {
    table: (hostOffset) => claimWhole('L2 table', hostOffset, clusterSize),
    run(run: Run): void {
      if (run.kind === 'compressed') claimCompressed(run);
      else if (run.kind === 'plain' && !hasDataFile) claimPlain(run);
    },
  };
}

function at(offset: number): string {
  return `data of disk offset ${offset}`;
}

/** Takes bytes of memory. @throws SparsecopyError `LIMIT` when there are none left. */
type Budget = (length: number) => void;

function makeBudget({ name }: Layout, { qcow2ClaimsSize }: Limits): Budget {
  let used = 0;
  return (length) => {
    used += length;
    if (used <= qcow2ClaimsSize) return;
    throw new SparsecopyError(
      'LIMIT',
      `needs more than ${qcow2ClaimsSize} bytes of notes on what lies where`,
      { source: name, limit: 'qcow2ClaimsSize', expected: qcow2ClaimsSize },
    );
  };
}

/** A set of small numbers that lie close to each other. */
interface Bits {
  has(number: number): boolean;
  /** False when it was there. */
  add(number: number): boolean;
}

/** Bits of a page: 4 KiB of memory, and as little as a hostile file can make with one offset. */
const PAGE_BITS = 32 * 1024;

function makeBits(budget: Budget): Bits {
  const pages = new Map<number, Uint32Array>();
  let lastIndex = -1;
  let lastPage: Uint32Array | undefined;

  function find(number: number): Uint32Array | undefined {
    const index = Math.floor(number / PAGE_BITS);
    if (index !== lastIndex) {
      lastIndex = index;
      lastPage = pages.get(index);
    }
    return lastPage;
  }

  return {
    has(number: number): boolean {
      const bit = number % PAGE_BITS;
      return (((find(number)?.[bit >>> 5] ?? 0) >>> (bit & 31)) & 1) === 1;
    },
    add(number: number): boolean {
      let page = find(number);
      if (page === undefined) {
        budget(PAGE_BITS / 8);
        page = new Uint32Array(PAGE_BITS / 32);
        pages.set(lastIndex, page);
        lastPage = page;
      }
      const bit = number % PAGE_BITS;
      const word = page[bit >>> 5] ?? 0;
      const mask = 1 << (bit & 31);
      page[bit >>> 5] = word | mask;
      return (word & mask) === 0;
    },
  };
}

/** A set of positive numbers, in 16 bytes for each on average, where a `Set` takes 40. */
function makeNumbers(budget: Budget): { add(number: number): boolean } {
  /** Open addressing: 0 is free, no more than three quarters are taken. */
  let slots = new Float64Array(1024);
  let count = 0;
  // Nobody can make a file whose offsets all fall into one slot without knowing these.
  const low = randomFactor();
  const high = randomFactor();

  function slotOf(table: Float64Array, number: number): number {
    const mixed = Math.imul(number >>> 0, low) ^ Math.imul((number / 2 ** 32) | 0, high);
    let slot = (mixed ^ (mixed >>> 15)) & (table.length - 1);
    while (table[slot] !== 0 && table[slot] !== number) slot = (slot + 1) & (table.length - 1);
    return slot;
  }

  return {
    add(number: number): boolean {
      if (count >= slots.length * 0.75) {
        budget(8 * slots.length);
        const grown = new Float64Array(2 * slots.length);
        for (const known of slots) if (known !== 0) grown[slotOf(grown, known)] = known;
        slots = grown;
      }
      const slot = slotOf(slots, number);
      if (slots[slot] === number) return false;
      slots[slot] = number;
      count++;
      return true;
    },
  };
}

/** Odd, so that multiplying by it loses nothing. */
function randomFactor(): number {
  return Math.floor(Math.random() * 2 ** 32) | 1;
}
