/** The bytes of a file that passes once that are here: those at hand, and those parked because nobody knew whose they are. */

import { alignDown } from '../../bytes.ts';
import type { Parking } from '../../parking.ts';
import type { Run } from '../../types.ts';
import { makeWindow, type Piece } from './window.ts';

/** What may be parked is looked at in blocks of this size, however it comes: zeros are found so. */
const GRAIN = 4096;

/** Offsets are those of the file, in bytes. */
export interface PassingFile {
  /** Adds what comes next; its bytes are the file's from now on. */
  push(run: Run): void;
  /** Nothing more comes. */
  end(): void;
  readonly isEnded: boolean;
  /** How much has come: the size of the file, once it has ended. */
  readonly received: number;
  /** What lies before is not at hand: it is parked, or gone. */
  readonly atHand: number;
  /** How far the bytes from `offset` on are here, at most to `end`. */
  reach(offset: number, end: number): number;
  /** The piece at hand that has `offset`. */
  pieceAt(offset: number): Piece;
  /** The bytes from `start` to `end`, which are at hand; not to be changed. */
  slice(start: number, end: number): Buffer;
  /** How far zeros reach that are parked at `offset`; `offset` when there are none. */
  zerosAt(offset: number): number;
  /** Fills `into` with bytes that are here; `undefined` when that is done already. */
  read(into: Uint8Array, offset: number): Promise<void> | undefined;
  /**
   * What lies before `to` and has not been dealt with has an owner, who has it: it is not needed again. A promise is to be
   * awaited before any other call.
   */
  settle(to: number): Promise<void> | undefined;
  /**
   * What has come before `to` and has not been dealt with has no owner that is known: it is parked, if it may have one. As
   * `settle` otherwise.
   */
  settleGap(to: number): Promise<void> | undefined;
  /** What is at hand, is dealt with and lies before `wanted` need not stay at hand. */
  forget(wanted: number): void;
  /** What is parked is not needed again. */
  forgetParked(): void;
}

/** `isWanted` tells whether anybody unknown may still want bytes. All before `start` has been dealt with. */
export function makePassingFile(
  parking: Parking,
  start: number,
  isWanted: () => boolean,
): PassingFile {
  const window = makeWindow();
  let settled = start;
  let isEnded = false;

  function settleTo(to: number, isOwned: boolean): Promise<void> | undefined {
    const from = settled;
    if (to <= from) return undefined;
    settled = to;
    if (!isWanted() || (isOwned && !parking.isCrowded)) return undefined;
    return park(from, Math.min(to, window.end));
  }

  function park(from: number, to: number): Promise<void> | undefined {
    for (let at = from; at < to;) {
      const { offset, length, bytes } = window.pieceAt(at);
      const end = Math.min(to, offset + length);
      const parked =
        bytes === undefined
          ? parking.keepZeros(end - at, at)
          : parking.keep(bytes.subarray(at - offset, end - offset), at);
      if (parked !== undefined) return parked.then(() => park(end, to));
      at = end;
    }
    return undefined;
  }

  return {
    push: (run) => window.push(run),
    end(): void {
      isEnded = true;
    },
    get isEnded(): boolean {
      return isEnded;
    },
    get received(): number {
      return window.end;
    },
    get atHand(): number {
      return window.start;
    },
    reach(offset: number, end: number): number {
      let at = offset;
      while (at < end && at < window.start) {
        const kept = parking.at(at);
        if (kept === undefined) return at;
        at = kept.end;
      }
      return Math.min(end, Math.max(at, window.end));
    },
    pieceAt: (offset) => window.pieceAt(offset),
    slice: (from, to) => window.slice(from, to),
    zerosAt(offset: number): number {
      const kept = parking.at(offset);
      return kept?.isZero === true ? kept.end : offset;
    },
    read(into: Uint8Array, offset: number): Promise<void> | undefined {
      const parked = Math.min(into.length, Math.max(0, window.start - offset));
      if (parked < into.length) window.copy(into.subarray(parked), offset + parked);
      return parked > 0 ? parking.read(into.subarray(0, parked), offset) : undefined;
    },
    settle: (to) => settleTo(to, true),
    settleGap(to: number): Promise<void> | undefined {
      const isWhole = to <= window.end || isEnded;
      // What is left of a block stays at hand.
      return settleTo(isWhole ? Math.min(to, window.end) : alignDown(window.end, GRAIN), false);
    },
    forget(wanted: number): void {
      window.discard(Math.min(settled, wanted));
    },
    forgetParked(): void {
      parking.clear();
    },
  };
}
