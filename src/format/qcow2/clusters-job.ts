/** Compressed clusters decoded by a thread, some at a time: from one shared buffer to another. */

import { flattenError, type FlatError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { JobResult } from '../../types.ts';
import { inflateNow } from './inflate.ts';

/** The limits that a frame is held to. */
type FrameLimits = Pick<Limits, 'decoderWindow' | 'virtualSize'>;

/** How an image's clusters are compressed. */
export interface Compression {
  readonly compressionType: number;
  readonly limits: FrameLimits;
}

/** Some clusters of one image; all offsets and lengths are bytes. */
export interface ClusterBatch extends Compression {
  /** Their compressed bytes, one after the other. */
  readonly input: Uint8Array;
  /** The clusters as they come out, one after the other. */
  readonly output: Uint8Array;
  /** Of each its length in `input`, and in `output`. */
  readonly lengths: readonly (readonly [input: number, output: number])[];
}

/** What was wrong with some of the clusters, by their place in the batch. */
export type ClusterFailures = readonly (readonly [at: number, error: FlatError])[];

export type Decode = (input: Uint8Array, output: Uint8Array) => Promise<void> | void;

/** By their limits. */
const zstd = new Map<string, Promise<Decode>>();

/** The job `clusters`. */
export async function decodeClusters(batch: ClusterBatch): Promise<JobResult> {
  const decode = await decoderFor(batch);
  const failures: [number, FlatError][] = [];
  let from = 0;
  let to = 0;
  for (const [at, [input, output]] of batch.lengths.entries()) {
    try {
      const done = decode(
        batch.input.subarray(from, from + input),
        batch.output.subarray(to, to + output),
      );
      if (done !== undefined) await done;
    } catch (error) {
      failures.push([at, flattenError(error)]);
    }
    from += input;
    to += output;
  }
  return { answer: failures };
}

/** What decodes clusters on this thread. */
export async function decoderFor({ compressionType, limits }: Compression): Promise<Decode> {
  if (compressionType === 0) return inflateNow;
  const { decoderWindow, virtualSize } = limits;
  const { makeZstdClusterDecoder } = await import('../../codec/zstd-cluster.ts');
  const key = `${decoderWindow} ${virtualSize}`;
  const made = zstd.get(key) ?? makeZstdClusterDecoder({ decoderWindow, virtualSize });
  zstd.set(key, made);
  return made;
}
