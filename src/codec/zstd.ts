/** Decodes Zstandard (RFC 8878): finds the frames and their ends, holds them to the limits, has an engine decode them. */

import { setImmediate } from 'node:timers/promises';
import { SparsecopyError } from '../errors.ts';
import type { Codec, CodecContext, Run } from '../types.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeZstdEngine } from './zstd-engine.ts';
import type { FrameDecoder, ZstdEngine } from './zstd-engine.ts';
import {
  BLOCK_HEADER_LENGTH,
  SKIPPABLE_HEADER_LENGTH,
  frameHeaderLength,
  frameKind,
  lengthAfterBlock,
  parseBlockHeader,
  parseFrameHeader,
  skippableLength,
  wrongSize,
} from './zstd-frame.ts';
import type { FrameHeader, FrameLimits, Place } from './zstd-frame.ts';
import { makeRun } from './zstd-result.ts';

export { makeZstdClusterDecoder } from './zstd-cluster.ts';

/**
 * Blocks that are decoded at once. What they decode to is held in memory: 1 MiB at most. With fewer, handing over
 * to Node's thread pool takes a quarter of the time.
 */
const BATCH = 8;

/**
 * Zstandard: any number of frames and skippable frames, without dictionaries.
 *
 * The frames are walked block by block, so that their ends are known and each cut is `TRUNCATED`. The engine gets
 * the bytes of one frame at a time; it verifies the content checksum.
 */
export const zstd: Codec = {
  name: 'zstd',
  matches: startsWithZstd,
  async *decode(bytes, context): AsyncGenerator<Run> {
    await using reader = makeReader(bytes, context.name);
    let engine: ZstdEngine | undefined;
    let empty = 0;
    for (let first = true; first || !(await reader.atEnd()); first = false) {
      const place = { name: context.name, offset: reader.offset };
      let length = 0;
      if ((await readKind(reader, place, first)) === 'skippable') {
        const header = await readAhead(reader, SKIPPABLE_HEADER_LENGTH, 'skippable frame');
        await reader.skip(skippableLength(header), 'skippable frame');
      } else {
        const frame = await readFrameHeader(reader, place, context.limits);
        engine ??= await makeZstdEngine();
        for await (const run of decodeFrame(reader, frame, engine, place)) {
          length += run.kind === 'zero' ? run.length : run.bytes.length;
          yield run;
        }
      }
      empty = length === 0 ? empty + 1 : 0;
      checkEmpty(empty, reader.offset, context);
    }
  },
};

/** Skippable frames may come first, as pzstd writes them; LZ4 has the same ones, so the first other frame decides. */
function startsWithZstd(head: Uint8Array): boolean {
  let at = 0;
  while (frameKind(head.subarray(at)) === 'skippable') {
    const frame = head.subarray(at);
    // nothing but skippable frames, as far as can be seen
    if (frame.length < SKIPPABLE_HEADER_LENGTH) return true;
    at += skippableLength(frame);
    if (at >= head.length) return true;
  }
  return frameKind(head.subarray(at)) === 'data';
}

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
  engine: ZstdEngine,
  place: Place,
): AsyncGenerator<Run> {
  let decoder: FrameDecoder | undefined;
  let length = 0;
  try {
    for await (const { parts, isWhole, isLast } of readBlocks(reader, frame, place)) {
      let runs: Run[];
      if (isWhole) {
        runs = decodeSmallFrame(Buffer.concat(parts), frame, engine, place);
      } else {
        decoder ??= engine.startFrame(place);
        runs = await decoder.decode(parts);
        if (isLast) runs.push(...(await decoder.finish()));
      }
      for (const run of runs) {
        length += run.kind === 'zero' ? run.length : run.bytes.length;
        // a frame of runs must not go on for ever when its header says how much there is
        if (length > (frame.contentSize ?? length)) throw wrongSize(frame, length, place);
        yield run;
      }
      // an engine may hold the thread while it works: others get a turn after each batch
      await setImmediate();
    }
  } finally {
    decoder?.close();
  }
  if (length !== (frame.contentSize ?? length)) throw wrongSize(frame, length, place);
}

/** Decodes a frame of one block, for which a decoder of its own would cost more than the work. */
function decodeSmallFrame(
  bytes: Uint8Array,
  frame: FrameHeader,
  engine: ZstdEngine,
  place: Place,
): Run[] {
  const most = Math.min(frame.contentSize ?? frame.blockMaximum, frame.blockMaximum);
  const output = Buffer.allocUnsafeSlow(most);
  const length = engine.decodeFrame(bytes, output, place);
  return length === 0 ? [] : [makeRun(output, 0, length, false)];
}

/** Some blocks of a frame that follow each other, with the frame's header and checksum when they are the first or last. */
interface Batch {
  /** Where the parts meet has no meaning. */
  readonly parts: readonly Uint8Array[];
  readonly isLast: boolean;
  /** The frame is this one block. */
  readonly isWhole: boolean;
}

/** Reads a frame up to its end. Each part but the last ends with the header of a block, which tells how much to read. */
async function* readBlocks(
  reader: ByteReader,
  frame: FrameHeader,
  place: Place,
): AsyncGenerator<Batch> {
  let header = await reader.read(frame.length + BLOCK_HEADER_LENGTH, 'frame header');
  let parts = [header];
  for (let count = 1; ; count++) {
    const at = reader.offset - BLOCK_HEADER_LENGTH;
    const block = parseBlockHeader(header, header.length - BLOCK_HEADER_LENGTH, frame, {
      ...place,
      offset: at,
    });
    header = await reader.read(
      block.length + lengthAfterBlock(block, frame),
      'block with the next header',
    );
    parts.push(header);
    if (block.isLast || parts.length > BATCH) {
      yield { parts, isLast: block.isLast, isWhole: block.isLast && count === 1 };
      parts = [];
    }
    if (block.isLast) return;
  }
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
