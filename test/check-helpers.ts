/** What the tests of `check` share: qemu-img's verdict beside ours, and where the structures of an image lie. */

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect } from 'vitest';
import { check, type CheckReport } from '../src/check.ts';
import { isSparsecopyError, type SparsecopyError } from '../src/errors.ts';
import { run } from './native.ts';

/** Writes of a sort that fragments and shares, frees and makes zero. */
export const WRITES = [
  'write -P 1 0 100k',
  'write -P 2 300k 10k',
  'write -P 3 1M 200k',
  'write -z 400k 64k',
  'discard 1M 64k',
];

export function qemuIo(path: string, commands: readonly string[]): void {
  run('qemu-io', [...commands.flatMap((command) => ['-c', command]), path]);
}

/** A new image with these creation options, and some data. */
export function makeImage(
  folder: string,
  options: string,
  size = '3M',
  name = 'disk.qcow2',
): string {
  const path = join(folder, name);
  run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, size]);
  qemuIo(path, WRITES);
  return path;
}

export function snapshot(path: string, name: string): void {
  run('qemu-img', ['snapshot', '-c', name, path]);
}

/** A compressed copy with these creation options. */
export function compressed(path: string, options: string): string {
  const copy = path.replace(/\.qcow2$/, '.compressed.qcow2');
  run('qemu-img', ['convert', '-c', '-O', 'qcow2', '-o', options, path, copy]);
  return copy;
}

/** A mebibyte in clusters of 4 KiB, with snapshots, bitmaps and compressed clusters: every structure there is. */
export function makeRichImage(folder: string): string {
  const path = compressed(makeImage(folder, 'cluster_size=4k'), 'cluster_size=4k');
  snapshot(path, 'first');
  qemuIo(path, ['write -P 5 0 30k', 'write -P 6 1M 30k', 'write -z 600k 16k']);
  snapshot(path, 'second');
  qemuIo(path, ['write -P 7 8k 8k']);
  run('qemu-img', ['bitmap', '--add', '--enable', '-g', '512', path, 'changes']);
  qemuIo(path, ['write -P 8 2M 16k']);
  return path;
}

/** What `qemu-img check --output=json` tells; it leaves out what is 0. */
interface QemuReport {
  readonly corruptions?: number;
  readonly leaks?: number;
  readonly 'check-errors': number;
  readonly 'total-clusters'?: number;
  readonly 'allocated-clusters'?: number;
  readonly 'fragmented-clusters'?: number;
  readonly 'compressed-clusters'?: number;
  readonly 'image-end-offset'?: number;
}

/** An exit status of `qemu-img check`, and the counts where it tells any. */
export interface Verdict {
  readonly status: number;
  readonly counts: Record<string, number> | undefined;
}

/** How qemu-img exits for each verdict of ours. */
const STATUS = { clean: 0, failed: 1, corrupt: 2, leaks: 3 } as const;

/** The verdict of qemu-img on `image`: the arguments that name it. */
export function qemuVerdict(...image: readonly string[]): Verdict {
  // It may tell of each cluster on standard error.
  const { status, stdout } = spawnSync('qemu-img', ['check', '--output=json', ...image], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  if (status === null) throw new Error('qemu-img check was killed');
  if (stdout.length === 0) return { status, counts: undefined };
  const report = JSON.parse(stdout.toString()) as QemuReport;
  const counts = {
    corruptions: report.corruptions ?? 0,
    leaks: report.leaks ?? 0,
    checkErrors: report['check-errors'],
    totalClusters: report['total-clusters'] ?? 0,
    allocatedClusters: report['allocated-clusters'] ?? 0,
    fragmentedClusters: report['fragmented-clusters'] ?? 0,
    compressedClusters: report['compressed-clusters'] ?? 0,
    imageEnd: report['image-end-offset'] ?? 0,
  };
  return { status, counts };
}

export interface OwnVerdict extends Verdict {
  readonly report: CheckReport | undefined;
  readonly error: SparsecopyError | undefined;
}

/** Ours; any other error than a SparsecopyError is thrown on. */
export async function ownVerdict(path: string): Promise<OwnVerdict> {
  let report: CheckReport;
  try {
    report = await check(path, { format: 'qcow2' });
  } catch (error) {
    if (!isSparsecopyError(error)) throw error;
    return { status: 1, counts: undefined, report: undefined, error };
  }
  const {
    corruptions,
    leaks,
    checkErrors,
    totalClusters,
    allocatedClusters,
    fragmentedClusters,
    compressedClusters,
    imageEnd,
  } = report;
  // Everything counted is told of, up to the limit.
  const most = Math.min(100, corruptions + leaks + checkErrors);
  expect(report.problems.length).toBeLessThanOrEqual(most);
  expect(report.problems.length > 0).toBe(most > 0);
  return {
    status: STATUS[report.verdict],
    counts: {
      corruptions,
      leaks,
      checkErrors,
      totalClusters,
      allocatedClusters,
      fragmentedClusters,
      compressedClusters,
      imageEnd,
    },
    report,
    error: undefined,
  };
}

/**
 * Asserts that the image at `path` is to us what it is to qemu-img, and gives the verdict. Where the header says that a table
 * lies where it cannot be, we stop: then only the exit status is compared.
 */
export async function expectSameVerdict(
  path: string,
  image: readonly string[] = ['-f', 'qcow2', path],
  what = '',
): Promise<OwnVerdict> {
  const theirs = qemuVerdict(...image);
  const ours = await ownVerdict(path);
  const problems = ours.error?.message ?? JSON.stringify(ours.report?.problems.slice(0, 3));
  const told = `${what}: ${problems}`;
  expect(ours.status, told).toBe(theirs.status);
  const stopped = ours.report?.problems[0]?.sentence.includes('header field') === true;
  if (!stopped && theirs.counts !== undefined && ours.counts !== undefined) {
    expect(ours.counts, told).toEqual(theirs.counts);
  }
  return ours;
}

/** A table or block of an image: `unit` is the size of what it consists of, in bytes. */
export interface Structure {
  readonly kind: string;
  readonly offset: number;
  readonly length: number;
  readonly unit: number;
}

const OFFSET = 0x00fffffffffffe00n;
const BITMAPS = 0x23852875;

/** Where the structures of a sound image lie. */
export function structuresOf(image: Buffer): Structure[] {
  const clusterSize = 2 ** image.readUInt32BE(20);
  const isVersion3 = image.readUInt32BE(4) === 3;
  const entrySize = isVersion3 && (image.readUInt8(79) & 16) !== 0 ? 16 : 8;
  const structures: Structure[] = [];
  const add = (kind: string, offset: number, length: number, unit: number): void => {
    if (length > 0 && offset + length <= image.length) {
      structures.push({ kind, offset, length, unit });
    }
  };
  const u64 = (at: number): number => Number(image.readBigUInt64BE(at));

  const addTables = (offset: number, count: number, suffix: string): void => {
    add(`L1${suffix}`, offset, count * 8, 8);
    for (let at = offset; at < offset + count * 8; at += 8) {
      const table = Number(image.readBigUInt64BE(at) & OFFSET);
      if (table > 0) add(`L2${suffix}`, table, clusterSize, entrySize);
    }
  };
  addTables(u64(40), image.readUInt32BE(36), '');

  const refcountTable = u64(48);
  const refcountBits = isVersion3 ? 2 ** image.readUInt32BE(96) : 16;
  add('refcount table', refcountTable, Math.min(clusterSize, 512), 8);
  for (let at = refcountTable; at < refcountTable + clusterSize; at += 8) {
    const unit = Math.max(1, refcountBits / 8);
    if (u64(at) > 0) add('refcount block', u64(at), Math.min(clusterSize, 4096), unit);
  }

  let at = u64(64);
  for (let left = image.readUInt32BE(60); left > 0; left--) {
    const extra = image.readUInt32BE(at + 36);
    add('snapshot', at, 40 + extra, 4);
    addTables(u64(at), image.readUInt32BE(at + 8), ' of a snapshot');
    const end = at + 40 + extra + image.readUInt16BE(at + 12) + image.readUInt16BE(at + 14);
    at = end + ((8 - (end % 8)) % 8);
  }

  add('header', 4, 68, 4);
  if (!isVersion3) return structures;
  add('features', 72, 32, 4);
  for (at = image.readUInt32BE(100); at < clusterSize;) {
    const type = image.readUInt32BE(at);
    const length = image.readUInt32BE(at + 4);
    if (type === 0) break;
    if (type === BITMAPS) {
      add('bitmaps extension', at, 8 + length, 4);
      const end = u64(at + 24) + u64(at + 16);
      for (let entry = u64(at + 24); entry < end;) {
        const next = entry + 24 + image.readUInt16BE(entry + 18);
        add('bitmap', entry, 24, 4);
        add('bitmap table', u64(entry), image.readUInt32BE(entry + 8) * 8, 8);
        entry = next + ((8 - (next % 8)) % 8);
      }
    }
    at += 8 + length + ((8 - (length % 8)) % 8);
  }
  return structures;
}

/** The structure of this kind with this number among its kind. */
export function structureOf(image: Buffer, kind: string, number = 0): Structure {
  const found = structuresOf(image).filter((structure) => structure.kind === kind)[number];
  if (found === undefined) throw new Error(`the image has no ${kind} ${number}`);
  return found;
}
