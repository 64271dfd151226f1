/** Compressed clusters decoded by a thread, some at a time: from one shared buffer to another, or to the file that is made of them. */

import { flattenError, type FlatError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import { makePlacer, type Target } from '../../sink/mover-job.ts';
import type { JobResult, Moved } from '../../types.ts';
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

/** Some clusters of one image, and their places on the disk. */
export interface PlacedBatch extends Compression {
  readonly clusterSize: number;
  readonly input: Uint8Array;
  /** Of each its length in `input`, its offset on the disk, and how much of it belongs there: the disk may end within its last cluster. */
  readonly places: readonly (readonly [input: number, offset: number, length: number])[];
}

/** What became of a batch that was placed. */
export interface Placed extends Moved {
  readonly failures: ClusterFailures;
}

/** What was wrong with some of the clusters, by their place in the batch. */
export type ClusterFailures = readonly (readonly [at: number, error: FlatError])[];

/** Fills `output`, a cluster, from the compressed bytes that `input` starts with, before it returns. @throws as a `ClusterDecoder`. */
export type Decode = (input: Uint8Array, output: Uint8Array) => void;

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
      decode(batch.input.subarray(from, from + input), batch.output.subarray(to, to + output));
    } catch (error) {
      failures.push([at, flattenError(error)]);
    }
    from += input;
    to += output;
  }
  return { answer: failures };
}

/** Clusters that follow each other on the disk, until they are written; it grows with the batches. */
let row: Buffer = Buffer.alloc(0);

/** The job `place-clusters`: what is decoded is written to its place at once. @throws what writing throws, marked with its step. */
export async function placeClusters(batch: PlacedBatch & Target): Promise<JobResult> {
  const { clusterSize, input, places } = batch;
  const decode = await decoderFor(batch);
  const placer = makePlacer(batch);
  const failures: [number, FlatError][] = [];
  if (row.length < places.length * clusterSize) {
    row = Buffer.allocUnsafeSlow(places.length * clusterSize);
  }
  let from = 0;
  let start = 0;
  let filled = 0;
  const writeRow = (): void => {
    if (filled > 0) placer.write(row.subarray(0, filled), start);
    filled = 0;
  };
  for (const [at, [inputLength, offset, length]] of places.entries()) {
    if (offset !== start + filled) writeRow();
    if (filled === 0) start = offset;
    try {
      const bytes = input.subarray(from, from + inputLength);
      decode(bytes, row.subarray(filled, filled + clusterSize));
      filled += length;
    } catch (error) {
      failures.push([at, flattenError(error)]);
    }
    from += inputLength;
  }
  writeRow();
  return { answer: { ...placer.moved, failures } satisfies Placed };
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
