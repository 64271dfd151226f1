/** The part of a file that passes once that has come and is not dealt with yet. */

import { asBuffer } from '../../bytes.ts';
import type { Run } from '../../types.ts';

/** Shorter pieces are copied together: each piece that waits costs memory of its own, and clusters span fewer of them. */
const SHORT = 16 * 1024;

/** What they are copied into. */
const JOINED = 64 * 1024;

/** Zeros that nobody made stay so from this length on; shorter ones would only be one more piece. */
const LEAST_ZEROS = 4096;

/** A range of the file, in one piece. */
export interface Piece {
  /** In the file. */
  readonly offset: number;
  readonly length: number;
  /** `undefined`: zeros. Never changed; what is cut out of it may be kept. */
  readonly bytes: Buffer | undefined;
}

/** Offsets are those of the file, in bytes. */
export interface Window {
  /** What lies before is gone. */
  readonly start: number;
  /** What lies behind has not come. */
  readonly end: number;
  /** Adds what comes next. Its bytes are the window's from now on. */
  push(run: Run): void;
  /** Forgets pieces that end at or before `offset`, so that `start` is `offset` or less. */
  discard(offset: number): void;
  /** The piece that has `offset`, which is in the window. */
  pieceAt(offset: number): Piece;
  /** Fills `into` with the bytes at `offset`, all of which are in the window. */
  copy(into: Uint8Array, offset: number): void;
  /** The bytes from `start` to `end`, which are in the window; not to be changed. */
  slice(start: number, end: number): Buffer;
}

export function makeWindow(): Window {
  /** Ascending and gapless, from `first` on. */
  let pieces: { offset: number; length: number; bytes: Buffer | undefined }[] = [];
  let first = 0;
  let start = 0;
  let end = 0;
  /** What short pieces are copied into, how much of it is in use, and whether the last piece ends there. */
  let joined = Buffer.alloc(0);
  let used = 0;
  let isGrowing = false;

  function push(run: Run): void {
    const length = run.kind === 'zero' ? run.length : run.bytes.length;
    if (length === 0) return;
    if (length < (run.kind === 'zero' ? LEAST_ZEROS : SHORT)) join(run, length);
    else {
      const bytes = run.kind === 'zero' ? undefined : asBuffer(run.bytes);
      pieces.push({ offset: end, length, bytes });
      isGrowing = false;
    }
    end += length;
  }

  /** Puts a short run behind the last piece, where that has room, or into a new one. */
  function join(run: Run, length: number): void {
    if (used + length > joined.length) {
      joined = Buffer.allocUnsafeSlow(JOINED);
      used = 0;
      isGrowing = false;
    }
    if (run.kind === 'zero') joined.fill(0, used, used + length);
    else joined.set(run.bytes, used);
    used += length;
    const last = isGrowing && first < pieces.length ? pieces.at(-1) : undefined;
    if (last === undefined) {
      pieces.push({ offset: end, length, bytes: joined.subarray(used - length, used) });
    } else {
      last.length += length;
      last.bytes = joined.subarray(used - last.length, used);
    }
    isGrowing = true;
  }

  function indexOf(offset: number): number {
    let low = first;
    for (let high = pieces.length - 1; low < high;) {
      const middle = (low + high + 1) >>> 1;
      if ((pieces[middle]?.offset ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function pieceAt(offset: number): Piece {
    const piece = pieces[indexOf(offset)];
    if (piece === undefined || offset < start || offset >= end) {
      throw new RangeError(`${offset} is not in the window from ${start} to ${end}`);
    }
    return piece;
  }

  function copy(into: Uint8Array, offset: number): void {
    for (let done = 0; done < into.length;) {
      const piece = pieceAt(offset + done);
      const from = offset + done - piece.offset;
      const length = Math.min(into.length - done, piece.length - from);
      if (piece.bytes === undefined) into.fill(0, done, done + length);
      else piece.bytes.copy(into, done, from, from + length);
      done += length;
    }
  }

  return {
    get start(): number {
      return start;
    },
    get end(): number {
      return end;
    },
    push,
    discard(offset: number): void {
      for (let piece = pieces[first]; piece !== undefined; piece = pieces[first]) {
        if (piece.offset + piece.length > offset) {
          start = piece.offset;
          break;
        }
        start = piece.offset + piece.length;
        first++;
      }
      if (first * 2 < pieces.length) return;
      pieces = pieces.slice(first);
      first = 0;
    },
    pieceAt,
    copy,
    slice(start: number, end: number): Buffer {
      const { offset, length, bytes } = pieceAt(start);
      if (bytes !== undefined && end <= offset + length) {
        return bytes.subarray(start - offset, end - offset);
      }
      const joint = Buffer.allocUnsafe(end - start);
      copy(joint, start);
      return joint;
    },
  };
}
