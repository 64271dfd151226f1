/** What of some bytes must be written to a new file: all but its zeros. */

import { isZero } from '../bytes.ts';

/** What `findRuns` has found. */
export interface FoundRuns {
  /** The longest runs that are not zero, in order; where they start and end (exclusive). */
  readonly runs: readonly { readonly from: number; readonly to: number }[];
  /** How many bytes lie in blocks that are not all zero. */
  readonly diskSize: number;
}

/**
 * The runs of `bytes` that are not zero, judged in blocks of `grain` bytes, and what lies in blocks of `blockSize`, a divisor of `grain`. The
 * first block starts with the first byte. (A list, not a callback for each: what V8 optimises is smaller, and is not optimised again for each caller.)
 */
export function findRuns(bytes: Uint8Array, grain: number, blockSize: number): FoundRuns {
  const { length } = bytes;
  const words = wordsOf(bytes);
  const runs = [];
  let diskSize = 0;
  let from = -1;
  for (let at = 0; at < length; at += grain) {
    const count = countData(bytes, words, at, Math.min(length, at + grain), blockSize);
    diskSize += count;
    if (count > 0) {
      if (from < 0) from = at;
    } else if (from >= 0) {
      runs.push({ from, to: at });
      from = -1;
    }
  }
  if (from >= 0) runs.push({ from, to: length });
  return { runs, diskSize };
}

/** The words of four bytes in `bytes`; none where these do not lie so. */
function wordsOf({ buffer, byteOffset, length }: Uint8Array): Int32Array {
  return byteOffset % 4 === 0
    ? new Int32Array(buffer, byteOffset, Math.floor(length / 4))
    : new Int32Array(0);
}

/** Bytes from `start` to `end` in blocks that are not all zero; `words` are those of `bytes`. */
function countData(
  bytes: Uint8Array,
  words: Int32Array,
  start: number,
  end: number,
  blockSize: number,
): number {
  if (bytes[start] === 0 && isZero(bytes, start, end)) return 0;
  let count = 0;
  for (let at = start; at < end; at += blockSize) {
    const stop = Math.min(end, at + blockSize);
    if (bytes[at] !== 0 || !areZero(bytes, words, at, stop)) count += stop - at;
  }
  return count;
}

/** As `isZero`, which costs more to call than it takes to look through a short block of words. */
function areZero(bytes: Uint8Array, words: Int32Array, start: number, end: number): boolean {
  const last = end / 4;
  if (start % 4 !== 0 || end % 4 !== 0 || last > words.length) return isZero(bytes, start, end);
  for (let at = start / 4; at < last; at++) if (words[at] !== 0) return false;
  return true;
}
