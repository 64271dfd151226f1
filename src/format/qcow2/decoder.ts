/** Which decoder the compressed clusters of an image need, and what its errors mean for the image. */

import { isSparsecopyError, SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { Header } from './header.ts';
import { makeDeflateDecoder, type ClusterDecoder } from './inflate.ts';
import type { CompressedRun } from './runs.ts';

export async function makeDecoder(
  { clusterSize, compressionType }: Header,
  limits: Limits,
): Promise<ClusterDecoder> {
  if (compressionType === 0) return makeDeflateDecoder(clusterSize);
  // Loaded by images that need it: it brings a WebAssembly module.
  const { makeZstdClusterDecoder } = await import('../../codec/zstd.ts');
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
