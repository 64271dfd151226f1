/** The verdict on a qcow2 file: what refers to which of its clusters, and how often, against what its refcounts say. */

import { viewOf } from '../../bytes.ts';
import { isSparsecopyError, quoteUntrusted, type SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Source } from '../../types.ts';
import { bitmapDirectory, forEachCluster, readBitmaps } from './bitmaps.ts';
import { checkCopied } from './copied.ts';
import { ENTRY_SIZE, EXTENDED_ENTRY_SIZE } from './entry.ts';
import { makeFindings, type Findings, type Problem } from './findings.ts';
import { parseHeader, type Header } from './header.ts';
import { countMapping, type Allocation, type CheckedImage } from './mapping.ts';
import { padded, type PaddedFile } from './padded.ts';
import { MOST_OFFSET, openRefcounts, type Refcounts } from './refcounts.ts';
import { readSnapshotTable } from './snapshots.ts';
import { refuseUncheckable } from './uncheckable.ts';
import { makeCounters, makeUsage } from './usage.ts';

export interface CheckContext {
  readonly limits: Limits;
  /** How many problems are told of. */
  readonly maxProblems: number;
  readonly signal?: AbortSignal | undefined;
}

/** What was found; counts are those of `qemu-img check`. */
export interface CheckResult {
  /**
   * `failed`: some of it could not be checked, and the counts are of the rest; `corrupt`; `leaks`: clusters are lost,
   * but no data; `clean`.
   */
  readonly verdict: 'clean' | 'leaks' | 'corrupt' | 'failed';
  readonly corruptions: number;
  readonly leaks: number;
  /** Clusters of which could not be told how often they are in use. */
  readonly checkErrors: number;
  /** The first problems. */
  readonly problems: readonly Problem[];
  /** Clusters of the disk. */
  readonly totalClusters: number;
  /** Those of them that the image has allocated; it counts some twice if it is corrupt. */
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
  /** Those that do not follow the one before, and all compressed ones. */
  readonly fragmentedClusters: number;
  /** Where the last cluster in use ends in the file, in bytes. */
  readonly imageEnd: number;
}

/** The incompatible feature bits that matter here. */
const DATA_FILE_BIT = 2;
const EXTENDED_L2_BIT = 4;

const SECTOR_SIZE = 512;

/**
 * Checks the image in `file`: the same counts as `qemu-img check`, and in the same order, since a refcount block must not have
 * been counted before. Marks in the header (dirty, corrupt) are not looked at, nor are data.
 * @throws SparsecopyError for an image that qemu-img does not open; `LIMIT`.
 */
export async function checkQcow2(file: Source, context: CheckContext): Promise<CheckResult> {
  const { limits, maxProblems, signal } = context;
  const findings = makeFindings(maxProblems);
  const allocation: Allocation = { allocated: 0, compressed: 0, fragmented: 0 };
  const whole = padded(file);
  const head = new Uint8Array(limits.probeHead);
  await whole.read(head, 0);
  let header: Header;
  try {
    header = parseHeader(head, file.name, limits);
  } catch (error) {
    if (!isBrokenPointer(error, head)) throw error;
    findings.add('corruption', error.offset ?? 0, () => error.message);
    return resultOf(findings, allocation, 0, 0);
  }
  refuseUncheckable(header, head, file.name);
  const image = makeImage(whole, header, findings, signal);
  const bitmaps = await readBitmaps(image.file, header);
  const l1 = {
    name: `the L1 table at ${header.l1Offset}`,
    offset: header.l1Offset,
    count: header.l1Size,
  };

  const { usage } = image;
  const { clusterSize } = header;
  usage.add(0, clusterSize, 0, () => 'header');
  await countMapping(image, [l1], allocation);
  await countSnapshots(image, limits);
  const refcountTableSize = header.refcountTableClusters * clusterSize;
  const { refcountTableOffset, cryptoHeader } = header;
  usage.add(refcountTableOffset, refcountTableSize, refcountTableOffset, () => 'refcount table');
  if (cryptoHeader !== undefined) {
    const { offset, length } = cryptoHeader;
    usage.add(offset, length, offset, () => 'encryption header');
  }
  const directory = bitmapDirectory(header);
  if (directory !== undefined) {
    const { directoryOffset, directoryLength } = directory;
    usage.add(directoryOffset, directoryLength, directoryOffset, () => 'bitmap directory');
  }
  for (const bitmap of bitmaps) {
    const { name, tableOffset, tableSize } = bitmap;
    const what = (): string => `bitmap ${quoteUntrusted(name)}`;
    usage.add(tableOffset, tableSize * ENTRY_SIZE, tableOffset, () => `table of ${what()}`);
    await forEachCluster(image.file, bitmap, clusterSize, (offset, place) =>
      usage.add(offset, clusterSize, place, what),
    );
  }
  const refcounts = await openRefcounts(image.file, header, usage, findings);
  const highest = await compareRefcounts(image, refcounts);
  await checkCopied(image, l1, refcounts);

  const sectors = Math.floor(header.virtualSize / SECTOR_SIZE);
  const totalClusters = Math.ceil((sectors * SECTOR_SIZE) / clusterSize);
  return resultOf(findings, allocation, totalClusters, (highest + 1) * clusterSize);
}

function makeImage(
  file: PaddedFile,
  header: Header,
  findings: Findings,
  signal: AbortSignal | undefined,
): CheckedImage {
  const { clusterSize, incompatible, refcountBits } = header;
  return {
    file,
    header,
    entrySize: incompatible.includes(EXTENDED_L2_BIT) ? EXTENDED_ENTRY_SIZE : ENTRY_SIZE,
    hasDataFile: incompatible.includes(DATA_FILE_BIT),
    usage: makeUsage(file, clusterSize, refcountBits, findings),
    findings,
    signal,
  };
}

/** Counts what the snapshots refer to, and their table. */
async function countSnapshots(image: CheckedImage, limits: Limits): Promise<void> {
  const { file, header, findings, usage } = image;
  const { clusterSize, snapshotCount, snapshotsOffset } = header;
  const { snapshots, length, incomplete } = await readSnapshotTable(
    { ...file, size: Infinity },
    header,
    limits,
  );
  const corrupt = (why: () => string): void => findings.add('corruption', snapshotsOffset, why);
  for (const index of incomplete) {
    corrupt(
      () => `entry ${index} of the snapshot table at ${snapshotsOffset} has no size of its disk`,
    );
  }
  if (image.hasDataFile && snapshotCount > 0) {
    corrupt(() => `has ${snapshotCount} snapshots, which cannot be with a data file`);
  }
  const most = limits.qcow2L1Size / ENTRY_SIZE;
  const l1Tables = [];
  for (const { id, l1Offset, l1Size, isAligned } of snapshots) {
    const name = `the L1 table of snapshot ${quoteUntrusted(id)}`;
    if (!isAligned) {
      corrupt(() => `${name} is at ${l1Offset}, not a multiple of the cluster size ${clusterSize}`);
    } else if (l1Size > most) {
      corrupt(() => `${name} has ${l1Size} entries, expected at most ${most}`);
    } else {
      l1Tables.push({ name, offset: l1Offset, count: l1Size });
    }
  }
  await countMapping(image, l1Tables);
  usage.add(snapshotsOffset, length, snapshotsOffset, () => 'snapshot table');
}

/**
 * Compares what has been counted with what the file says. From then on `usage` has what the file says, wherever something
 * has been counted. Gives the last cluster that is in use to either, or 0.
 */
async function compareRefcounts(image: CheckedImage, refcounts: Refcounts): Promise<number> {
  const { findings, usage, signal, header } = image;
  const { clusterSize, refcountBits } = header;
  const { clusterCount, pageCount } = usage;
  const stored = makeCounters(refcountBits);
  let highest = 0;

  function compare(first: number, start: number, end: number): void {
    const counted = usage.page(first / pageCount);
    for (let cluster = start; cluster < end; cluster++) {
      const refcount = stored[cluster - first] ?? 0;
      const uses = counted?.[cluster - first] ?? 0;
      if (refcount === 0 && uses === 0) continue;
      highest = cluster;
      if (refcount === uses) continue;
      const offset = cluster * clusterSize;
      findings.add(
        refcount < uses ? 'corruption' : 'leak',
        offset,
        () => `cluster ${cluster} at ${offset} has refcount ${refcount}, and ${uses} references`,
      );
    }
    if (end === Math.min(first + pageCount, clusterCount)) counted?.set(stored);
  }

  for (let first = 0; first < clusterCount; first += pageCount) {
    signal?.throwIfAborted();
    const end = Math.min(first + pageCount, clusterCount);
    const unreadable = await refcounts.load(first, end - first, stored);
    if (unreadable === undefined) {
      if (usage.page(first / pageCount) === undefined) continue;
      stored.fill(0);
    }
    let start = first;
    for (const range of unreadable ?? []) {
      compare(first, start, range.start);
      start = range.end;
      const offset = range.start * clusterSize;
      const count = range.end - range.start;
      const sentence = (): string =>
        `refcounts of ${count} clusters from ${offset} on cannot be read`;
      findings.add('error', offset, sentence, count);
    }
    compare(first, start, end);
  }
  return highest;
}

/**
 * True for the error of a header which says itself where the tables lie, and that is where they cannot be, though qemu-img looks
 * there all the same: that alone is a verdict.
 */
function isBrokenPointer(error: unknown, head: Uint8Array): error is SparsecopyError {
  if (!isSparsecopyError(error, 'CORRUPT')) return false;
  const { offset, found } = error;
  // 56: refcount_table_clusters
  if (offset === 56) return found === 0;
  // 40: l1_table_offset, 48: refcount_table_offset; 20: cluster_bits
  if (offset !== 40 && offset !== 48) return false;
  const clusterSize = 2 ** viewOf(head).getUint32(20);
  return (
    found === 0 ||
    (typeof found === 'bigint' && found % BigInt(clusterSize) === 0n && found < MOST_OFFSET)
  );
}

function resultOf(
  findings: Findings,
  { allocated, compressed, fragmented }: Allocation,
  totalClusters: number,
  imageEnd: number,
): CheckResult {
  const { corruptions, leaks, errors, problems } = findings;
  return {
    verdict: errors > 0 ? 'failed' : corruptions > 0 ? 'corrupt' : leaks > 0 ? 'leaks' : 'clean',
    corruptions,
    leaks,
    checkErrors: errors,
    problems,
    totalClusters,
    allocatedClusters: allocated,
    compressedClusters: compressed,
    fragmentedClusters: fragmented,
    imageEnd,
  };
}
