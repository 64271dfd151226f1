/** Chunks put together of pieces of the disk that come in any order, some of them from work that takes its time. */

import { alignDown, alignUp } from '../../bytes.ts';
import { makePool } from '../../chunk/pool.ts';
import type { Chunk, ChunkPool } from '../../types.ts';

/**
 * Ranges of the disk being filled at once, and how many others a range waits for more: writers have some MiB of clusters
 * under way, which land as they finish. What then is missing is not data, or far away.
 */
const MOST_OPEN = 8;

/** Ranges in which nothing more is put, but work is under way, before somebody waits for it. */
const MOST_CLOSED = 4;

/**
 * Pieces of work under way. Half of them are started at a time: measured, to start one costs 75 us where zlib's threads sleep
 * and have to be woken, 33 us in a row of 32.
 */
const MOST_WORK = 64;

/** Where clusters are large it is fewer: each has its compressed bytes, zlib's buffer and its place. */
const MOST_WORK_SIZE = 8 * 1024 * 1024;

/** Puts bytes into `target`: at once, or until its promise resolves. */
type Fill = (target: Buffer) => Promise<void> | undefined;

/** Each byte of the disk is placed at most once. Offsets are those of the disk, in bytes. */
export interface Assembly {
  /** How many bytes from `offset` on may be placed at once. */
  roomAt(offset: number): number;
  /**
   * Lets `fill` put `length` bytes at `offset`; it gets `room` bytes (default `length`), of which the rest means nothing. A
   * promise is to be awaited before the next call.
   * @throws what was thrown by work that was begun before.
   */
  place(offset: number, length: number, fill: Fill, room?: number): Promise<void> | undefined;
  /** The same for work on zlib's threads; `fill` may be called later, with others. */
  placeLater(offset: number, length: number, fill: Fill, room?: number): Promise<void> | undefined;
  /** Nothing more is placed: what there is becomes chunks. */
  end(): void;
  /** True when it is time to `take` chunks; there are some. */
  readonly isReady: boolean;
  /** Some chunks, once they are complete. @throws what was thrown by work. */
  take(): Promise<Chunk[]>;
  /** Calls off work that has not been called, and resolves when none is under way, whatever became of it. */
  settle(): Promise<void>;
}

/** What has come of a range of the disk that is one buffer long and starts at a multiple of that. */
interface Slab {
  readonly start: number;
  readonly buffer: Buffer;
  /** In the buffer, ascending, with gaps between them. */
  readonly ranges: { start: number; end: number }[];
  filled: number;
  /** Number of the slab that was new when something was put here last. */
  usedAt: number;
  /** Pieces of work under way. */
  work: number;
}

/** An assembly of chunks in buffers of `pool`, or of a pool of its own if these have no room for a cluster. */
export function makeAssembly(
  pool: ChunkPool,
  { clusterSize, virtualSize }: { readonly clusterSize: number; readonly virtualSize: number },
): Assembly {
  // A cluster is decoded into one buffer.
  const fits = pool.bufferSize % clusterSize === 0;
  const buffers = fits ? pool : makePool(alignUp(pool.bufferSize, clusterSize));
  const { bufferSize } = buffers;
  const mostWork = Math.max(2, Math.min(MOST_WORK, Math.floor(MOST_WORK_SIZE / clusterSize)));
  /** By their start, the one used last at the end. */
  const open = new Map<number, Slab>();
  const closed: Slab[] = [];
  let waiting: (() => void)[] = [];
  /** Pieces of work under way, and who waits for one of them to end. */
  let working = 0;
  let waiters: (() => void)[] = [];
  let last: Slab | undefined;
  let newest = 0;
  let failure: { error: unknown } | undefined;

  function check(): void {
    if (failure !== undefined) throw failure.error;
  }

  function slabAt(start: number): Slab {
    if (last?.start === start) return last;
    let slab = open.get(start);
    if (slab !== undefined) {
      open.delete(start);
      slab.usedAt = newest;
    } else {
      newest++;
      for (const old of open.values()) {
        if (open.size < MOST_OPEN && old.usedAt > newest - MOST_OPEN) break;
        close(old);
      }
      const buffer = buffers.take();
      slab = { start, buffer, ranges: [], filled: 0, usedAt: newest, work: 0 };
    }
    open.set(start, slab);
    last = slab;
    return slab;
  }

  function close(slab: Slab): void {
    open.delete(slab.start);
    if (last === slab) last = undefined;
    closed.push(slab);
  }

  /** Takes the place for `length` bytes at `offset`. */
  function mark(offset: number, length: number): Slab {
    check();
    const slab = slabAt(alignDown(offset, bufferSize));
    const start = offset - slab.start;
    addRange(slab.ranges, start, start + length);
    slab.filled += length;
    if (slab.filled === Math.min(bufferSize, virtualSize - slab.start)) close(slab);
    return slab;
  }

  function start(slab: Slab, offset: number, room: number, fill: Fill): void {
    const from = offset - slab.start;
    const filling = fill(slab.buffer.subarray(from, from + room));
    if (filling === undefined) return;
    slab.work++;
    working++;
    const ended = (): void => {
      slab.work--;
      working--;
      const all = waiters;
      waiters = [];
      for (const goOn of all) goOn();
    };
    filling.then(ended, (error: unknown) => {
      failure ??= { error };
      ended();
    });
  }

  function startWaiting(): void {
    const all = waiting;
    waiting = [];
    for (const startOne of all) startOne();
  }

  /** Resolves when a piece of work that is under way has ended. */
  function oneEnded(): Promise<void> {
    return new Promise((resolve) => waiters.push(resolve));
  }

  /** Resolves when there may be more work. */
  function wait(): Promise<void> | undefined {
    if (waiting.length * 2 >= mostWork) startWaiting();
    return waiting.length + working < mostWork ? undefined : oneEnded();
  }

  function chunksOf({ start: base, buffer, ranges }: Slab): Chunk[] {
    let left = ranges.length;
    const release = (): void => {
      if (--left === 0) buffers.give(buffer);
    };
    return ranges.map(({ start, end }) => ({
      kind: 'data',
      offset: base + start,
      length: end - start,
      bytes: buffer.subarray(start, end),
      release,
    }));
  }

  return {
    roomAt: (offset) => bufferSize - (offset % bufferSize),
    place(offset, length, fill, room = length): Promise<void> | undefined {
      start(mark(offset, length), offset, room, fill);
      return wait();
    },
    placeLater(offset, length, fill, room = length): Promise<void> | undefined {
      const slab = mark(offset, length);
      slab.work++;
      waiting.push(() => {
        slab.work--;
        start(slab, offset, room, fill);
      });
      return wait();
    },
    end(): void {
      for (const slab of [...open.values()]) close(slab);
    },
    get isReady(): boolean {
      return closed.length > MOST_CLOSED || closed[0]?.work === 0;
    },
    async take(): Promise<Chunk[]> {
      const slab = closed.shift();
      if (slab !== undefined && slab.work > 0) startWaiting();
      while (slab !== undefined && slab.work > 0) await oneEnded();
      check();
      return slab === undefined ? [] : chunksOf(slab);
    },
    async settle(): Promise<void> {
      waiting = [];
      while (working > 0) await oneEnded();
    },
  };
}

/** Adds a range to others, which it does not overlap, and joins it to its neighbours. */
function addRange(ranges: { start: number; end: number }[], start: number, end: number): void {
  let at = ranges.length;
  while (at > 0 && (ranges[at - 1]?.start ?? 0) > start) at--;
  const before = ranges[at - 1];
  const after = ranges[at];
  const joinsBefore = before?.end === start;
  const joinsAfter = after?.start === end;
  if (joinsBefore && joinsAfter) {
    before.end = after.end;
    ranges.splice(at, 1);
  } else if (joinsBefore) before.end = end;
  else if (joinsAfter) after.start = start;
  else ranges.splice(at, 0, { start, end });
}
