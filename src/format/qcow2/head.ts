/** The first bytes of a qcow2 file, read field by field: what lies beyond them is an error with its place. */

import { asBuffer, viewOf } from '../../bytes.ts';
import { SparsecopyError, type ErrorCode, type ErrorDetails } from '../../errors.ts';
import type { Limits } from '../../limits.ts';

const TWO_32 = 2 ** 32;

/** Reads the start of a file. Offsets are from the start of the file, integers big-endian. */
export interface Head {
  readonly limits: Limits;
  /** Count of bytes at hand. */
  readonly length: number;
  /** @throws SparsecopyError `TRUNCATED` when the file, `LIMIT` when only what was read of it ends before `end`. */
  need(end: number, what: string): void;
  u8(at: number): number;
  u32(at: number): number;
  /** Not exact above 2^53, but then still above it. */
  u64(at: number): number;
  /** For messages. */
  exact64(at: number): bigint;
  text(start: number, end: number): string;
  /** The error for what was found at `offset`. */
  fail(code: ErrorCode, offset: number, sentence: string, details?: ErrorDetails): SparsecopyError;
}

/** `bytes` is the start of the file called `name`: `limits.probeHead` bytes, or all of a shorter file. */
export function makeHead(bytes: Uint8Array, name: string, limits: Limits): Head {
  const view = viewOf(bytes);
  const buffer = asBuffer(bytes);
  const { length } = bytes;
  function fail(
    code: ErrorCode,
    offset: number,
    sentence: string,
    details: ErrorDetails = {},
  ): SparsecopyError {
    return new SparsecopyError(code, sentence, { source: name, offset, ...details });
  }
  return {
    limits,
    length,
    need(end: number, what: string): void {
      if (length >= end) return;
      const numbers = { expected: end, found: length };
      throw length < limits.probeHead
        ? fail('TRUNCATED', 0, `${what} needs ${end} bytes, file ends at ${length}`, numbers)
        : fail('LIMIT', 0, `${what} needs the first ${end} bytes, only ${length} are read`, {
            limit: 'probeHead',
            expected: length,
            found: end,
          });
    },
    u8: (at) => view.getUint8(at),
    u32: (at) => view.getUint32(at),
    u64: (at) => view.getUint32(at) * TWO_32 + view.getUint32(at + 4),
    exact64: (at) => view.getBigUint64(at),
    text: (start, end) => buffer.toString('utf8', start, end),
    fail,
  };
}
