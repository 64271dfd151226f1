/** Keeps the first and the last bytes of a disk that passes, whatever the order and the size of its chunks. */

import type { Extent } from '../types.ts';

/** Where bytes lie, and what they are; without bytes they are zero. */
type Passing = Pick<Extent, 'offset' | 'length'> & { readonly bytes?: Uint8Array };

/** The edges of what has passed. */
export interface EdgeKeeper {
  /** Takes note of a chunk. Its bytes are copied as far as they are kept. */
  pass(chunk: Passing): void;
  /** The first bytes of all, the last ones, and how much there was: as much of it as has passed. */
  edges(): { readonly head: Uint8Array; readonly tail: Uint8Array; readonly size: number };
}

/** Keeps `headLength` and `tailLength` bytes; what has not passed is zero. */
export function makeEdgeKeeper(headLength: number, tailLength: number): EdgeKeeper {
  const head = Buffer.alloc(headLength);
  /** The bytes before `size`; the last one of them is at its end. */
  const tail = Buffer.alloc(tailLength);
  let size = 0;

  /** Copies what `chunk` has of `window`, whose first byte is that at `start`. */
  function copy({ offset, length, bytes }: Passing, window: Buffer, start: number): void {
    const from = Math.max(offset, start);
    const end = Math.min(offset + length, start + window.length);
    if (from >= end) return;
    if (bytes === undefined) window.fill(0, from - start, end - start);
    else window.set(bytes.subarray(from - offset, end - offset), from - start);
  }

  return {
    pass(chunk): void {
      const end = chunk.offset + chunk.length;
      if (end > size) {
        const shift = Math.min(end - size, tailLength);
        tail.copyWithin(0, shift);
        tail.fill(0, tailLength - shift);
        size = end;
      }
      if (chunk.offset < headLength) copy(chunk, head, 0);
      if (end > size - tailLength) copy(chunk, tail, size - tailLength);
    },
    edges: () => ({
      head: head.subarray(0, Math.min(headLength, size)),
      tail: tail.subarray(tailLength - Math.min(tailLength, size)),
      size,
    }),
  };
}
