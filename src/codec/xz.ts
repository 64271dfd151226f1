/** Decodes .xz (the .xz file format 1.2.1): knows the order of its parts, and leaves blocks to xz-block. */

import { setImmediate } from 'node:timers/promises';
import { SparsecopyError } from '../errors.ts';
import type { Codec, CodecContext, Run } from '../types.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeBlockDecoder } from './xz-block.ts';
import type { BlockDecoder } from './xz-block.ts';
import { MAX_CHUNK_HEADER, makeLzma2Decoder } from './xz-decoder.ts';
import type { Lzma2Decoder } from './xz-decoder.ts';
import {
  corrupt,
  makeRecords,
  readAhead,
  readIndex,
  readPadding,
  skipStreamPadding,
} from './xz-fields.ts';
import {
  STREAM_HEADER_LENGTH,
  blockHeaderLength,
  checkStreamFooter,
  isXz,
  parseBlockHeader,
  parseStreamHeader,
  startsLikeXz,
} from './xz-header.ts';
import type { BlockHeader } from './xz-header.ts';

/**
 * The .xz format with all its filters and checks: any number of streams and blocks, stream padding.
 * Every boundary is found from the sizes in the container, so a cut (`TRUNCATED`) is known from damage.
 */
export const xz: Codec = {
  name: 'xz',
  matches: isXz,
  async *decode(bytes, context): AsyncGenerator<Run> {
    await using reader = makeReader(bytes, context.name);
    let lzma: Lzma2Decoder | undefined;
    let empty = 0;
    for (let first = true; first || !(await reader.atEnd()); first = false) {
      const header = await readStreamHeader(reader, first);
      const makeCheck = parseStreamHeader(header.bytes, header.offset, context.name);
      const found = makeRecords();
      let length = 0;
      while ((await readAhead(reader, 1, 'block header or index'))[0] !== 0) {
        const start = reader.offset;
        const block = await readBlockHeader(reader, context);
        lzma ??= makeLzma2Decoder();
        const place = { name: context.name, start, data: reader.offset };
        const decoder = makeBlockDecoder(block, makeCheck(), lzma, place);
        yield* decodeBlock(reader, decoder);
        const { uncompressed, checkLength } = decoder;
        found.add(reader.offset - start + checkLength, uncompressed);
        await readBlockEnd(reader, start, decoder);
        length += uncompressed;
      }
      const indexLength = await readIndex(reader, found);
      const footer = reader.offset;
      const bytesOfFooter = await reader.read(STREAM_HEADER_LENGTH, 'stream footer');
      checkStreamFooter(bytesOfFooter, header.bytes, indexLength, footer, context.name);
      empty = length === 0 ? empty + 1 : 0;
      checkEmpty(empty, reader.offset, context);
      await skipStreamPadding(reader);
    }
  },
};

async function readStreamHeader(
  reader: ByteReader,
  first: boolean,
): Promise<{ readonly bytes: Uint8Array; readonly offset: number }> {
  const { offset } = reader;
  if (!startsLikeXz(await reader.peek(STREAM_HEADER_LENGTH))) {
    const sentence = first
      ? 'does not start with the magic bytes of xz'
      : `has garbage at ${offset}`;
    throw corrupt(reader, offset, `${sentence}, expected a stream header`);
  }
  return { offset, bytes: await reader.read(STREAM_HEADER_LENGTH, 'stream header') };
}

/** @throws SparsecopyError also `LIMIT` for a dictionary that is larger than what is allowed. */
async function readBlockHeader(
  reader: ByteReader,
  { name, limits }: CodecContext,
): Promise<BlockHeader> {
  const { offset } = reader;
  const [first = 0] = await readAhead(reader, 1, 'block header');
  const bytes = await reader.read(blockHeaderLength(first), 'block header');
  const block = parseBlockHeader(bytes, offset, name);
  const limit = limits.decoderWindow;
  if (block.dictionarySize > limit) {
    throw new SparsecopyError(
      'LIMIT',
      `block header at ${offset} asks for a dictionary of ${block.dictionarySize} bytes, at most ${limit} are allowed`,
      {
        source: name,
        offset,
        limit: 'decoderWindow',
        found: block.dictionarySize,
        expected: limit,
      },
    );
  }
  return block;
}

/** Decodes a block behind its header, up to the end marker of LZMA2. */
async function* decodeBlock(reader: ByteReader, decoder: BlockDecoder): AsyncGenerator<Run, void> {
  for (let ended = false; !ended;) {
    const chunk = decoder.start(await reader.peek(MAX_CHUNK_HEADER));
    if (chunk === undefined) {
      // fewer bytes than any header that starts so: this throws
      await reader.read(MAX_CHUNK_HEADER, 'LZMA2 chunk');
      continue;
    }
    await reader.skip(chunk.headerLength);
    // of a chunk that the end of the input has cut as well: damage shows, even where a damaged length leads there
    const data = await reader.peek(chunk.length);
    for (const run of decoder.push(data)) {
      yield run;
      // decoding holds the thread: others get a turn after each piece
      await setImmediate();
    }
    await reader.read(chunk.length, 'LZMA2 chunk');
    ended = chunk.control === 0;
  }
}

/** Reads block padding to a multiple of four (section 3.3), and the check (3.4), and compares it. */
async function readBlockEnd(
  reader: ByteReader,
  start: number,
  decoder: BlockDecoder,
): Promise<void> {
  await readPadding(reader, start, 'block padding');
  const { offset } = reader;
  decoder.verify(await reader.read(decoder.checkLength, 'block check'), offset);
}

/** @throws SparsecopyError `LIMIT` for more than `emptyMembers` streams in a row that put out nothing. */
function checkEmpty(empty: number, offset: number, { name, limits }: CodecContext): void {
  if (empty <= limits.emptyMembers) return;
  throw new SparsecopyError(
    'LIMIT',
    `${empty} streams in a row before ${offset} put out nothing, at most ${limits.emptyMembers} are allowed`,
    { source: name, offset, limit: 'emptyMembers', found: empty, expected: limits.emptyMembers },
  );
}
