/** What is done next with an image that passes once: which table, run or range of the backing file is at its turn. */

import { alignUp } from '../../bytes.ts';
import type { Limits } from '../../limits.ts';
import type { Parking } from '../../parking.ts';
import type { Extent, Source } from '../../types.ts';
import type { Claims } from './claims.ts';
import type { Decryptor } from './crypt.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { Layout } from './layout.ts';
import { refuseBeyond, refuseShort } from './passing-end.ts';
import { makePassingFile, type PassingFile } from './passing-file.ts';
import { makeTakeFirstRun, takenBefore, type RunParts } from './passing-runs.ts';
import {
  parsePassingTables,
  partOf,
  type PassingTables,
  type TablePlace,
} from './passing-tables.ts';
import { makePending } from './pending.ts';
import { runsOf, type Run } from './runs.ts';

/** What a pass over an image is made of. */
export interface PasserParts extends Pick<RunParts, 'assembly' | 'decode' | 'placer' | 'pass'> {
  /** As if the file had no end, which is not known yet. */
  readonly layout: Layout;
  readonly refcountTableOffset: number;
  readonly limits: Limits;
  /** Where the encryption header lies, when one is needed, and what makes a decryptor of it. */
  readonly crypto:
    | {
        readonly offset: number;
        readonly length: number;
        open(bytes: Uint8Array): Promise<Decryptor>;
      }
    | undefined;
  /** Where none is needed for it. */
  readonly decryptor: Decryptor | undefined;
  readonly backing: Source | undefined;
  readonly claims: Claims | undefined;
  readonly parking: Parking;
}

/** The work is done in steps, between which chunks are to be taken away. */
export interface Passer {
  /** Where the bytes of the file go. */
  readonly file: Pick<PassingFile, 'push'>;
  /** Does something, if something can be done without more of the file. False when not. */
  step(): boolean | Promise<boolean>;
  /**
   * The file has come to its end; there may be steps left.
   * @throws SparsecopyError `TRUNCATED`, `CORRUPT` for what it lacks.
   */
  end(): void;
  /** Bytes of the disk that are data in the image, so far. */
  readonly allocatedSize: number;
  /** True when everything has been placed. */
  readonly isDone: boolean;
  /** Lets go of what is in hand. */
  close(): Promise<void>;
}

export function makePasser(parts: PasserParts): Passer {
  const { assembly, backing, claims, parking, pass } = parts;
  const { clusterSize, name, l1Offset, l1Needed } = parts.layout;
  const l1Length = l1Needed * ENTRY_SIZE;
  const mostPending = Math.max(1, parts.limits.pendingRuns);
  const pending = makePending();
  // The header's cluster has been dealt with.
  const file = makePassingFile(parking, clusterSize, () => !isMapped());
  const takeFirstRun = makeTakeFirstRun({ ...parts, file, pending });
  let { crypto, decryptor, layout } = parts;
  let l1: Buffer | undefined;
  let tables: PassingTables | undefined;
  /** What remains of the table in hand. */
  let runs: Iterator<Run> | undefined;
  /** What remains of the range of the backing file in hand. */
  let inherited: AsyncIterator<Extent> | undefined;
  let allocatedSize = 0;

  /** True when it is known of all that lies in the file whose it is. */
  function isMapped(): boolean {
    return tables?.left === 0 && runs === undefined;
  }

  /** Nothing can be done without more of the file, of which everything from `wanted` on is. */
  function wait(wanted: number): false {
    file.forget(wanted);
    if (isMapped() && pending.hostOffset >= file.atHand) file.forgetParked();
    return false;
  }

  /** What must come first: the encryption header and the L1 table, in any order. */
  async function takeFirst(): Promise<boolean> {
    const cryptoOffset = crypto?.offset ?? Infinity;
    const offset = Math.min(cryptoOffset, l1 === undefined && l1Length > 0 ? l1Offset : Infinity);
    if (offset === Infinity) {
      tables = parsePassingTables(l1 ?? Buffer.alloc(0), layout, file.atHand);
      for (const { hostOffset } of claims === undefined ? [] : tables.all()) {
        claims?.table(hostOffset);
      }
      l1 = undefined;
      runs = tables.unallocated()[Symbol.iterator]();
      return true;
    }
    await file.settleGap(offset);
    const length = offset === cryptoOffset ? (crypto?.length ?? 0) : l1Length;
    if (offset + length > file.received) return wait(offset);
    const bytes = Buffer.allocUnsafeSlow(length);
    await file.read(bytes, offset);
    await file.settle(alignUp(offset + length, clusterSize));
    if (offset !== cryptoOffset) l1 = bytes;
    else {
      decryptor = await crypto?.open(bytes);
      crypto = undefined;
    }
    return true;
  }

  function mayTakeTable(): boolean {
    const waitsForEnd = tables?.areDoubtful === true && !file.isEnded;
    return runs === undefined && pending.count < mostPending && !waitsForEnd;
  }

  /** A table that was left aside, as soon as it is here and there is room for its runs. */
  function takeLate(place: TablePlace): Promise<boolean> | boolean {
    const end = place.hostOffset + place.length;
    if (!mayTakeTable() || end > file.received) return false;
    if (file.reach(place.hostOffset, end) < end) {
      throw takenBefore(name, `L2 table ${place.index}`, place.hostOffset);
    }
    return takeTable(place);
  }

  /** The table that comes next in the file. */
  async function takeNext(place: TablePlace): Promise<boolean> {
    const { hostOffset, length } = place;
    await file.settleGap(hostOffset);
    if (hostOffset >= file.received) return wait(hostOffset);
    if (!mayTakeTable() || tables?.late !== undefined) {
      tables?.leave();
      return true;
    }
    if (hostOffset + length > file.received) return wait(hostOffset);
    await takeTable(place);
    await file.settle(hostOffset + clusterSize);
    return true;
  }

  async function takeTable(place: TablePlace): Promise<true> {
    const bytes = Buffer.allocUnsafe(place.length);
    await file.read(bytes, place.hostOffset);
    runs = runsOf(layout, partOf(layout, place, bytes));
    tables?.take();
    return true;
  }

  function takeEntry(from: Iterator<Run>): boolean {
    const next = from.next();
    if (next.done === true) {
      runs = undefined;
      return true;
    }
    const run = next.value;
    claims?.run(run);
    const { kind, offset, length } = run;
    if (kind === 'zero') pass({ kind, offset, length });
    else if (kind === 'unallocated') inherit(offset, length);
    else {
      allocatedSize += length;
      // The table may have been in hand when the file ended.
      if (file.isEnded && tables !== undefined) refuseBeyond(layout, tables, run);
      pending.push(run);
    }
    return true;
  }

  function inherit(offset: number, length: number): void {
    const known = Math.max(0, Math.min(length, (backing?.size ?? 0) - offset));
    if (known < length) pass({ kind: 'zero', offset: offset + known, length: length - known });
    if (known === 0 || backing === undefined) return;
    inherited = pieces(backing.extents(offset, offset + known));
  }

  /** `extents`, data in pieces that can be placed. */
  async function* pieces(extents: AsyncIterable<Extent>): AsyncGenerator<Extent, void, void> {
    for await (const { kind, offset, length } of extents) {
      const end = offset + length;
      for (let at = offset; at < end;) {
        const next = kind === 'zero' ? end : Math.min(end, at + assembly.roomAt(at));
        yield { kind, offset: at, length: next - at };
        at = next;
      }
    }
  }

  async function takeInherited(from: AsyncIterator<Extent>): Promise<boolean> {
    const next = await from.next();
    if (next.done === true) {
      inherited = undefined;
      return true;
    }
    const { kind, offset, length } = next.value;
    if (kind === 'zero') pass({ kind, offset, length });
    else await assembly.place(offset, length, (target) => backing?.read(target, offset));
    return true;
  }

  function takeRun(): Promise<boolean> | boolean {
    const taking = takeFirstRun(decryptor);
    if (typeof taking === 'boolean') return taking || wait(pending.hostOffset);
    return taking.then((isTaken) => isTaken || wait(pending.hostOffset));
  }

  return {
    file,
    step(): boolean | Promise<boolean> {
      if (tables === undefined) return takeFirst();
      if (inherited !== undefined) return takeInherited(inherited);
      if (runs !== undefined && pending.count < mostPending) return takeEntry(runs);
      if (pending.hostOffset < file.atHand) return takeRun();
      const { late, next } = tables;
      const taking = late !== undefined && takeLate(late);
      if (taking !== false) return taking;
      if (next !== undefined && next.hostOffset <= pending.hostOffset) return takeNext(next);
      if (pending.count > 0) return takeRun();
      const settling = file.settleGap(Infinity);
      return settling === undefined ? wait(Infinity) : settling.then(() => wait(Infinity));
    },
    end(): void {
      file.end();
      const fileSize = file.received;
      layout = { ...layout, fileSize, dataSize: fileSize };
      const { refcountTableOffset } = parts;
      refuseShort({ layout, refcountTableOffset, crypto, tables, runs: pending.all() });
    },
    get allocatedSize(): number {
      return allocatedSize;
    },
    get isDone(): boolean {
      return isMapped() && pending.count === 0;
    },
    async close(): Promise<void> {
      await inherited?.return?.();
    },
  };
}
