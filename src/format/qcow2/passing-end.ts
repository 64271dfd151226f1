/** What an image that has passed lacks, now that its end is known: the errors that reading it with seeks begins with. */

import { SparsecopyError } from '../../errors.ts';
import { ENTRY_SIZE } from './entry.ts';
import { misplaced, type Layout } from './layout.ts';
import { beyond, type PassingTables } from './passing-tables.ts';
import type { CompressedRun, PlainRun } from './runs.ts';

/** What is known at the end of the file. */
export interface Passed {
  /** With the size of the file. */
  readonly layout: Layout;
  readonly refcountTableOffset: number;
  /** The place of an encryption header that is needed and has not come. */
  readonly crypto: { readonly offset: number; readonly length: number } | undefined;
  /** Absent when the L1 table has not come. */
  readonly tables: PassingTables | undefined;
  /** Of which something has not come. */
  readonly runs: Iterable<PlainRun | CompressedRun>;
}

/**
 * Refuses an image that names what lies beyond the end of the file: of several things that which comes first on the disk.
 * @throws SparsecopyError `TRUNCATED`; `CORRUPT` when there are more tables than the file has room for.
 */
export function refuseShort({ layout, refcountTableOffset, crypto, tables, runs }: Passed): void {
  const { fileSize, l1Offset, l1Needed, name } = layout;
  const ends = (what: string, offset: number, expected?: number): SparsecopyError =>
    new SparsecopyError('TRUNCATED', `${what}, file ends at ${fileSize}`, {
      source: name,
      offset,
      found: fileSize,
      ...(expected === undefined ? {} : { expected }),
    });
  if (crypto !== undefined) {
    throw misplaced(layout, 'encryption header', crypto.offset, crypto.length);
  }
  if (refcountTableOffset >= fileSize) {
    throw ends(`refcount table is at ${refcountTableOffset}`, refcountTableOffset);
  }
  if (tables === undefined) {
    const length = l1Needed * ENTRY_SIZE;
    throw ends(`L1 table at ${l1Offset} needs ${length} bytes`, l1Offset, l1Offset + length);
  }
  const table = tables.firstBeyond(fileSize);
  let first: PlainRun | CompressedRun | undefined;
  for (const run of runs) {
    if (isBeyond(layout, run) && run.offset < (first?.offset ?? Infinity)) first = run;
  }
  if (first !== undefined && first.offset < (table?.guestOffset ?? Infinity)) {
    throw misplacedRun(layout, tables, first);
  }
  if (table !== undefined) throw beyond(layout, table);
}

/** As `refuseShort`, for a run that became known when the file had ended. */
export function refuseBeyond(
  layout: Layout,
  tables: PassingTables,
  run: PlainRun | CompressedRun,
): void {
  if (isBeyond(layout, run)) throw misplacedRun(layout, tables, run);
}

/** Of compressed data only the start must be there: where it ends only the data know. */
function isBeyond({ fileSize }: Layout, run: PlainRun | CompressedRun): boolean {
  return run.hostOffset + (run.kind === 'plain' ? run.length : 1) > fileSize;
}

/** The error for a run, as for its entries in the table. */
function misplacedRun(
  layout: Layout,
  tables: PassingTables,
  run: PlainRun | CompressedRun,
): SparsecopyError {
  const { clusterSize, l2Coverage } = layout;
  const table = tables.find(Math.floor(run.offset / l2Coverage));
  const first = Math.floor((run.offset % l2Coverage) / clusterSize);
  const whole = Math.floor(run.length / clusterSize);
  const entries = whole > 1 ? `entries ${first} to ${first + whole - 1}` : `entry ${first}`;
  const what = `${entries} of the L2 table at ${table?.hostOffset ?? 0}`;
  const length = run.kind === 'plain' ? run.length : run.hostLength;
  return misplaced(layout, what, run.hostOffset, length);
}
