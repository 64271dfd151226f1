/** Runs of a disk whose bytes are still wanted from a file that passes once: which of them lies first in the file. */

import type { CompressedRun, PlainRun } from './runs.ts';

/** Runs by their offset in the file, in 32 bytes each. */
export interface Pending {
  readonly count: number;
  /** Where the first run, or what is still wanted of it, starts in the file; Infinity when there is none. */
  readonly hostOffset: number;
  push(run: PlainRun | CompressedRun): void;
  /** The run that lies first, or what is still wanted of it. There is one. */
  first(): PlainRun | CompressedRun;
  /** Takes `length` bytes off the start of the first run, which is plain and longer. */
  shorten(length: number): void;
  /** Removes the first run. */
  pop(): void;
  /** All runs in no order; plain ones with what was taken off them put back. */
  all(): Iterable<PlainRun | CompressedRun>;
}

export function makePending(): Pending {
  // A binary heap: the children of the run at n are at 2n + 1 and 2n + 2, and lie behind it in the file.
  let hostOffsets = new Float64Array(64);
  let offsets = new Float64Array(64);
  let lengths = new Float64Array(64);
  /** Of a plain run, what was taken off it; of a compressed one, its length in the file, negative. */
  let extras = new Float64Array(64);
  let count = 0;

  function set(at: number, host: number, offset: number, length: number, extra: number): void {
    hostOffsets[at] = host;
    offsets[at] = offset;
    lengths[at] = length;
    extras[at] = extra;
  }

  function move(from: number, to: number): void {
    set(to, hostOffsets[from] ?? 0, offsets[from] ?? 0, lengths[from] ?? 0, extras[from] ?? 0);
  }

  /** Puts a run where `hole` is, or lower, so that it lies before its children. */
  function sink(hole: number, host: number, offset: number, length: number, extra: number): void {
    let at = hole;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= count) break;
      if (child + 1 < count && (hostOffsets[child + 1] ?? 0) < (hostOffsets[child] ?? 0)) child++;
      if ((hostOffsets[child] ?? 0) >= host) break;
      move(child, at);
      at = child;
    }
    set(at, host, offset, length, extra);
  }

  function runAt(at: number, isWhole: boolean): PlainRun | CompressedRun {
    const extra = extras[at] ?? 0;
    const taken = isWhole && extra > 0 ? extra : 0;
    const hostOffset = (hostOffsets[at] ?? 0) - taken;
    const offset = (offsets[at] ?? 0) - taken;
    const length = (lengths[at] ?? 0) + taken;
    return extra < 0
      ? { kind: 'compressed', offset, length, hostOffset, hostLength: -extra }
      : { kind: 'plain', offset, length, hostOffset };
  }

  return {
    get count(): number {
      return count;
    },
    get hostOffset(): number {
      return count === 0 ? Infinity : (hostOffsets[0] ?? 0);
    },
    push(run: PlainRun | CompressedRun): void {
      if (count === hostOffsets.length) {
        hostOffsets = grown(hostOffsets);
        offsets = grown(offsets);
        lengths = grown(lengths);
        extras = grown(extras);
      }
      let at = count++;
      while (at > 0) {
        const parent = (at - 1) >>> 1;
        if ((hostOffsets[parent] ?? 0) <= run.hostOffset) break;
        move(parent, at);
        at = parent;
      }
      const extra = run.kind === 'compressed' ? -run.hostLength : 0;
      set(at, run.hostOffset, run.offset, run.length, extra);
    },
    first: () => runAt(0, false),
    shorten(length: number): void {
      sink(
        0,
        (hostOffsets[0] ?? 0) + length,
        (offsets[0] ?? 0) + length,
        (lengths[0] ?? 0) - length,
        (extras[0] ?? 0) + length,
      );
    },
    pop(): void {
      count--;
      if (count === 0) return;
      sink(
        0,
        hostOffsets[count] ?? 0,
        offsets[count] ?? 0,
        lengths[count] ?? 0,
        extras[count] ?? 0,
      );
    },
    *all(): Generator<PlainRun | CompressedRun> {
      for (let at = 0; at < count; at++) yield runAt(at, true);
    },
  };
}

function grown(array: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(array.length * 2);
  larger.set(array);
  return larger;
}
