/** Bytes in memory as a Source. */

import { SparsecopyError } from '../errors.ts';
import type { Extent, Source } from '../types.ts';

/** A Source over `bytes`, which must not change while it is in use. */
export function bufferSource(bytes: Uint8Array, name = 'buffer'): Source {
  return {
    name,
    size: bytes.length,
    read(into: Uint8Array, offset: number): Promise<void> {
      if (offset < 0 || offset + into.length > bytes.length) {
        return Promise.reject(truncated(name, offset, into.length, bytes.length));
      }
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
    extents: (start = 0, end = bytes.length) => oneDataExtent(start, Math.min(end, bytes.length)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** The extents of a source that knows nothing of its zeros: one data extent, or none when the range is empty. */
// eslint-disable-next-line @typescript-eslint/require-await -- the contract is an async iterable
export async function* oneDataExtent(start: number, end: number): AsyncGenerator<Extent> {
  if (end > start) yield { kind: 'data', offset: start, length: end - start };
}

/** The error for a read of `length` bytes at `offset` from a source of `size` bytes. */
export function truncated(
  name: string,
  offset: number,
  length: number,
  size: number,
): SparsecopyError {
  return new SparsecopyError(
    'TRUNCATED',
    `read of ${length} bytes at ${offset} goes past the end at ${size}`,
    { source: name, offset, expected: offset + length, found: size },
  );
}
