/** What an L2 table says of a range of the disk, as runs: the checks that tie an entry to the file it points into. */

import { quoteUntrusted, SparsecopyError } from '../../errors.ts';
import {
  decodeExtendedL2Entry,
  decodeL2Entry,
  ENTRY_SIZE,
  EXTENDED_ENTRY_SIZE,
  SUBCLUSTER_COUNT_BITS,
  type L2Entry,
  type SubclusterEntry,
} from './entry.ts';
import { isInPlace, misplaced, placed, type Layout } from './layout.ts';

/** An L2 table, or as much of it as the virtual size needs. */
export interface L2Table {
  readonly hostOffset: number;
  /** Start of the range of the disk that it describes. */
  readonly guestOffset: number;
  readonly view: DataView;
}

/** A range of the disk that no L2 table describes, or that one L2 table does. */
export type Part = UnallocatedRun | (Range & { readonly kind: 'table'; readonly table: L2Table });

/** A range of the disk that is of one kind. */
export type Run = UnallocatedRun | ZeroRun | PlainRun | CompressedRun;

/** Reads as the backing file; without one, and beyond its end, as zeros. */
export interface UnallocatedRun extends Range {
  readonly kind: 'unallocated';
}

/** Reads as zeros, whatever the backing file has. */
interface ZeroRun extends Range {
  readonly kind: 'zero';
}

/** In one piece at `hostOffset`, of one cluster or several, or of subclusters. */
export interface PlainRun extends Range {
  readonly kind: 'plain';
  readonly hostOffset: number;
}

/** A range of one cluster; `hostOffset` and `hostLength` are those of all its compressed data. */
export interface CompressedRun extends Range {
  readonly kind: 'compressed';
  readonly hostOffset: number;
  readonly hostLength: number;
}

/** Of the disk, in bytes. */
interface Range {
  readonly offset: number;
  readonly length: number;
}

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

/**
 * The runs of `part`: ascending, gapless, neighbours that can be one run joined.
 * @throws SparsecopyError `CORRUPT`, `TRUNCATED` when an entry is not allowed or points where no cluster can be.
 */
export function* runsOf(layout: Layout, part: Part): Generator<Run, void, void> {
  if (part.kind === 'unallocated') {
    yield part;
    return;
  }
  const { clusterSize } = layout;
  const { table } = part;
  const end = part.offset + part.length;
  /** The run that may still grow. */
  let run: GrowingRun | undefined;
  /** Entries before this one speak of clusters that lie before `end` as a whole. */
  const wholeEnd = Math.floor((end - table.guestOffset) / clusterSize);
  let index = Math.floor((part.offset - table.guestOffset) / clusterSize);
  for (let offset = part.offset; offset < end;) {
    const cluster = table.guestOffset + index * clusterSize;
    const entry = entryAt(layout, table, index);
    switch (entry.kind) {
      case 'unallocated':
      case 'zero':
      case 'plain': {
        const alike = countAlike(layout, table, index, wholeEnd, entry.kind);
        const next = Math.min(cluster + (1 + alike) * clusterSize, end);
        const length = next - offset;
        const grown: GrowingRun =
          entry.kind === 'plain'
            ? { kind: 'plain', offset, length, hostOffset: entry.hostOffset + (offset - cluster) }
            : { kind: entry.kind, offset, length };
        if (grown.kind === 'plain') checkPlain(layout, grown, table, index, alike);
        if (run !== undefined && joins(run, grown)) run.length += length;
        else {
          if (run !== undefined) yield run;
          run = grown;
        }
        offset = next;
        index += 1 + alike;
        break;
      }
      case 'subclusters': {
        const next = Math.min(cluster + clusterSize, end);
        for (const grown of subclusterRuns(layout, entry, cluster, offset, next)) {
          if (grown.kind === 'plain') checkPlain(layout, grown, table, index);
          if (run !== undefined && joins(run, grown)) run.length += grown.length;
          else {
            if (run !== undefined) yield run;
            run = grown;
          }
        }
        offset = next;
        index++;
        break;
      }
      case 'compressed': {
        const next = Math.min(cluster + clusterSize, end);
        const { hostOffset, hostLength } = entry;
        // The length counts whole sectors, and may count too many: where the data end only they know.
        if (!isInPlace(layout, hostOffset, 1)) {
          throw misplaced(layout, entryName(table, index), hostOffset, hostLength);
        }
        if (run !== undefined) yield run;
        run = undefined;
        yield { kind: 'compressed', offset, length: next - offset, hostOffset, hostLength };
        offset = next;
        index++;
        break;
      }
      case 'invalid': {
        const sentence = `${entryName(table, index)} ${entry.why}`;
        throw placed(layout, 'CORRUPT', sentence, table.hostOffset + index * layout.entrySize);
      }
    }
  }
  if (run !== undefined) yield run;
}

type GrowingRun = Writable<UnallocatedRun | ZeroRun | PlainRun>;

/** True when `next`, which follows `run` on the disk, also continues it in the file. */
function joins(run: GrowingRun, next: GrowingRun): boolean {
  return run.kind === 'plain' && next.kind === 'plain'
    ? run.hostOffset + run.length === next.hostOffset
    : run.kind === next.kind;
}

function entryAt(
  { clusterBits, version, entrySize, hasDataFile }: Layout,
  { view }: L2Table,
  index: number,
): L2Entry {
  const at = index * entrySize;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  return entrySize === ENTRY_SIZE
    ? decodeL2Entry(high, low, clusterBits, version, hasDataFile)
    : decodeExtendedL2Entry(
        high,
        low,
        view.getUint32(at + 8),
        view.getUint32(at + 12),
        clusterBits,
        hasDataFile,
      );
}

/** What `entry` says of the range from `start` to `end` (exclusive) of the cluster at `cluster`. */
function* subclusterRuns(
  { clusterBits }: Layout,
  { hostOffset, allocated, zeros }: SubclusterEntry,
  cluster: number,
  start: number,
  end: number,
): Generator<GrowingRun, void, void> {
  const bits = clusterBits - SUBCLUSTER_COUNT_BITS;
  const kindOf = (number: number): GrowingRun['kind'] =>
    ((allocated >>> number) & 1) === 1
      ? 'plain'
      : ((zeros >>> number) & 1) === 1
        ? 'zero'
        : 'unallocated';
  for (let offset = start; offset < end;) {
    let number = (offset - cluster) >>> bits;
    const kind = kindOf(number);
    let next = offset;
    while (next < end && kindOf(number) === kind) next = cluster + (++number << bits);
    const length = Math.min(next, end) - offset;
    yield kind === 'plain'
      ? { kind, offset, length, hostOffset: hostOffset + (offset - cluster) }
      : { kind, offset, length };
    offset += length;
  }
}

/**
 * How many entries behind the one at `index`, which is of kind `kind`, and before `end`, are equal to the one before but
 * for an offset that is a cluster larger where they are plain: most clusters follow their neighbours, and this is ten
 * times as fast as decoding each.
 */
function countAlike(
  { clusterSize, entrySize }: Layout,
  { view }: L2Table,
  index: number,
  end: number,
  kind: 'unallocated' | 'zero' | 'plain',
): number {
  const step = kind === 'plain' ? clusterSize : 0;
  const start = index * entrySize;
  const high = view.getUint32(start);
  // beyond 32 bits it equals nothing: the next round has the carry
  let low = view.getUint32(start + 4) + step;
  let next = index + 1;
  if (entrySize === ENTRY_SIZE) {
    for (; next < end; next++, low += step) {
      if (view.getUint32(next * ENTRY_SIZE + 4) !== low) break;
      if (view.getUint32(next * ENTRY_SIZE) !== high) break;
    }
  } else {
    const zeros = view.getUint32(start + 8);
    const allocated = view.getUint32(start + 12);
    for (; next < end; next++, low += step) {
      const at = next * EXTENDED_ENTRY_SIZE;
      if (view.getUint32(at + 4) !== low) break;
      if (view.getUint32(at) !== high) break;
      if (view.getUint32(at + 8) !== zeros) break;
      if (view.getUint32(at + 12) !== allocated) break;
    }
  }
  return next - index - 1;
}

/** Only what the disk needs must be there: a file may end with the last byte that was written to it. */
function checkPlain(
  layout: Layout,
  { offset, hostOffset, length }: PlainRun,
  table: L2Table,
  index: number,
  alike = 0,
): void {
  if (!layout.hasDataFile) {
    if (isInPlace(layout, hostOffset, length)) return;
    throw misplaced(layout, entryName(table, index, alike), hostOffset, length);
  }
  const name = entryName(table, index, alike);
  const place = table.hostOffset + index * layout.entrySize;
  if (hostOffset !== offset) {
    const sentence = `${name} has disk offset ${offset} at ${hostOffset} of the data file, expected the same offset`;
    throw placed(layout, 'CORRUPT', sentence, place);
  }
  if (hostOffset + length > layout.dataSize) throw beyondDataFile(layout, name, hostOffset, length);
}

/** The error for `what`, which is not in the data file as a whole. */
function beyondDataFile(
  { name, dataName, dataSize }: Layout,
  what: string,
  hostOffset: number,
  length: number,
): SparsecopyError {
  return new SparsecopyError(
    'TRUNCATED',
    `${what} needs ${length} bytes at ${hostOffset} of the data file ${quoteUntrusted(dataName)}, which ends at ${dataSize}`,
    { source: name, offset: hostOffset, expected: hostOffset + length, found: dataSize },
  );
}

/** Names the entry at `index`, and the `more` ones behind it. */
function entryName(table: L2Table, index: number, more = 0): string {
  const entries = more === 0 ? `entry ${index}` : `entries ${index} to ${index + more}`;
  return `${entries} of the L2 table at ${table.hostOffset}`;
}
