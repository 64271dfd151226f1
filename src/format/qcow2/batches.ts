/** Compressed clusters handed to other threads, as many at a time as are wanted at once. */

import { alignUp } from '../../bytes.ts';
import { reviveError } from '../../errors.ts';
import type { Threads } from '../../threads.ts';
import type { Bypass } from '../../types.ts';
import type {
  ClusterBatch,
  ClusterFailures,
  Compression,
  Placed,
  PlacedBatch,
} from './clusters-job.ts';
import type { ClusterDecoder } from './inflate.ts';

/** What a batch decodes to at most, in bytes: much against what asking a thread costs, little enough for a cache. */
const BATCH = 1024 * 1024;

/** Batches under way for each thread: one being decoded, one that waits, so that no thread does. */
const DEPTH = 2;

/** A cluster that is to be decoded. */
interface Wanted {
  readonly input: Uint8Array;
  /** What it decodes to, in bytes. */
  readonly size: number;
}

/** Where the bytes of a batch go, in memory that threads share: `output` is empty where what comes out goes elsewhere. */
interface Slot {
  readonly input: Buffer;
  readonly output: Buffer;
}

/** Clusters that wait for a batch. */
interface Batches<Cluster extends Wanted> {
  /** The number of bytes that those decode to that wait, or are under way. */
  readonly size: number;
  add(cluster: Cluster): void;
  /** Begins batches, as far as there is memory for them. */
  flush(): void;
  /** The same, and smaller ones from now on. */
  flushAll(): void;
}

interface BatchRules<Cluster extends Wanted> {
  readonly threads: Threads;
  readonly clusterSize: number;
  readonly hasOutput: boolean;
  /** Batches have so many bytes of output, or more, until all are flushed. */
  readonly least: number;
  /** Deals with a batch; it rejects for nothing. */
  readonly work: (slot: Slot, batch: readonly Cluster[]) => Promise<void>;
  /** Called when a batch has been dealt with. */
  readonly onDone?: () => void;
}

/** Clusters in batches, `DEPTH` of them under way at once for each thread. */
function makeBatches<Cluster extends Wanted>(rules: BatchRules<Cluster>): Batches<Cluster> {
  const { threads, clusterSize, hasOutput, work, onDone } = rules;
  const outputSize = alignUp(BATCH, clusterSize);
  // The bits of a compressed cluster's length end at twice its size, and sectors are counted whole.
  const inputSize = outputSize + clusterSize;
  const mostSlots = threads.size * DEPTH;
  const free: Slot[] = [];
  const waiting: Cluster[] = [];
  let { least } = rules;
  let made = 0;
  let waitingSize = 0;
  let size = 0;

  /** Memory for a batch, when no more batches are under way than may be. */
  function takeSlot(): Slot | undefined {
    if (free.length === 0 && made < mostSlots) {
      made++;
      const shared = new SharedArrayBuffer(inputSize + (hasOutput ? outputSize : 0));
      return { input: Buffer.from(shared, 0, inputSize), output: Buffer.from(shared, inputSize) };
    }
    return free.pop();
  }

  /** The first of those that wait, as many as have room; their input is copied to `slot`. */
  function takeBatch({ input }: Slot): Cluster[] {
    let [inputs, outputs, count] = [0, 0, 0];
    for (const wanted of waiting) {
      const isFull = inputs + wanted.input.length > input.length;
      if (count > 0 && (isFull || outputs + wanted.size > outputSize)) break;
      input.set(wanted.input, inputs);
      inputs += wanted.input.length;
      outputs += wanted.size;
      count++;
    }
    waitingSize -= outputs;
    return waiting.splice(0, count);
  }

  async function run(slot: Slot, batch: readonly Cluster[]): Promise<void> {
    await work(slot, batch);
    for (const wanted of batch) size -= wanted.size;
    free.push(slot);
    flush();
    onDone?.();
  }

  function flush(): void {
    while (waiting.length > 0 && waitingSize >= least) {
      const slot = takeSlot();
      if (slot === undefined) return;
      void run(slot, takeBatch(slot));
    }
  }

  return {
    get size(): number {
      return size;
    },
    add(cluster): void {
      waiting.push(cluster);
      waitingSize += cluster.size;
      size += cluster.size;
    },
    flush,
    flushAll(): void {
      least = 0;
      flush();
    },
  };
}

/** A cluster that somebody waits for. */
interface DecodedCluster extends Wanted {
  readonly output: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A decoder that has `threads` decode; until they have started, `local` does it. Clusters that are wanted in one turn of the event
 * loop travel together: waking a thread for each costs as much as half of its work.
 */
export function makeThreadedDecoder(
  threads: Threads,
  local: ClusterDecoder,
  clusterSize: number,
  settings: Compression,
): ClusterDecoder {
  async function decodeBatch(slot: Slot, batch: readonly DecodedCluster[]): Promise<void> {
    const lengths = batch.map(({ input, output }) => [input.length, output.length] as const);
    const message: ClusterBatch = { ...settings, ...slot, lengths };
    try {
      const failures = new Map(await threads.ask<ClusterFailures>('clusters', message));
      let at = 0;
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
  }

  const batches = makeBatches({
    threads,
    clusterSize,
    hasOutput: true,
    least: 0,
    work: decodeBatch,
  });
  let willFlush = false;
  const flush = (): void => {
    willFlush = false;
    batches.flush();
  };
  return (input, output) => {
    if (!threads.isReady) return local(input, output);
    return new Promise((resolve, reject) => {
      batches.add({ input, size: output.length, output, resolve, reject });
      if (!willFlush) queueMicrotask(flush);
      willFlush = true;
    });
  };
}

/** A cluster and its place on the disk. */
interface PlacedCluster extends Wanted {
  readonly offset: number;
  /** How much of it belongs there, in bytes. */
  readonly length: number;
  /** What an error of the decoder means. */
  readonly errorOf: (error: unknown) => unknown;
}

/** Has clusters decoded and written to their places by threads. */
export interface ClusterPlacer {
  /** True when threads work. */
  readonly isReady: boolean;
  /**
   * Takes a cluster; its input is not to be changed before `end`. A promise is to be awaited before the next call.
   * @throws the error of any cluster before.
   */
  place(cluster: Omit<PlacedCluster, 'size'>): Promise<void> | undefined;
  /** Resolves when all have been placed. @throws the error of any. */
  end(): Promise<void>;
  /** Calls off those that have not been begun, and resolves when none is under way, whatever became of it. */
  settle(): Promise<void>;
}

/** A placer for clusters of an image, by way of `bypass`. */
export function makeClusterPlacer(
  threads: Threads,
  clusterSize: number,
  settings: Compression,
  bypass: Bypass,
): ClusterPlacer {
  const most = (threads.size * DEPTH + 1) * alignUp(BATCH, clusterSize);
  let failure: { readonly error: unknown } | undefined;
  let waiters: (() => void)[] = [];

  async function placeBatch({ input }: Slot, batch: readonly PlacedCluster[]): Promise<void> {
    try {
      if (failure !== undefined) return;
      const places = batch.map((cluster) => {
        const { offset, length } = cluster;
        return [cluster.input.length, offset, length] as const;
      });
      const message: PlacedBatch = { ...settings, clusterSize, input, places };
      const { failures } = await bypass.move<Placed>('place-clusters', message, batch);
      for (const [at, error] of failures) {
        failure ??= { error: batch[at]?.errorOf(reviveError(error)) };
      }
    } catch (error) {
      failure ??= { error };
    }
  }

  const batches = makeBatches({
    threads,
    clusterSize,
    hasOutput: false,
    least: BATCH,
    work: placeBatch,
    onDone(): void {
      const all = waiters;
      waiters = [];
      for (const goOn of all) goOn();
    },
  });
  const check = (): void => {
    if (failure !== undefined) throw failure.error;
  };
  const untilBelow = async (size: number): Promise<void> => {
    while (batches.size >= size) await new Promise<void>((resolve) => waiters.push(resolve));
  };
  const settle = async (): Promise<void> => {
    batches.flushAll();
    await untilBelow(1);
  };
  return {
    get isReady(): boolean {
      return threads.isReady;
    },
    place(cluster): Promise<void> | undefined {
      check();
      batches.add({ ...cluster, size: clusterSize });
      batches.flush();
      return batches.size >= most ? untilBelow(most) : undefined;
    },
    async end(): Promise<void> {
      await settle();
      check();
    },
    async settle(): Promise<void> {
      failure ??= { error: new Error('nobody wants the clusters any more') };
      await settle();
    },
  };
}
