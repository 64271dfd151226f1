/** The snapshot table of a qcow2 file: entries of variable length, and which of them a caller means by a name. */

import { alignUp } from '../../bytes.ts';
import { quoteUntrusted, SparsecopyError, type ErrorCode } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { SnapshotDetails, Source } from '../../types.ts';
import { makeArea } from './area.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { Header } from './header.ts';

/** The part of an entry that each has, in bytes. */
const FIXED_SIZE = 40;

/** Extra data that holds both of the defined fields, in bytes; version 3 demands it. */
const KNOWN_EXTRA = 16;

/** qemu's QCOW_MAX_SNAPSHOT_EXTRA_DATA: it opens no image with more, and none is defined beyond 24 bytes. */
const MOST_EXTRA = 1024;

/** Size of an entry as qemu writes it, with some room; more is read when it is needed. */
const USUAL_SIZE = 128;

/** How many names a message lists. */
const LISTED = 5;

/** The incompatible feature bit of extended L2 entries, which are twice as long. */
const EXTENDED_L2_BIT = 4;

/** An entry of the snapshot table. */
export interface Snapshot extends SnapshotDetails {
  /** Where its L1 table lies in the file, in bytes; not exact from 2^53 on. */
  readonly l1Offset: number;
  /** False when that is no multiple of the cluster size. */
  readonly isAligned: boolean;
  /** Count of entries in its L1 table. */
  readonly l1Size: number;
  /**
   * Refuses a snapshot whose disk cannot be read, though others of the image can.
   * @throws SparsecopyError `CORRUPT`, `LIMIT`.
   */
  readonly refuseUnreadable: () => void;
}

/** The snapshot table, with what only a check asks for. */
export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[];
  /** Size of the table in bytes. */
  readonly length: number;
  /** Indices of entries without the extra data that version 3 demands. */
  readonly incomplete: readonly number[];
}

/**
 * Reads the snapshots of the image in `file`. A snapshot whose own tables cannot be read is no error: the image's disk
 * does not depend on it.
 * @throws SparsecopyError `CORRUPT`, `TRUNCATED` (the table goes beyond the end of the file), `LIMIT`.
 * Specification: "Snapshots".
 */
export async function readSnapshots(
  file: Source,
  header: Header,
  limits: Limits,
): Promise<readonly Snapshot[]> {
  if (header.snapshotCount > 0 && header.snapshotsOffset === 0) {
    throw new SparsecopyError(
      'CORRUPT',
      `header field snapshots_offset is 0 with ${header.snapshotCount} snapshots, expected an offset beyond the header`,
      { source: file.name, offset: 64, found: 0 },
    );
  }
  return (await readSnapshotTable(file, header, limits)).snapshots;
}

/**
 * Reads the snapshot table wherever it lies.
 * @throws SparsecopyError `TRUNCATED`, `LIMIT`.
 */
export async function readSnapshotTable(
  file: Pick<Source, 'name' | 'size' | 'read'>,
  header: Header,
  limits: Limits,
): Promise<SnapshotTable> {
  const { snapshotCount, snapshotsOffset, version } = header;
  const snapshots: Snapshot[] = [];
  const incomplete: number[] = [];
  if (snapshotCount === 0) return { snapshots, length: 0, incomplete };
  const area = makeArea(file, snapshotsOffset, limits, 'qcow2SnapshotTableSize');
  await area.need(Math.min(snapshotCount * USUAL_SIZE, area.most));
  let end = 0;
  for (let index = 0; index < snapshotCount; index++) {
    const what = `entry ${index} of the snapshot table at ${snapshotsOffset}`;
    const at = alignUp(end, 8);
    await area.need(at + FIXED_SIZE, what);
    // 0: offset of the L1 table, 8: count of its entries, 12: length of the id, 14: length of the name,
    // 16: date in seconds, 20: its nanoseconds, 24: the guest's clock in nanoseconds,
    // 32: size of the VM state, 36: length of the extra data
    const extraLength = area.u32(at + 36);
    if (extraLength > MOST_EXTRA) {
      throw new SparsecopyError(
        'LIMIT',
        `${what} has ${extraLength} bytes of extra data, expected at most ${MOST_EXTRA}`,
        {
          source: file.name,
          offset: snapshotsOffset + at + 36,
          expected: MOST_EXTRA,
          found: extraLength,
        },
      );
    }
    const idStart = at + FIXED_SIZE + extraLength;
    const nameStart = idStart + area.u16(at + 12);
    end = nameStart + area.u16(at + 14);
    await area.need(end, what);
    // 40: size of the VM state, which then replaces that at 32; 48: size of the disk; 56: count of instructions
    const vmStateSize = extraLength >= 8 ? area.u64(at + 40) : area.u32(at + 32);
    if (extraLength < KNOWN_EXTRA && version >= 3) incomplete.push(index);
    const l1Offset = area.u64(at);
    const isAligned = area.u32(at + 4) % header.clusterSize === 0;
    const l1Size = area.u32(at + 8);
    const virtualSize = extraLength >= KNOWN_EXTRA ? area.u64(at + 48) : header.virtualSize;
    snapshots.push({
      id: area.text(idStart, nameStart),
      name: area.text(nameStart, end),
      virtualSize,
      date: area.u32(at + 16),
      vmStateSize,
      l1Offset,
      l1Size,
      isAligned,
      refuseUnreadable: () =>
        refuseUnreadable(
          { l1Offset, l1Size, isAligned, virtualSize },
          header,
          limits,
          file.name,
          snapshotsOffset + at,
        ),
    });
  }
  return { snapshots, length: end, incomplete };
}

/**
 * The snapshot with the id `nameOrId`, or else the first one with that name, as qemu-img looks for it.
 * @throws SparsecopyError `FORMAT` when there is none; `CORRUPT` or `LIMIT` when its disk cannot be read.
 */
export function findSnapshot(
  snapshots: readonly Snapshot[],
  nameOrId: string,
  fileName: string,
): Snapshot {
  const snapshot =
    snapshots.find(({ id }) => id === nameOrId) ?? snapshots.find(({ name }) => name === nameOrId);
  if (snapshot === undefined) {
    const listed = snapshots
      .slice(0, LISTED)
      .map(({ id, name }) => `${quoteUntrusted(name)} (id ${quoteUntrusted(id)})`);
    if (snapshots.length > LISTED) listed.push(`and ${snapshots.length - LISTED} more`);
    const found = listed.length === 0 ? 'none at all' : listed.join(', ');
    throw new SparsecopyError(
      'FORMAT',
      `has no snapshot ${quoteUntrusted(nameOrId)}; it has ${found}`,
      { source: fileName, expected: nameOrId, found },
    );
  }
  snapshot.refuseUnreadable();
  return snapshot;
}

function refuseUnreadable(
  {
    l1Offset,
    l1Size,
    isAligned,
    virtualSize,
  }: Omit<Snapshot, keyof SnapshotDetails | 'refuseUnreadable'> & Pick<Snapshot, 'virtualSize'>,
  { clusterSize, incompatible }: Header,
  limits: Limits,
  name: string,
  offset: number,
): void {
  const fail = (
    code: ErrorCode,
    sentence: string,
    at: number,
    limit?: keyof Limits,
  ): SparsecopyError =>
    new SparsecopyError(code, `snapshot table entry at ${offset} ${sentence}`, {
      source: name,
      offset: offset + at,
      ...(limit === undefined ? {} : { limit }),
    });
  if (virtualSize > limits.virtualSize) {
    const sentence = `has a virtual size of ${virtualSize}, at most ${limits.virtualSize} is allowed`;
    throw fail('LIMIT', sentence, 48, 'virtualSize');
  }
  const entrySize = incompatible.includes(EXTENDED_L2_BIT) ? 2 * ENTRY_SIZE : ENTRY_SIZE;
  const needed = Math.ceil(virtualSize / clusterSize / (clusterSize / entrySize));
  const most = limits.qcow2L1Size / ENTRY_SIZE;
  if (l1Size < needed || l1Size > most) {
    const sentence = `has an L1 table of ${l1Size} entries, expected ${needed} (for ${virtualSize} bytes) to ${most}`;
    throw fail('CORRUPT', sentence, 8);
  }
  if (l1Offset > Number.MAX_SAFE_INTEGER || !isAligned || (l1Offset === 0 && needed > 0)) {
    const sentence = `has its L1 table at ${l1Offset}, expected a multiple of the cluster size ${clusterSize} beyond the header`;
    throw fail('CORRUPT', sentence, 0);
  }
}
