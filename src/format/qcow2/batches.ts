/** Compressed clusters handed to other threads, as many at a time as are wanted at once. */

import { alignUp } from '../../bytes.ts';
import { reviveError } from '../../errors.ts';
import type { Threads } from '../../threads.ts';
import type { ClusterBatch, ClusterFailures } from './clusters-job.ts';
import type { ClusterDecoder } from './inflate.ts';

/** What a batch decodes to at most, in bytes: much against what asking a thread costs, little enough for a cache. */
const BATCH = 1024 * 1024;

/** Batches under way for each thread: one being decoded, one that waits, so that no thread does. */
const DEPTH = 2;

/** A cluster that somebody waits for. */
interface Wanted {
  readonly input: Uint8Array;
  readonly output: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Memory that threads share. */
interface Slot {
  readonly input: Buffer;
  readonly output: Buffer;
}

/**
 * A decoder that has `threads` decode; until they have started, `local` does it. Clusters that are wanted in one turn of the event
 * loop travel together: waking a thread for each costs as much as half of its work.
 */
export function makeThreadedDecoder(
  threads: Threads,
  local: ClusterDecoder,
  clusterSize: number,
  settings: Pick<ClusterBatch, 'compressionType' | 'limits'>,
): ClusterDecoder {
  const outputSize = alignUp(BATCH, clusterSize);
  // The bits of a compressed cluster's length end at twice its size, and sectors are counted whole.
  const inputSize = outputSize + clusterSize;
  const mostSlots = threads.size * DEPTH;
  const free: Slot[] = [];
  let made = 0;
  const waiting: Wanted[] = [];

  /** Memory for a batch, when no more batches are under way than may be. */
  function takeSlot(): Slot | undefined {
    if (free.length === 0 && made < mostSlots) {
      made++;
      const shared = new SharedArrayBuffer(inputSize + outputSize);
      return { input: Buffer.from(shared, 0, inputSize), output: Buffer.from(shared, inputSize) };
    }
    return free.pop();
  }

  /** The first of those that wait, as many as have room. */
  function takeBatch({ input, output }: Slot): Wanted[] {
    let [inputs, outputs, count] = [0, 0, 0];
    for (const wanted of waiting) {
      inputs += wanted.input.length;
      outputs += wanted.output.length;
      if (count > 0 && (inputs > input.length || outputs > output.length)) break;
      count++;
    }
    return waiting.splice(0, count);
  }

  function flush(): void {
    while (waiting.length > 0) {
      const slot = takeSlot();
      if (slot === undefined) return;
      void decodeBatch(slot, takeBatch(slot));
    }
  }

  async function decodeBatch(slot: Slot, batch: readonly Wanted[]): Promise<void> {
    let at = 0;
    for (const { input } of batch) {
      slot.input.set(input, at);
      at += input.length;
    }
    const lengths = batch.map(({ input, output }) => [input.length, output.length] as const);
    const message: ClusterBatch = { ...settings, ...slot, lengths };
    try {
      const failures = new Map(await threads.ask<ClusterFailures>('clusters', message));
      at = 0;
      for (const [index, { output, resolve, reject }] of batch.entries()) {
        const failure = failures.get(index);
        if (failure !== undefined) reject(reviveError(failure));
        else {
          output.set(slot.output.subarray(at, at + output.length));
          resolve();
        }
        at += output.length;
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
    free.push(slot);
    flush();
  }

  return (input, output) => {
    if (!threads.isReady) return local(input, output);
    return new Promise((resolve, reject) => {
      if (waiting.push({ input, output, resolve, reject }) === 1) queueMicrotask(flush);
    });
  };
}
