/** What is done with each byte of an image that passes once: placed on the disk, parked until its owner is known, or dropped. */

import { alignDown, alignUp } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Parking } from '../../parking.ts';
import type { Chunk, Extent, Source } from '../../types.ts';
import type { Assembly } from './assembly.ts';
import type { Claims } from './claims.ts';
import type { Decryptor } from './crypt.ts';
import { clusterError } from './decoder.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { ClusterDecoder } from './inflate.ts';
import { misplaced, type Layout } from './layout.ts';
import {
  beyond,
  parsePassingTables,
  partOf,
  type PassingTables,
  type TablePlace,
} from './passing-tables.ts';
import { makePending } from './pending.ts';
import { runsOf, type CompressedRun, type PlainRun, type Run } from './runs.ts';
import type { Window } from './window.ts';

/** Compressed data is measured in these, and encryption works on them. */
const SECTOR_SIZE = 512;

/** Bytes in one piece of this length go on as they are: copying them would cost more than one more chunk. */
const PASS_LENGTH = 256 * 1024;

/** What goes on as it is starts and ends at a multiple of this, so that no later stage has to join it. */
const PASS_ALIGNMENT = 4096;

/** Bytes that may be parked are dealt with in blocks of this size, however they come: zeros are found so. */
const GAP_GRAIN = 4096;

/** What a pass over an image is made of. */
export interface PasserParts {
  /** As if the file had no end, which is not known yet. */
  readonly layout: Layout;
  readonly refcountTableOffset: number;
  readonly limits: Limits;
  readonly decode: ClusterDecoder;
  /** Where the encryption header lies, when it is needed, and what makes a decryptor of it. */
  readonly crypto:
    | {
        readonly offset: number;
        readonly length: number;
        open(bytes: Uint8Array): Promise<Decryptor>;
      }
    | undefined;
  /** When no encryption header is needed for it. */
  readonly decryptor: Decryptor | undefined;
  readonly backing: Source | undefined;
  readonly claims: Claims | undefined;
  readonly window: Window;
  readonly parking: Parking;
  readonly assembly: Assembly;
  /** Takes chunks that need no assembly. */
  readonly pass: (chunk: Chunk) => void;
}

/** The work is done in steps, between which chunks are to be taken away. */
export interface Passer {
  /** Does something, if something can be done without more of the file. False when not. */
  step(): boolean | Promise<boolean>;
  /**
   * The file is in the window to its end; there may be steps left.
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
  const { limits, decode, backing, claims, window, parking, assembly, pass } = parts;
  const { clusterSize, name, l1Offset, l1Needed } = parts.layout;
  const l1Length = l1Needed * ENTRY_SIZE;
  const pending = makePending();
  let { layout, decryptor } = parts;
  /** What must come before the tables mean anything; undefined when it has come. */
  let crypto = parts.crypto;
  let l1: Buffer | undefined;
  let tables: PassingTables | undefined;
  /** What remains of the table in hand. */
  let runs: Iterator<Run> | undefined;
  /** What remains of the range of the backing file in hand. */
  let inherited: AsyncIterator<Extent> | undefined;
  /** The owner of everything before is known, or it is parked, or nobody will want it. */
  let settled = clusterSize;
  let isEnded = false;
  let allocatedSize = 0;

  // ---- bytes

  /** Moves `settled` to `to`. What is not `isOwned` is parked, as long as there are tables that may want it. */
  function settle(to: number, isOwned: boolean): Promise<void> | undefined {
    const from = settled;
    if (to <= from) return undefined;
    settled = to;
    const isWanted = tables === undefined || tables.left > 0 || runs !== undefined;
    if (!isWanted || (isOwned && !parking.isCrowded)) return undefined;
    return park(from, Math.min(to, window.end));
  }

  /** What has come before `to` has no owner that is known; as yet, while more comes, in whole blocks. */
  function settleGap(to: number): Promise<void> | undefined {
    const isWhole = to <= window.end || isEnded;
    return settle(isWhole ? Math.min(to, window.end) : alignDown(window.end, GAP_GRAIN), false);
  }

  function park(from: number, to: number): Promise<void> | undefined {
    for (let at = from; at < to;) {
      const { offset, length, bytes } = window.pieceAt(at);
      const end = Math.min(to, offset + length);
      const parkedNow =
        bytes === undefined
          ? parking.keepZeros(end - at, at)
          : parking.keep(bytes.subarray(at - offset, end - offset), at);
      at = end;
      if (parkedNow !== undefined) return parkedNow.then(() => park(at, to));
    }
    return undefined;
  }

  /** How far the bytes from `hostOffset` on are here, parked or in the window, at most to `end`. */
  function reach(hostOffset: number, end: number): number {
    let at = hostOffset;
    while (at < end && at < window.start) {
      const kept = parking.at(at);
      if (kept === undefined) return at;
      at = kept.end;
    }
    return Math.min(end, Math.max(at, window.end));
  }

  /** Fills `into` with bytes that are here. */
  function read(into: Uint8Array, hostOffset: number): Promise<void> | undefined {
    const parkedLength = Math.min(into.length, Math.max(0, window.start - hostOffset));
    if (parkedLength < into.length) {
      window.copy(into.subarray(parkedLength), hostOffset + parkedLength);
    }
    return parkedLength > 0 ? parking.read(into.subarray(0, parkedLength), hostOffset) : undefined;
  }

  /** Nothing can be done without more: what nobody needs again is forgotten. */
  function wait(wanted: number): false {
    window.discard(Math.min(settled, wanted));
    const isOver = tables?.left === 0 && runs === undefined;
    if (isOver && pending.hostOffset >= window.start) parking.clear();
    return false;
  }

  /** The error for `what`, whose bytes have passed and were taken for something else. */
  function gone(what: string, hostOffset: number): SparsecopyError {
    const sentence = `${what} is at ${hostOffset}, where something else is, too: such an image can only be read from an input that can seek`;
    return new SparsecopyError('UNSUPPORTED', sentence, {
      source: name,
      offset: hostOffset,
      feature: 'cluster with two owners in one pass',
    });
  }

  // ---- what must come first: the encryption header and the L1 table

  async function takeFirst(): Promise<boolean> {
    const cryptoOffset = crypto?.offset ?? Infinity;
    const tableOffset = l1 === undefined && l1Length > 0 ? l1Offset : Infinity;
    const offset = Math.min(cryptoOffset, tableOffset);
    if (offset === Infinity) {
      openTables();
      return true;
    }
    await settleGap(offset);
    const length = offset === cryptoOffset ? (crypto?.length ?? 0) : l1Length;
    if (offset + length > window.end) return wait(offset);
    const bytes = Buffer.allocUnsafeSlow(length);
    window.copy(bytes, offset);
    await settle(alignUp(offset + length, clusterSize), true);
    if (offset !== cryptoOffset) l1 = bytes;
    else {
      decryptor = await crypto?.open(bytes);
      crypto = undefined;
    }
    return true;
  }

  function openTables(): void {
    tables = parsePassingTables(l1 ?? Buffer.alloc(0), layout, window.start);
    l1 = undefined;
    if (claims !== undefined) for (const { hostOffset } of tables.all()) claims.table(hostOffset);
    runs = tables.unallocated()[Symbol.iterator]();
  }

  // ---- tables

  function hasRoom(): boolean {
    return runs === undefined && pending.count < limits.pendingRuns;
  }

  /** A table that was left aside, as soon as its bytes are here and there is room for its runs. */
  function takeLate(place: TablePlace): Promise<boolean> | boolean {
    const end = place.hostOffset + place.length;
    if (!hasRoom() || end > window.end || (tables?.areDoubtful === true && !isEnded)) return false;
    if (reach(place.hostOffset, end) < end) {
      throw gone(`L2 table ${place.index}`, place.hostOffset);
    }
    return takeTable(place);
  }

  /** The next table of the file, all before it being settled. */
  async function takeNext(place: TablePlace): Promise<boolean> {
    await settleGap(place.hostOffset);
    if (place.hostOffset >= window.end) return wait(place.hostOffset);
    if (!hasRoom() || tables?.late !== undefined || tables?.areDoubtful === true) {
      tables?.leave();
      return true;
    }
    if (place.hostOffset + place.length > window.end) return wait(place.hostOffset);
    await takeTable(place);
    await settle(place.hostOffset + clusterSize, true);
    return true;
  }

  async function takeTable(place: TablePlace): Promise<boolean> {
    const bytes = Buffer.allocUnsafe(place.length);
    await read(bytes, place.hostOffset);
    runs = runsOf(layout, partOf(layout, place, bytes));
    tables?.take();
    return true;
  }

  function takeRun(from: Iterator<Run>): boolean {
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
      if (isEnded && isBeyond(run)) throw misplacedRun(run);
      pending.push(run);
    }
    return true;
  }

  // ---- the backing file

  function inherit(offset: number, length: number): void {
    const known = Math.max(0, Math.min(length, (backing?.size ?? 0) - offset));
    if (known < length) pass({ kind: 'zero', offset: offset + known, length: length - known });
    if (known === 0 || backing === undefined) return;
    inherited = pieces(backing.extents(offset, offset + known))[Symbol.asyncIterator]();
  }

  /** `extents`, data in pieces that can be placed. */
  async function* pieces(extents: AsyncIterable<Extent>): AsyncGenerator<Extent, void, void> {
    for await (const { kind, offset, length } of extents) {
      if (kind === 'zero') {
        yield { kind, offset, length };
        continue;
      }
      const end = offset + length;
      for (let at = offset; at < end;) {
        const next = Math.min(end, at + assembly.roomAt(at));
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

  // ---- runs

  /** The first run of the file, all before it being settled. */
  function takeFirstRun(): Promise<boolean> | boolean {
    const run = pending.first();
    if (run.kind === 'compressed') return takeCompressed(run);
    const settling = settleGap(alignDown(run.hostOffset, clusterSize));
    return settling === undefined ? takePlain(run) : settling.then(() => takePlain(run));
  }

  function takePlain(run: PlainRun): Promise<boolean> | boolean {
    if (run.hostOffset >= window.end) return wait(run.hostOffset);
    if (decryptor !== undefined) return takeEncrypted(run, decryptor);
    if (run.hostOffset < window.start) return takeParked(run);
    const { offset, hostOffset } = run;
    const piece = window.pieceAt(hostOffset);
    const from = hostOffset - piece.offset;
    const here = Math.min(run.length, piece.length - from);
    if (piece.bytes === undefined && here >= PASS_ALIGNMENT) {
      pass({ kind: 'zero', offset, length: here });
      return taken(run, here);
    }
    const lead = alignUp(offset, PASS_ALIGNMENT) - offset;
    if (piece.bytes === undefined || here < lead + PASS_LENGTH) return place(run, here);
    if (lead > 0) return place(run, lead);
    const length = alignDown(here, PASS_ALIGNMENT);
    const bytes = piece.bytes.subarray(from, from + length);
    const done = taken(run, length);
    // Somebody else wants them too, and whoever gets them may change them.
    const isShared = pending.hostOffset < hostOffset + length;
    pass({ kind: 'data', offset, length, bytes: isShared ? Buffer.from(bytes) : bytes });
    return done;
  }

  /** Copies at most `most` bytes of the window. */
  function place(run: PlainRun, most: number): Promise<boolean> | boolean {
    const length = Math.min(most, assembly.roomAt(run.offset));
    const placing = assembly.place(run.offset, length, (target) => {
      window.copy(target, run.hostOffset);
      return undefined;
    });
    return placing === undefined ? taken(run, length) : placing.then(() => taken(run, length));
  }

  async function takeParked(run: PlainRun): Promise<boolean> {
    const { offset, hostOffset } = run;
    const kept = parking.at(hostOffset);
    if (kept === undefined) throw gone(`data of disk offset ${offset}`, hostOffset);
    const zeros = kept.isZero ? Math.min(run.length, kept.end - hostOffset) : 0;
    if (zeros >= PASS_ALIGNMENT) {
      pass({ kind: 'zero', offset, length: zeros });
      return taken(run, zeros);
    }
    const most = Math.min(run.length, assembly.roomAt(offset));
    const length = reach(hostOffset, hostOffset + most) - hostOffset;
    await assembly.place(offset, length, (target) => read(target, hostOffset));
    return taken(run, length);
  }

  /** Whole sectors, also where the disk ends within one. */
  async function takeEncrypted(run: PlainRun, by: Decryptor): Promise<boolean> {
    const { offset, hostOffset } = run;
    const end = hostOffset + alignUp(run.length, SECTOR_SIZE);
    const here = reach(hostOffset, end) - hostOffset;
    const room = alignDown(Math.min(here, assembly.roomAt(offset)), SECTOR_SIZE);
    if (room === 0) {
      if (hostOffset + here < window.end) throw gone(`data of disk offset ${offset}`, hostOffset);
      if (isEnded)
        throw misplaced(layout, `data of disk offset ${offset}`, hostOffset, SECTOR_SIZE);
      return wait(hostOffset);
    }
    const length = Math.min(room, run.length);
    const fill = (target: Buffer): Promise<void> | undefined => {
      const reading = read(target, hostOffset);
      if (reading !== undefined) {
        return reading.then(() => by.decrypt(target, hostOffset, offset));
      }
      by.decrypt(target, hostOffset, offset);
      return undefined;
    };
    await assembly.place(offset, length, fill, room);
    return taken(run, length);
  }

  /** The first run, which was `run`, without its first `length` bytes. */
  function taken(run: PlainRun, length: number): Promise<boolean> | boolean {
    const end = run.hostOffset + length;
    const isWhole = length === run.length;
    if (isWhole) pending.pop();
    else pending.shorten(length);
    const settling = settle(isWhole ? alignUp(end, clusterSize) : end, true);
    return settling === undefined ? true : settling.then(() => true);
  }

  async function takeCompressed(run: CompressedRun): Promise<boolean> {
    const { offset, length, hostOffset } = run;
    await settleGap(hostOffset);
    const end = Math.min(hostOffset + run.hostLength, isEnded ? layout.fileSize : Infinity);
    if (end > window.end) return wait(hostOffset);
    // Data that is known later may begin or end within the sectors in which this begins and ends.
    await settleGap(Math.min(alignUp(hostOffset, SECTOR_SIZE), end));
    const bytesEnd = reach(hostOffset, end);
    if (bytesEnd === hostOffset) throw gone(`data of disk offset ${offset}`, hostOffset);
    pending.pop();
    const decodeInto = async (target: Buffer, bytes: Buffer): Promise<void> => {
      try {
        await decode(bytes, target);
      } catch (error) {
        if (bytesEnd < end) throw gone(`data of disk offset ${offset}`, bytesEnd);
        throw clusterError(error, run, name, end < hostOffset + run.hostLength);
      }
    };
    if (hostOffset >= window.start) {
      const bytes = window.slice(hostOffset, bytesEnd);
      const fill = (target: Buffer): Promise<void> => decodeInto(target, bytes);
      await assembly.placeLater(offset, length, fill, clusterSize);
    } else {
      const fill = async (target: Buffer): Promise<void> => {
        const bytes = Buffer.allocUnsafe(bytesEnd - hostOffset);
        await read(bytes, hostOffset);
        await decodeInto(target, bytes);
      };
      await assembly.place(offset, length, fill, clusterSize);
    }
    await settle(end - SECTOR_SIZE, true);
    return true;
  }

  // ---- the end

  function isBeyond(run: PlainRun | CompressedRun): boolean {
    const least = run.kind === 'plain' ? run.length : 1;
    return run.hostOffset + least > layout.fileSize;
  }

  /** The error for a run that is not in the file, as for its entry in the table. */
  function misplacedRun(run: PlainRun | CompressedRun): SparsecopyError {
    const { offset, hostOffset } = run;
    const table = tables?.find(Math.floor(offset / layout.l2Coverage));
    const first = Math.floor((offset - (table?.guestOffset ?? 0)) / clusterSize);
    const whole = Math.floor(run.length / clusterSize);
    const entries = whole > 1 ? `entries ${first} to ${first + whole - 1}` : `entry ${first}`;
    const what = `${entries} of the L2 table at ${table?.hostOffset ?? 0}`;
    const length = run.kind === 'plain' ? run.length : run.hostLength;
    return misplaced(layout, what, hostOffset, length);
  }

  function end(): void {
    const fileSize = window.end;
    isEnded = true;
    layout = { ...layout, fileSize, dataSize: fileSize };
    const { refcountTableOffset } = parts;
    if (crypto !== undefined) {
      throw misplaced(layout, 'encryption header', crypto.offset, crypto.length);
    }
    if (refcountTableOffset >= fileSize) {
      throw new SparsecopyError(
        'TRUNCATED',
        `refcount table is at ${refcountTableOffset}, file ends at ${fileSize}`,
        { source: name, offset: refcountTableOffset, found: fileSize },
      );
    }
    if (tables === undefined) {
      const needed = l1Offset + l1Length;
      throw new SparsecopyError(
        'TRUNCATED',
        `L1 table at ${l1Offset} needs ${l1Length} bytes, file ends at ${fileSize}`,
        { source: name, offset: l1Offset, expected: needed, found: fileSize },
      );
    }
    const table = tables.firstBeyond(fileSize);
    let first: PlainRun | CompressedRun | undefined;
    for (const run of pending.all()) {
      if (isBeyond(run) && run.offset < (first?.offset ?? Infinity)) first = run;
    }
    if (first !== undefined && first.offset < (table?.guestOffset ?? Infinity)) {
      throw misplacedRun(first);
    }
    if (table !== undefined) throw beyond(layout, table);
  }

  return {
    step(): boolean | Promise<boolean> {
      if (tables === undefined) return takeFirst();
      if (inherited !== undefined) return takeInherited(inherited);
      if (runs !== undefined && pending.count < limits.pendingRuns) return takeRun(runs);
      if (pending.hostOffset < window.start) return takeFirstRun();
      const { late, next } = tables;
      const taking = late !== undefined && takeLate(late);
      if (taking !== false) return taking;
      if (next !== undefined && next.hostOffset <= pending.hostOffset) return takeNext(next);
      if (pending.count > 0) return takeFirstRun();
      const settling = settleGap(Infinity);
      return settling === undefined ? wait(Infinity) : settling.then(() => wait(Infinity));
    },
    end,
    get allocatedSize(): number {
      return allocatedSize;
    },
    get isDone(): boolean {
      return tables?.left === 0 && runs === undefined && pending.count === 0;
    },
    async close(): Promise<void> {
      await inherited?.return?.();
    },
  };
}
