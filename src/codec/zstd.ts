/** Decodes Zstandard (RFC 8878): finds the frames and their ends, holds them to the limits, has them decoded. */

import { setImmediate } from 'node:timers/promises';
import { SparsecopyError } from '../errors.ts';
import type { Codec, CodecContext, Run } from '../types.ts';
import { isZstd, SKIPPABLE_HEADER_LENGTH } from './magic.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeZstdDecoder } from './zstd-decoder.ts';
import type { ZstdDecoder } from './zstd-decoder.ts';
import {
  BLOCK_HEADER_LENGTH,
  frameHeaderLength,
  frameKind,
  lengthAfterBlock,
  parseBlockHeader,
  parseFrameHeader,
  skippableLength,
  wrongSize,
} from './zstd-frame.ts';
import type { FrameHeader, FrameLimits, Place } from './zstd-frame.ts';

/** What comes out is handed on after a MiB, or after this many blocks, which may be small ones. */
const BATCH = 256;

/**
 * Zstandard: any number of frames and skippable frames, without dictionaries.
 *
 * The frames are walked block by block, so that their ends are known and each cut is `TRUNCATED`. The decoder gets
 * a block at a time; it verifies the content checksum.
 */
export const zstd: Codec = {
  name: 'zstd',
  matches: isZstd,
  async *decode(bytes, context): AsyncGenerator<Run> {
    await using reader = makeReader(bytes, context.name);
    let decoder: ZstdDecoder | undefined;
    let empty = 0;
    for (let first = true; first || !(await reader.atEnd()); first = false) {
      const place = { name: context.name, offset: reader.offset };
      let length = 0;
      if ((await readKind(reader, place, first)) === 'skippable') {
        const header = await readAhead(reader, SKIPPABLE_HEADER_LENGTH, 'skippable frame');
        await reader.skip(skippableLength(header), 'skippable frame');
      } else {
        const frame = await readFrameHeader(reader, place, context.limits);
        decoder ??= makeZstdDecoder(context.lent);
        for await (const run of decodeFrame(reader, frame, decoder, place)) {
          length += run.kind === 'zero' ? run.length : run.bytes.length;
          yield run;
        }
      }
      empty = length === 0 ? empty + 1 : 0;
      checkEmpty(empty, reader.offset, context);
    }
  },
};

async function readKind(
  reader: ByteReader,
  place: Place,
  first: boolean,
): Promise<'data' | 'skippable'> {
  const kind = frameKind(await reader.peek(4));
  if (kind === 'data' || kind === 'skippable') return kind;
  if (kind === 'cut') await reader.read(4, 'frame');
  throw new SparsecopyError(
    'CORRUPT',
    first
      ? 'does not start with the magic number of a zstd frame'
      : `has garbage at ${place.offset}, expected a frame`,
    { source: reader.name, offset: place.offset },
  );
}

async function readFrameHeader(
  reader: ByteReader,
  place: Place,
  limits: FrameLimits,
): Promise<FrameHeader> {
  const start = await readAhead(reader, 5, 'frame header');
  const header = await readAhead(reader, frameHeaderLength(start), 'frame header');
  return parseFrameHeader(header, place, limits);
}

/** Decodes the frame at `place`, whose header was looked at and comes next. */
async function* decodeFrame(
  reader: ByteReader,
  frame: FrameHeader,
  decoder: ZstdDecoder,
  place: Place,
): AsyncGenerator<Run> {
  decoder.start(frame, place);
  let length = 0;
  // ends with the header of the next block, which tells how much to read
  let bytes = await reader.read(frame.length + BLOCK_HEADER_LENGTH, 'frame header');
  for (let count = 1; ; count++) {
    const at = { ...place, offset: reader.offset - BLOCK_HEADER_LENGTH };
    const block = parseBlockHeader(bytes, bytes.length - BLOCK_HEADER_LENGTH, frame, at);
    bytes = await reader.read(
      block.length + lengthAfterBlock(block, frame),
      'block with the next header',
    );
    decoder.decode(block, bytes.subarray(0, block.length));
    const total = length + decoder.pending;
    // a frame must not go on for ever when its header says how much there is
    if (total > (frame.contentSize ?? total)) throw wrongSize(frame, total, place);
    if (block.isLast) decoder.finish(bytes, block.length);
    if (decoder.isFull || block.isLast || count % BATCH === 0) {
      length = total;
      yield* decoder.take();
      // the work holds the thread: others get a turn
      await setImmediate();
    }
    if (block.isLast) break;
  }
  if (length !== (frame.contentSize ?? length)) throw wrongSize(frame, length, place);
}

/** @throws SparsecopyError `LIMIT` for more than `emptyMembers` frames in a row that put out nothing. */
function checkEmpty(empty: number, offset: number, { name, limits }: CodecContext): void {
  if (empty <= limits.emptyMembers) return;
  throw new SparsecopyError(
    'LIMIT',
    `${empty} frames in a row before ${offset} put out nothing, at most ${limits.emptyMembers} are allowed`,
    { source: name, offset, limit: 'emptyMembers', found: empty, expected: limits.emptyMembers },
  );
}

/** The next `length` bytes without consuming them. */
async function readAhead(reader: ByteReader, length: number, what: string): Promise<Uint8Array> {
  const bytes = await reader.peek(length);
  return bytes.length === length ? bytes : reader.read(length, what);
}
