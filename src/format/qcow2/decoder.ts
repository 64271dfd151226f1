/** Which decoder the compressed clusters of an image need, and what its errors mean for the image. */

import { isSparsecopyError, SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Bypass, OpenContext } from '../../types.ts';
import { makeClusterPlacer, makeThreadedDecoder, type ClusterPlacer } from './batches.ts';
import type { Compression } from './clusters-job.ts';
import type { Header } from './header.ts';
import { makeDeflateDecoder, type ClusterDecoder } from './inflate.ts';
import type { CompressedRun } from './runs.ts';

/** Images with less compressed data than this, in bytes, are decoded before threads have started. */
const WORTH = 8 * 1024 * 1024;

/**
 * The decoder for the clusters of an image, which has `threads` help when `expected` bytes (of the file, `undefined` when that is not known)
 * are worth it.
 */
export async function makeDecoder(
  { clusterSize, compressionType }: Header,
  { limits, threads }: OpenContext,
  expected: number | undefined,
): Promise<ClusterDecoder> {
  const local = await makeLocalDecoder(clusterSize, compressionType, limits);
  if (threads?.areWorth(expected ?? Infinity, WORTH) !== true) return local;
  const settings = compressionOf({ compressionType }, limits);
  const remote = makeThreadedDecoder(threads, local, clusterSize, settings);
  let seen = expected ?? 0;
  return (input, output) => {
    seen += input.length;
    if (!threads.areWorth(seen, WORTH)) return local(input, output);
    threads.start();
    return remote(input, output);
  };
}

/** What a thread is told of an image whose clusters it decodes. */
function compressionOf(
  { compressionType }: Pick<Header, 'compressionType'>,
  { decoderWindow, virtualSize }: Limits,
): Compression {
  return { compressionType, limits: { decoderWindow, virtualSize } };
}

/** Clusters smaller than this are written by the sink, which joins them. */
const LEAST_PLACED = 4096;

/** What has threads write the clusters of an image that passes to its disk, where that can be done. */
export function placerFor(
  header: Header,
  { limits, threads }: OpenContext,
  bypass: Bypass | undefined,
): ClusterPlacer | undefined {
  const { clusterSize } = header;
  if (bypass === undefined || threads?.areWorth(Infinity, WORTH) !== true) return undefined;
  if (clusterSize < LEAST_PLACED || clusterSize % bypass.blockSize !== 0) return undefined;
  return makeClusterPlacer(threads, clusterSize, compressionOf(header, limits), bypass);
}

async function makeLocalDecoder(
  clusterSize: number,
  compressionType: number,
  limits: Limits,
): Promise<ClusterDecoder> {
  if (compressionType === 0) return makeDeflateDecoder(clusterSize);
  // Loaded by images that need it: it brings a WebAssembly module.
  const { makeZstdClusterDecoder } = await import('../../codec/zstd-cluster.ts');
  const decode = await makeZstdClusterDecoder(limits);
  return (input, output) =>
    new Promise((resolve) => {
      decode(input, output);
      resolve();
    });
}

/**
 * The error to throw for `error`, which the decoder threw for `run` of the image called `name`; `isCut` when the file ends
 * within the data of `run`. Errors that are not this package's stay as they are.
 */
export function clusterError(
  error: unknown,
  run: CompressedRun,
  name: string,
  isCut: boolean,
): unknown {
  if (!isSparsecopyError(error)) return error;
  return new SparsecopyError(
    // All that the entry promises is there, so what ends early contradicts it.
    error.code === 'TRUNCATED' && !isCut ? 'CORRUPT' : error.code,
    `compressed cluster at ${run.hostOffset} (disk offset ${run.offset}): ${error.message}`,
    {
      source: name,
      offset: run.hostOffset,
      cause: error,
      ...(error.limit === undefined ? {} : { limit: error.limit }),
    },
  );
}
