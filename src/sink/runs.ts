/** What of some bytes must be written to a new file: all but its zeros. */

import { isZero } from '../bytes.ts';

/**
 * Calls `onRun` with each longest run of `bytes` (from, to) that is not zero, judged in blocks of `grain` bytes, and gives how many bytes lie in
 * blocks of `blockSize`, a divisor of `grain`, that are not all zero. The first block starts with the first byte.
 */
export function findRuns(
  bytes: Uint8Array,
  grain: number,
  blockSize: number,
  onRun: (start: number, end: number) => void,
): number {
  const { length } = bytes;
  const words = wordsOf(bytes);
  let dataLength = 0;
  let start = -1;
  for (let at = 0; at < length; at += grain) {
    const count = countData(bytes, words, at, Math.min(length, at + grain), blockSize);
    dataLength += count;
    if (count > 0) {
      if (start < 0) start = at;
    } else if (start >= 0) {
      onRun(start, at);
      start = -1;
    }
  }
  if (start >= 0) onRun(start, length);
  return dataLength;
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
