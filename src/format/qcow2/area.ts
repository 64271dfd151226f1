/** A table of entries of variable length in a file, of which no more is read than its entries turn out to need. */

import { viewOf } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import type { Source } from '../../types.ts';

const TWO_32 = 2 ** 32;

/** The bytes of a file from some offset on. */
export interface Area {
  /** What there can be of it, in bytes: the file ends then, or the limit is reached. */
  readonly most: number;
  /** Makes sure that the area goes to `end`. @throws SparsecopyError `TRUNCATED`, `LIMIT` when `what`, which does, cannot. */
  need(end: number, what?: string): Promise<void>;
  u8(at: number): number;
  u16(at: number): number;
  u32(at: number): number;
  /** Not exact from 2^53 on, but then still from there on. */
  u64(at: number): number;
  text(start: number, end: number): string;
}

/** The area of `file` from `start` on, of at most `limits[limit]` bytes. */
export function makeArea<Limit extends string>(
  file: Pick<Source, 'name' | 'size' | 'read'>,
  start: number,
  limits: Readonly<Record<Limit, number>>,
  limit: Limit,
): Area {
  const most = Math.min(Math.max(0, file.size - start), limits[limit]);
  let bytes = Buffer.alloc(0);
  let view = viewOf(bytes);

  function tooLong(end: number, what: string): SparsecopyError {
    const details = { source: file.name, offset: start + most, expected: start + end };
    if (most < limits[limit]) {
      const sentence = `${what} ends at ${start + end}, file ends at ${file.size}`;
      return new SparsecopyError('TRUNCATED', sentence, { ...details, found: file.size });
    }
    const sentence = `${what} ends after ${end} bytes of the table, at most ${most} are allowed`;
    return new SparsecopyError('LIMIT', sentence, { ...details, limit });
  }

  return {
    most,
    async need(end, what = 'table'): Promise<void> {
      if (end <= bytes.length) return;
      if (end > most) throw tooLong(end, what);
      const grown = Buffer.allocUnsafeSlow(Math.min(most, Math.max(end, 2 * bytes.length)));
      bytes.copy(grown);
      await file.read(grown.subarray(bytes.length), start + bytes.length);
      bytes = grown;
      view = viewOf(grown);
    },
    u8: (at) => view.getUint8(at),
    u16: (at) => view.getUint16(at),
    u32: (at) => view.getUint32(at),
    u64: (at) => view.getUint32(at) * TWO_32 + view.getUint32(at + 4),
    text: (from, to) => bytes.toString('utf8', from, to),
  };
}
