/** L2 tables that are to be read in any order: each once, in the order of the file, several in one read. */

import { viewOf } from '../../bytes.ts';
import type { PaddedFile } from './padded.ts';

/** Offsets that are collected before their tables are read: 8 MiB of them. */
const MOST = 1024 * 1024;

/** Length of a read, unless a table is longer. */
const GROUP = 1024 * 1024;

/** Tables with no more between them are read together: small clusters have a table every 32 KiB. */
const GAP = 64 * 1024;

export interface TableList {
  readonly isFull: boolean;
  push(offset: number): void;
  /** The offsets, ascending; the list is empty then, and they are good until the next `push`. */
  take(): Float64Array;
}

/** A list that will get `count` offsets in all. */
export function makeTableList(count: number): TableList {
  const offsets = new Float64Array(Math.min(count, MOST));
  let length = 0;
  return {
    get isFull(): boolean {
      return length === offsets.length;
    },
    push(offset): void {
      offsets[length++] = offset;
    },
    take(): Float64Array {
      const taken = offsets.subarray(0, length).sort();
      length = 0;
      return taken;
    },
  };
}

/** A read of several tables, or one: those from `start` to `end` (exclusive) in the list. */
interface Group {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array;
  /** Never rejects. */
  readonly reading: Promise<{ readonly error: unknown } | undefined>;
}

/**
 * Calls `visit` for each of the tables of `size` bytes at `offsets` (ascending), with how many times it is there. The next ones are
 * read meanwhile. `view` is good until `visit` has finished.
 */
export async function forEachTable(
  file: PaddedFile,
  offsets: Float64Array,
  size: number,
  signal: AbortSignal | undefined,
  visit: (offset: number, view: DataView, times: number) => Promise<void> | undefined,
): Promise<void> {
  const [first] = offsets;
  if (first === undefined) return;
  const offsetAt = (index: number): number => offsets[index] ?? Infinity;
  const longest = Math.min(Math.max(GROUP, size), offsetAt(offsets.length - 1) + size - first);
  let buffer = Buffer.allocUnsafeSlow(longest);
  let other: typeof buffer | undefined;

  function start(index: number): Group {
    const from = offsetAt(index);
    let end = index + 1;
    while (
      offsetAt(end) <= offsetAt(end - 1) + size + GAP &&
      offsetAt(end) + size - from <= longest
    ) {
      end++;
    }
    const bytes = buffer.subarray(0, offsetAt(end - 1) + size - from);
    const reading = file.read(bytes, from).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    return { start: index, end, bytes, reading };
  }

  let next: Group | undefined = start(0);
  try {
    while (next !== undefined) {
      const { start: from, end, bytes, reading }: Group = next;
      const failed = await reading;
      if (failed !== undefined) throw failed.error;
      next = undefined;
      signal?.throwIfAborted();
      if (end < offsets.length) {
        [buffer, other] = [other ?? Buffer.allocUnsafeSlow(longest), buffer];
        next = start(end);
      }
      const view = viewOf(bytes);
      for (let index = from; index < end;) {
        const offset = offsetAt(index);
        let times = 1;
        while (offsetAt(index + times) === offset) times++;
        const table = new DataView(view.buffer, view.byteOffset + offset - offsetAt(from), size);
        await visit(offset, table, times);
        index += times;
      }
    }
  } finally {
    await next?.reading;
  }
}
