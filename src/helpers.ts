/** Threads, and maybe this one, that are given batches of work, no more than each can soon begin with. */

import { askHere } from './jobs.ts';
import type { Ask, Lane, Threads } from './threads.ts';

/** Batches that a thread has: one that it works on, and one more, so that it need not wait. */
const DEPTH = 2;

export interface Helpers<Batch> {
  /** Resolves when there may be another. */
  give(batch: Batch): Promise<void>;
  /** Resolves when nothing is under way. */
  settle(): Promise<void>;
  /** Takes note that there is no more. */
  close(): void;
}

export interface HelpersRules<Batch> {
  /** How many threads there are to be, which start with the first batch. */
  readonly count: number;
  /** Whether this thread works on what no other has room for. */
  readonly blocking: boolean;
  /** Has `ask` work on `batch`; does not reject. */
  readonly work: (ask: Ask, batch: Batch) => Promise<void>;
}

export function makeHelpers<Batch>(
  threads: Threads,
  { count, blocking, work }: HelpersRules<Batch>,
): Helpers<Batch> {
  const helpers: { readonly lane: Lane; readonly flying: Set<Promise<void>> }[] = [];
  return {
    async give(batch): Promise<void> {
      while (helpers.length < count) helpers.push({ lane: threads.lane(), flying: new Set() });
      const free = helpers.find(({ flying }) => flying.size < DEPTH);
      if (free !== undefined) {
        const { lane, flying } = free;
        const flight: Promise<void> = work(lane.ask, batch).finally(() => flying.delete(flight));
        flying.add(flight);
      } else if (blocking) {
        await work(askHere, batch);
        // Answers, signals and timers have their turn.
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (!blocking && helpers.every(({ flying }) => flying.size === DEPTH)) {
        await Promise.race(helpers.flatMap(({ flying }) => [...flying]));
      }
    },
    async settle(): Promise<void> {
      await Promise.all(helpers.flatMap(({ flying }) => [...flying]));
    },
    close(): void {
      for (const { lane } of helpers) lane.close();
    },
  };
}
