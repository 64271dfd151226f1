/** The stages for pipelines of one's own: an input as a stream of chunks, and decompression as a Duplex. */

import { Duplex, PassThrough, Readable } from 'node:stream';
import { unshared } from './bytes.ts';
import { codecs, detectCodec } from './codec/index.ts';
import { SparsecopyError } from './errors.ts';
import { defaultLimits, type Limits } from './limits.ts';
import { open, type OpenOptions } from './open.ts';
import type { Input } from './source/input.ts';
import { bytesOfRuns, peekRuns, runsOf } from './source/stream.ts';
import type { ByteStream, Chunk, CodecName } from './types.ts';

/**
 * The disk in `input` as an object stream of chunks in disk order: compressions peeled, format recognised, holes and
 * unallocated clusters as zero chunks. The input is opened when the stream is first read; what fails is the stream's
 * error. The bytes of a chunk are the receiver's.
 */
export function chunksOf(input: Input, options: OpenOptions = {}): Readable {
  async function* chunks(): AsyncGenerator<Chunk, void, void> {
    const opened = await open(input, options);
    try {
      for await (const chunk of opened.chunks()) {
        yield chunk.kind === 'zero'
          ? chunk
          : { ...chunk, bytes: unshared(chunk.bytes, chunk.release) };
      }
    } finally {
      await opened[Symbol.asyncDispose]();
    }
  }
  return Readable.from(chunks(), { objectMode: true, highWaterMark: 1 });
}

export interface DecompressOptions {
  /** By default the codec is recognised by the first bytes; bytes of no known codec pass as they are. */
  readonly codec?: CodecName;
  /** Limits that differ from the defaults. */
  readonly limits?: Partial<Limits>;
}

/**
 * A Duplex that peels one compression: compressed bytes in, decompressed bytes out, all members, frames or streams.
 * @throws SparsecopyError (as the stream's error) `TRUNCATED`, `CORRUPT`, `UNSUPPORTED` or `LIMIT` as the codec finds.
 */
export function decompress(options: DecompressOptions = {}): Duplex {
  const limits = { ...defaultLimits, ...options.limits };
  const name = 'compressed stream';
  return duplexOf(async function* (bytes) {
    const { head, runs } = await peekRuns(runsOf(bytes), limits.probeHead);
    const codec =
      options.codec === undefined
        ? detectCodec(head)
        : codecs.find((candidate) => candidate.name === options.codec);
    if (codec === undefined && options.codec !== undefined) {
      await runs.return();
      throw new SparsecopyError('UNSUPPORTED', `no codec is called ${options.codec}`, {
        feature: options.codec,
      });
    }
    const inner = bytesOfRuns(runs);
    yield* codec === undefined ? inner : bytesOfRuns(codec.decode(inner, { name, limits }));
  });
}

/** An async generator over bytes as a Duplex of bytes that holds one piece a side. */
function duplexOf(transform: (bytes: ByteStream) => AsyncGenerator<Uint8Array>): Duplex {
  const writable = new PassThrough();
  const readable = Readable.from(transform(writable), { objectMode: false, highWaterMark: 1 });
  return Duplex.from({ writable, readable });
}
