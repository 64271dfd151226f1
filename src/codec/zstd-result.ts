/** Turns what libzstd gives, by whichever way it is called, into runs and errors. */

import { asBuffer, isZero } from '../bytes.ts';
import type { SparsecopyError } from '../errors.ts';
import type { Run } from '../types.ts';
import { frameError } from './zstd-frame.ts';
import type { Place } from './zstd-frame.ts';

/** Values of libzstd's `ZSTD_ErrorCode` that get a sentence of their own (zstd_errors.h). */
const CHECKSUM_WRONG = 22;
const MEMORY_ALLOCATION = 64;
const OUTPUT_TOO_SMALL = 70;

/** The error for libzstd's error `number`. */
export function engineError(
  number: number | undefined,
  place: Place,
  cause?: unknown,
): SparsecopyError {
  switch (number) {
    case CHECKSUM_WRONG:
      return frameError('CORRUPT', 'does not match its content checksum', place, cause);
    case MEMORY_ALLOCATION:
      return frameError('LIMIT', 'needs more memory than there is', place, cause);
    case OUTPUT_TOO_SMALL:
      return frameError('CORRUPT', 'decodes to more bytes than expected', place, cause);
    case undefined:
    default:
      return frameError('CORRUPT', 'cannot be decoded: its data is damaged', place, cause);
  }
}

/** A run of `bytes` from `start` to `end`; they are copied with `copy`, which is for memory that is used again. */
export function makeRun(bytes: Uint8Array, start: number, end: number, copy: boolean): Run {
  const length = end - start;
  if (isZero(bytes, start, end)) return { kind: 'zero', length };
  if (!copy) return { kind: 'data', bytes: bytes.subarray(start, end) };
  const own = Buffer.allocUnsafeSlow(length);
  asBuffer(bytes).copy(own, 0, start, end);
  return { kind: 'data', bytes: own };
}
