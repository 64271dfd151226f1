/** gzip streams of one or more members (RFC 1952), inflated by node:zlib on its thread pool. */

import type { TransformOptions } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { ZlibOptions } from 'node:zlib';
import { isZero } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { ByteStream, Codec, CodecContext, Run } from '../types.ts';
import { isGzip } from './magic.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';

/** Size of an output buffer, in bytes: 64 KiB costs half as much time again, 1 MiB gains 3 % for four times the memory. */
const OUTPUT = 256 * 1024;

/** Input is handed to zlib in at least this much at a time, in bytes: each time is a trip to another thread. */
const INPUT = 64 * 1024;

/** The smallest member, in bytes: header 10, empty deflate block 2, CRC32 4, ISIZE 4 (RFC 1952, 2.3). */
const SMALLEST_MEMBER = 20;

/** So much of a member may stand before its first data, in bytes: an extra field as long as can be (2.3.1.1), as dictzip has it. */
const LONGEST_EXTRA = 64 * 1024;

/** RFC 1952, 2.3.1. */
const ID1 = 0x1f;

/**
 * gzip as `gzip`, `pigz` and `bgzip` write it. Header, CRC32 and ISIZE are verified; zeros after the last member are
 * padding. Limits: `emptyMembers`.
 */
export const gzip: Codec = {
  name: 'gzip',

  matches: isGzip,

  async *decode(bytes: ByteStream, context: CodecContext): AsyncGenerator<Run> {
    const reader = makeReader(bytes, context.name);
    const inflater = makeInflater(reader, context);
    try {
      for (;;) {
        const output = await inflater.read();
        if (output === undefined) break;
        yield { kind: 'data', bytes: output };
      }
      await demandZeros(reader, inflater.rest());
    } finally {
      inflater.close();
      await reader[Symbol.asyncDispose]();
      await inflater.closed;
    }
  },
};

interface Inflater {
  /** The next output, or undefined when the last member has ended; then `rest` tells what was read beyond it. */
  read(): Promise<Buffer | undefined>;
  rest(): Uint8Array;
  close(): void;
  /** Fulfilled when nothing is under way any more. */
  readonly closed: Promise<void>;
}

/**
 * Feeds zlib from `reader` while its output is read. A high-water mark of 1 byte makes zlib fill one buffer while the
 * consumer works on the one before, and no more.
 *
 * zlib goes on with the next member by itself, and stops at a byte 0 behind a member. So a 0 of our own is written at
 * the end of the input: left alone, it proves that the last member is whole; taken, that it is not. (Ending the stream
 * instead could not tell one byte of garbage from a truncated member.)
 */
function makeInflater(reader: ByteReader, { name, limits }: CodecContext): Inflater {
  // The types lack this option. zlib's constructor hands all its options on to stream.Transform.
  const options: ZlibOptions & Pick<TransformOptions, 'readableHighWaterMark'> = {
    chunkSize: OUTPUT,
    readableHighWaterMark: 1,
  };
  const gunzip = createGunzip(options);
  const none = new Uint8Array(0);
  let rest: Uint8Array = none;
  let lastByte = 0;
  let failure: { readonly error: unknown } | undefined;
  /** Bytes put out; and those put in when that was last seen to grow. */
  let produced = 0;
  let phase: 'feeding' | 'fed' | 'testing' | 'tested' = 'feeding';

  let wake = (): void => undefined;
  let written = (): void => undefined;
  const changed = (): void => {
    wake();
  };
  gunzip.on('readable', changed);
  gunzip.on('end', changed);
  gunzip.on('error', (error) => {
    failure ??= { error: translate(error) };
  });
  gunzip.on('close', () => {
    written();
    wake();
  });

  /** Fulfilled when zlib is done with `piece`, or will never be. */
  function write(piece: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      written = resolve;
      gunzip.write(piece, () => {
        resolve();
      });
    });
  }

  async function feed(): Promise<void> {
    await demandMagic(reader);
    let lastProduced = 0;
    let lastConsumed = 0;
    while (!(await reader.atEnd())) {
      await reader.peek(INPUT);
      const piece = (await reader.take()) ?? none;
      lastByte = piece.at(-1) ?? 0;
      await write(piece);
      if (gunzip.destroyed) return;
      const consumed = gunzip.bytesWritten;
      if (consumed < reader.offset) {
        rest = piece.subarray(piece.length - (reader.offset - consumed));
        return;
      }
      const total = produced + gunzip.readableLength;
      if (total > lastProduced) [lastProduced, lastConsumed] = [total, consumed];
      if (consumed - lastConsumed > limits.emptyMembers * SMALLEST_MEMBER + LONGEST_EXTRA) {
        throw new SparsecopyError(
          'LIMIT',
          `gzip data from ${lastConsumed} to ${consumed} hold nothing, like more than ${limits.emptyMembers} empty members`,
          {
            source: name,
            offset: lastConsumed,
            limit: 'emptyMembers',
            expected: limits.emptyMembers,
          },
        );
      }
    }
    phase = 'fed';
  }
  const closed = feed()
    .catch((error: unknown) => {
      failure ??= { error };
    })
    .finally(changed);

  function truncated(): SparsecopyError {
    return new SparsecopyError(
      'TRUNCATED',
      `gzip member is not complete, input ends at ${reader.offset}`,
      { source: name, offset: reader.offset },
    );
  }

  function translate(error: Error & { code?: string }): unknown {
    if (error.code !== 'Z_DATA_ERROR') return error;
    const from = phase === 'testing' ? reader.offset - 1 : gunzip.bytesWritten;
    const isHeader = error.message === 'incorrect header check';
    if (phase === 'testing' && !(isHeader && lastByte !== ID1)) return truncated();
    const what = isHeader ? 'garbage after a gzip member' : 'gzip data are damaged';
    return new SparsecopyError(
      'CORRUPT',
      `${what} between ${from} and ${reader.offset}: ${error.message}`,
      {
        source: name,
        offset: from,
        cause: error,
      },
    );
  }

  return {
    closed,
    rest: () => rest,
    close: () => gunzip.destroy(),
    async read(): Promise<Buffer | undefined> {
      for (;;) {
        const output = gunzip.read() as Buffer | null;
        if (output !== null) {
          // What zlib makes of the 0 that tests it is not content.
          if (phase === 'testing' || phase === 'tested') continue;
          produced += output.length;
          return output;
        }
        if (failure !== undefined) throw failure.error;
        if (gunzip.readableEnded) {
          await closed;
          return undefined;
        }
        if (phase === 'tested' && gunzip.bytesWritten > reader.offset) throw truncated();
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (phase !== 'fed') return;
          phase = 'testing';
          void write(new Uint8Array(1)).then(() => {
            phase = 'tested';
            wake();
          });
        });
      }
    },
  };
}

/** Checks that the input begins as a member does; zlib would not tell a wrong beginning from garbage behind a member. */
async function demandMagic(reader: ByteReader): Promise<void> {
  const head = await reader.peek(2);
  if (head.length === 2 ? isGzip(head) : head.length === 0 || head[0] === ID1) return;
  const found = `0x${Buffer.from(head).toString('hex')}`;
  throw new SparsecopyError('CORRUPT', `input does not begin as a gzip member but with ${found}`, {
    source: reader.name,
    offset: 0,
    expected: '0x1f8b',
    found,
  });
}

/** Checks that nothing but zeros follows the last member: `rest`, and all that is left in `reader`. */
async function demandZeros(reader: ByteReader, rest: Uint8Array): Promise<void> {
  let piece: Uint8Array | undefined = rest;
  while (piece !== undefined) {
    if (!isZero(piece)) {
      const place = reader.offset - piece.length + piece.findIndex((byte) => byte !== 0);
      throw new SparsecopyError(
        'CORRUPT',
        `garbage after the last gzip member: byte at ${place} is not zero`,
        { source: reader.name, offset: place, expected: 0 },
      );
    }
    piece = await reader.take();
  }
}
