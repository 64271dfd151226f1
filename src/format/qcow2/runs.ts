/** What an L2 table says of a range of the disk, as runs: the checks that tie an entry to the file it points into. */

import { alignUp } from '../../bytes.ts';
import { SparsecopyError, type ErrorCode } from '../../errors.ts';
import { decodeL2Entry, ENTRY_SIZE } from './entry.ts';
import type { Header } from './header.ts';

/** Where things lie in an image: what entries are checked against. All in bytes. */
export interface Layout {
  /** Of the file, for messages. */
  readonly name: string;
  readonly fileSize: number;
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly virtualSize: number;
  readonly l1Offset: number;
  /** Exclusive, rounded up to whole clusters. */
  readonly l1End: number;
  /** Count of L1 entries that the virtual size needs. */
  readonly l1Needed: number;
  /** How much of the disk one L2 table describes. */
  readonly l2Coverage: number;
}

/** An L2 table, or as much of it as the virtual size needs. */
export interface L2Table {
  readonly hostOffset: number;
  /** Start of the range of the disk that it describes. */
  readonly guestOffset: number;
  readonly view: DataView;
}

/** A range of the disk that no L2 table describes, or that one L2 table does. */
export type Part = ZeroRun | (Range & { readonly kind: 'table'; readonly table: L2Table });

/** A range of the disk that is of one kind. */
export type Run = ZeroRun | PlainRun | CompressedRun;

interface ZeroRun extends Range {
  readonly kind: 'zero';
}

/** In one piece at `hostOffset`, of one cluster or several. */
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

/** The layout of an image with this header in a file of `fileSize` bytes. */
export function layoutOf(header: Header, name: string, fileSize: number): Layout {
  const { version, clusterBits, clusterSize, virtualSize, l1Offset, l1Size } = header;
  const l2Coverage = clusterSize * (clusterSize / ENTRY_SIZE);
  return {
    name,
    fileSize,
    version,
    clusterBits,
    clusterSize,
    virtualSize,
    l1Offset,
    l1End: alignUp(l1Offset + l1Size * ENTRY_SIZE, clusterSize),
    l1Needed: Math.ceil(virtualSize / l2Coverage),
    l2Coverage,
  };
}

/**
 * The runs of `part`: ascending, gapless, zero runs and adjacent plain clusters joined.
 * @throws SparsecopyError `CORRUPT`, `TRUNCATED` when an entry is not allowed or points where no cluster can be.
 */
export function* runsOf(layout: Layout, part: Part): Generator<Run, void, void> {
  if (part.kind === 'zero') {
    yield part;
    return;
  }
  const { clusterBits, clusterSize, version } = layout;
  const { table } = part;
  const end = part.offset + part.length;
  /** The run that may still grow. */
  let run: Writable<ZeroRun | PlainRun> | undefined;
  /** Entries before this one speak of clusters that lie before `end` as a whole. */
  const wholeEnd = Math.floor((end - table.guestOffset) / clusterSize);
  let index = Math.floor((part.offset - table.guestOffset) / clusterSize);
  for (let offset = part.offset; offset < end;) {
    const cluster = table.guestOffset + index * clusterSize;
    const high = table.view.getUint32(index * ENTRY_SIZE);
    const low = table.view.getUint32(index * ENTRY_SIZE + 4);
    const entry = decodeL2Entry(high, low, clusterBits, version);
    const alike =
      entry.kind === 'compressed'
        ? 0
        : countAlike(table, index, wholeEnd, entry.kind === 'plain' ? clusterSize : 0);
    const next = Math.min(cluster + (1 + alike) * clusterSize, end);
    const length = next - offset;
    switch (entry.kind) {
      case 'unallocated':
      case 'zero':
        if (run?.kind === 'zero') {
          run.length += length;
        } else {
          if (run !== undefined) yield run;
          run = { kind: 'zero', offset, length };
        }
        break;
      case 'plain': {
        const hostOffset = entry.hostOffset + (offset - cluster);
        // Only what the disk needs must be there: a file may end with the last byte that was written to it.
        if (!isInPlace(layout, hostOffset, length)) {
          throw misplaced(layout, entryName(table, index, alike), hostOffset, length);
        }
        if (run?.kind === 'plain' && run.hostOffset + run.length === hostOffset) {
          run.length += length;
        } else {
          if (run !== undefined) yield run;
          run = { kind: 'plain', offset, length, hostOffset };
        }
        break;
      }
      case 'compressed': {
        const { hostOffset, hostLength } = entry;
        // The length counts whole sectors, and may count too many: where the data end only they know.
        if (!isInPlace(layout, hostOffset, 1)) {
          throw misplaced(layout, entryName(table, index), hostOffset, hostLength);
        }
        if (run !== undefined) yield run;
        run = undefined;
        yield { kind: 'compressed', offset, length, hostOffset, hostLength };
        break;
      }
      case 'invalid': {
        const sentence = `${entryName(table, index)} ${entry.why}`;
        throw placed(layout, 'CORRUPT', sentence, table.hostOffset + index * ENTRY_SIZE);
      }
    }
    offset = next;
    index += 1 + alike;
  }
  if (run !== undefined) yield run;
}

/**
 * How many entries behind the one at `index`, and before `end`, are equal to the one before but for an offset that is
 * `step` larger: most clusters follow their neighbours, and this is ten times as fast as decoding each.
 */
function countAlike({ view }: L2Table, index: number, end: number, step: number): number {
  const high = view.getUint32(index * ENTRY_SIZE);
  let low = view.getUint32(index * ENTRY_SIZE + 4);
  let next = index + 1;
  for (; next < end; next++) {
    // beyond 32 bits it equals nothing: the next round has the carry
    low += step;
    if (view.getUint32(next * ENTRY_SIZE + 4) !== low) break;
    if (view.getUint32(next * ENTRY_SIZE) !== high) break;
  }
  return next - index - 1;
}

/** True when there can be `length` bytes of a cluster or table at `hostOffset`. */
export function isInPlace(layout: Layout, hostOffset: number, length: number): boolean {
  return hostOffset + length <= layout.fileSize && !isMetadata(layout, hostOffset, length);
}

/** The error for `what`, which is not in place. */
export function misplaced(
  layout: Layout,
  what: string,
  hostOffset: number,
  length: number,
): SparsecopyError {
  if (isMetadata(layout, hostOffset, length)) {
    const sentence = `${what} needs ${length} bytes at ${hostOffset}, in the header or the L1 table`;
    return placed(layout, 'CORRUPT', sentence, hostOffset);
  }
  return new SparsecopyError(
    'TRUNCATED',
    `${what} needs ${length} bytes at ${hostOffset}, file ends at ${layout.fileSize}`,
    {
      source: layout.name,
      offset: hostOffset,
      expected: hostOffset + length,
      found: layout.fileSize,
    },
  );
}

/** True when a range of the file touches the header's cluster or the L1 table. */
function isMetadata(layout: Layout, hostOffset: number, length: number): boolean {
  return (
    hostOffset < layout.clusterSize ||
    (hostOffset < layout.l1End && hostOffset + length > layout.l1Offset)
  );
}

export function placed(
  layout: Layout,
  code: ErrorCode,
  sentence: string,
  offset: number,
): SparsecopyError {
  return new SparsecopyError(code, sentence, { source: layout.name, offset });
}

/** Names the entry at `index`, and the `more` ones behind it. */
function entryName(table: L2Table, index: number, more = 0): string {
  const entries = more === 0 ? `entry ${index}` : `entries ${index} to ${index + more}`;
  return `${entries} of the L2 table at ${table.hostOffset}`;
}
