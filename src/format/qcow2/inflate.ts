/** Compressed clusters of type zlib: the bytes of one in, a whole cluster out. */

import { makeInflater, type Inflater } from '../../codec/inflate.ts';
import { SparsecopyError } from '../../errors.ts';

/**
 * Fills all of `output`, which is one cluster, from the compressed data at the start of `input`; what follows the data
 * is ignored. Nothing writes to `output` when the promise has settled.
 * @throws SparsecopyError `CORRUPT`, `LIMIT`, `UNSUPPORTED`, without the name of the source.
 */
export type ClusterDecoder = (input: Uint8Array, output: Uint8Array) => Promise<void>;

/** Writers use windows of 12 bits; 15 reads every deflate stream. */
const WINDOW_BITS = 15;

/**
 * Room behind the cluster in zlib's output buffer. Only when space is left over does zlib know that there is no more to
 * come, and need not come back for another, empty round with another buffer.
 */
const ROOM = 64;

/**
 * Clusters up to this size are inflated at once, on the thread of the caller: handing one over to zlib costs some 40 us, in
 * which 16 KiB are done.
 */
const SMALL = 16 * 1024;

/**
 * The decoder for compression type 0: inflates raw deflate until a cluster is full. The specification ends
 * decompression there, so a stream may go on, and what it goes on with does not matter.
 *
 * Larger clusters have a stream each, on zlib's own threads, which keeps the cores at work. Measured on two of them:
 * `zlib.inflateRaw` is as fast with half as much work again on the main thread; two worker threads are a sixth faster,
 * for 25 MiB each and a good deal more code.
 */
export function makeDeflateDecoder(clusterSize: number): ClusterDecoder {
  if (clusterSize > SMALL) return (input, output) => inflate(input, output, ROOM);
  return (input, output) =>
    new Promise((resolve) => {
      inflateNow(input, output);
      resolve();
    });
}

/** Of this thread. */
let inflater: Inflater | undefined;

/**
 * As a `ClusterDecoder`, on the thread of the caller and without anything left behind.
 * @throws SparsecopyError `CORRUPT`, `LIMIT`, without the name of the source.
 */
export function inflateNow(input: Uint8Array, output: Uint8Array): void {
  inflater ??= makeInflater();
  inflater.inflate(input, output);
}

/** Inflates into all of `output`. With `room`, what is wrong that close behind the cluster is looked at once more. */
async function inflate(input: Uint8Array, output: Uint8Array, room: number): Promise<void> {
  const { createInflateRaw } = await import('node:zlib');
  await new Promise<void>((resolve, reject) => {
    const stream = createInflateRaw({ windowBits: WINDOW_BITS, chunkSize: output.length + room });
    let found = 0;
    const finish = (): void => {
      if (found < output.length) reject(endsEarly(output.length, found));
      // Not before zlib is done with what it is doing: being destroyed under its hands costs it an error object.
      queueMicrotask(() => stream.destroy());
    };
    // zlib gives its buffer away when it is full, or when there is no more to come: that is, once.
    stream.once('data', (chunk: Uint8Array) => {
      found = Math.min(chunk.length, output.length);
      if (found === output.length) {
        output.set(found === chunk.length ? chunk : chunk.subarray(0, found));
        resolve();
      }
      finish();
    });
    stream.once('end', finish);
    stream.once('error', (cause) => {
      if (room > 0) resolve(inflate(input, output, 0));
      else reject(broken(cause));
    });
    stream.write(input, (error) => {
      if (error === null || error === undefined) finish();
    });
  });
}

function endsEarly(expected: number, found: number): SparsecopyError {
  const sentence = `deflate stream ends after ${found} bytes, expected ${expected}`;
  return new SparsecopyError('CORRUPT', sentence, { expected, found });
}

function broken(cause: Error): SparsecopyError {
  return new SparsecopyError('CORRUPT', `deflate stream is broken: ${cause.message}`, { cause });
}
