/** Chunks as plain bytes, for outputs that cannot have holes. */

import type { Transform } from 'node:stream';
import { SparsecopyError } from '../errors.ts';
import type { Chunk } from '../types.ts';
import { chunkTransform } from './transform.ts';

/** Shared by all: zeros are sent in pieces of it. */
const zeros = Buffer.alloc(64 * 1024);

/**
 * A stage from chunks to bytes; zero chunks become zero bytes. Chunks must come in disk order without gaps.
 * @throws SparsecopyError `UNSUPPORTED` (as the stream's error) when a chunk is not where the last one ended.
 */
export function flatten(): Transform {
  let offset = 0;
  return chunkTransform(
    function* (chunk: Chunk): Generator<Uint8Array> {
      if (chunk.offset !== offset) {
        throw new SparsecopyError(
          'UNSUPPORTED',
          `a stream of bytes needs chunks in disk order: expected one at ${offset}, found ${chunk.offset}`,
          {
            feature: 'chunks out of order',
            offset: chunk.offset,
            expected: offset,
            found: chunk.offset,
          },
        );
      }
      offset += chunk.length;
      if (chunk.kind === 'data') {
        yield chunk.bytes;
        return;
      }
      for (let left = chunk.length; left > 0; left -= zeros.length) {
        yield left < zeros.length ? zeros.subarray(0, left) : zeros;
      }
    },
    undefined,
    { readableObjectMode: false, readableHighWaterMark: 64 * 1024 },
  );
}
