/** Where in a file an image has its parts, as far as its header tells, and where nothing else can be. */

import { alignUp } from '../../bytes.ts';
import { SparsecopyError, type ErrorCode } from '../../errors.ts';
import { ENTRY_SIZE, EXTENDED_ENTRY_SIZE } from './entry.ts';
import { hasDataFile, hasExtendedL2, hasLuks } from './features.ts';
import type { Header } from './header.ts';

/** An entry of the snapshot table without its id, name and extra data, in bytes. */
const LEAST_SNAPSHOT_SIZE = 40;

/** Where things lie in an image: what entries are checked against. All in bytes. */
export interface Layout {
  /** Of the file, for messages. */
  readonly name: string;
  readonly fileSize: number;
  /** True when plain clusters lie in another file, each where it lies on the disk. */
  readonly hasDataFile: boolean;
  /** Name, for messages, and size of the file in which plain clusters lie: this one, or the data file. */
  readonly dataName: string;
  readonly dataSize: number;
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly virtualSize: number;
  readonly l1Offset: number;
  /** Exclusive, rounded up to whole clusters. */
  readonly l1End: number;
  /** Count of L1 entries that the virtual size needs. */
  readonly l1Needed: number;
  /** Size of an L2 entry: 16 with extended L2 entries, else 8. */
  readonly entrySize: 8 | 16;
  /** How much of the disk one L2 table describes. */
  readonly l2Coverage: number;
  /** What of the file belongs to the image as such, as far as the header tells: no table and no cluster may lie there. */
  readonly metadata: readonly Metadata[];
}

/** A range of the file, in bytes. */
interface Metadata {
  readonly what: string;
  readonly hostOffset: number;
  readonly length: number;
}

/** What of a header may be that of an internal snapshot instead. */
export type View = Pick<Header, 'virtualSize' | 'l1Offset' | 'l1Size'>;

/**
 * The layout of an image with this header in a file of `fileSize` bytes, its data in `dataFile` if it has one, as `view`
 * has it: the disk as it is now, or one of the snapshots.
 */
export function layoutOf(
  header: Header,
  name: string,
  fileSize: number,
  dataFile?: { readonly name: string; readonly size: number },
  view: View = header,
): Layout {
  const { version, clusterBits, clusterSize } = header;
  const { virtualSize, l1Offset, l1Size } = view;
  const entrySize = hasExtendedL2(header) ? EXTENDED_ENTRY_SIZE : ENTRY_SIZE;
  const l2Coverage = clusterSize * (clusterSize / entrySize);
  return {
    name,
    fileSize,
    hasDataFile: hasDataFile(header),
    dataName: dataFile?.name ?? name,
    dataSize: dataFile?.size ?? fileSize,
    version,
    clusterBits,
    clusterSize,
    virtualSize,
    l1Offset,
    l1End: alignUp(l1Offset + l1Size * ENTRY_SIZE, clusterSize),
    l1Needed: Math.ceil(virtualSize / l2Coverage),
    entrySize,
    l2Coverage,
    metadata: metadataOf(header, view),
  };
}

function metadataOf(header: Header, view: View): Metadata[] {
  const { clusterSize } = header;
  const l1Of = (what: string, { l1Offset, l1Size }: View): Metadata => ({
    what,
    hostOffset: l1Offset,
    length: l1Size * ENTRY_SIZE,
  });
  const all: Metadata[] = [
    { what: 'header', hostOffset: 0, length: clusterSize },
    l1Of('L1 table', header),
    {
      what: 'refcount table',
      hostOffset: header.refcountTableOffset,
      length: header.refcountTableClusters * clusterSize,
    },
    {
      what: 'snapshot table',
      hostOffset: header.snapshotsOffset,
      // its entries differ in length: so much of it is there at least
      length: header.snapshotCount * LEAST_SNAPSHOT_SIZE,
    },
  ];
  if (view.l1Offset !== header.l1Offset) all.push(l1Of('L1 table of the snapshot', view));
  if (header.cryptoHeader !== undefined && hasLuks(header)) {
    const { offset, length } = header.cryptoHeader;
    all.push({ what: 'encryption header', hostOffset: offset, length });
  }
  return all.filter(({ length }) => length > 0);
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
