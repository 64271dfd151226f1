/** Decodes .xz (the .xz file format 1.2.1): knows the order of its parts, and leaves blocks to xz-block. */

import { SparsecopyError } from '../errors.ts';
import type { Codec, CodecContext, Run } from '../types.ts';
import { hasXzParts, isXz, startsLikeXz } from './magic.ts';
import type { Area } from './remote.ts';
import { areaFor, blockAway, inTurn, type BlockRuns } from './xz-away.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeBlockDecoder } from './xz-block.ts';
import { decodeBlock, readBlockEnd, type XzBlock } from './xz-blocks.ts';
import { makeLzma2Decoder } from './xz-decoder.ts';
import type { Lzma2Decoder } from './xz-decoder.ts';
import { corrupt, makeRecords, readAhead, readIndex, skipStreamPadding } from './xz-fields.ts';
import {
  STREAM_HEADER_LENGTH,
  blockHeaderLength,
  checkStreamFooter,
  parseBlockHeader,
  parseStreamHeader,
} from './xz-header.ts';
import type { BlockHeader } from './xz-header.ts';

/** The largest block that is held in memory for another thread, in bytes: `xz -T` makes blocks of 24 MiB before compression. */
const MOST_AWAY = 32 * 1024 * 1024;

/**
 * The .xz format with all its filters and checks: any number of streams and blocks, stream padding.
 * Every boundary is found from the sizes in the container, so a cut (`TRUNCATED`) is known from damage.
 */
export const xz: Codec = {
  name: 'xz',
  matches: isXz,
  hasParts: hasXzParts,
  async *decode(bytes, context): AsyncGenerator<Run> {
    await using reader = makeReader(bytes, context.name);
    yield* inTurn(blocksOf(reader, context), context.threads?.size ?? 1);
  },
};

/** The blocks of all streams; reads and checks what lies around them. */
async function* blocksOf(
  reader: ByteReader,
  context: CodecContext,
): AsyncGenerator<BlockRuns, void> {
  let lzma: Lzma2Decoder | undefined;
  let area: Area | undefined;
  let empty = 0;
  for (let first = true; first || !(await reader.atEnd()); first = false) {
    const header = await readStreamHeader(reader, first);
    const makeCheck = parseStreamHeader(header.bytes, header.offset, context.name);
    const found = makeRecords();
    let length = 0;
    while ((await readAhead(reader, 1, 'block header or index'))[0] !== 0) {
      const start = reader.offset;
      const { block, bytes } = await readBlockHeader(reader, context);
      const place = { name: context.name, start, data: reader.offset };
      const check = makeCheck();
      const { compressedSize = 0, uncompressedSize = 0 } = block;
      const lengthThere = lengthAway(block, check.length);
      if (lengthThere !== undefined && context.threads !== undefined) {
        const pieces = await readPieces(reader, lengthThere);
        // Copies: whatever a view lies in goes over with it.
        const [streamHeader, own] = [new Uint8Array(header.bytes), new Uint8Array(bytes)];
        const xzBlock: XzBlock = { streamHeader, header: own, place };
        area ??= areaFor(context.threads);
        yield blockAway(pieces, lengthThere, xzBlock, block, context.threads, area);
        // What another thread finds wrong with the block ends this one, too.
        found.add(place.data - start + compressedSize + check.length, uncompressedSize);
        length += uncompressedSize;
        continue;
      }
      lzma ??= makeLzma2Decoder();
      // Filters keep some of it, and change it in place.
      lzma.lent = context.lent === true && block.filters.length === 0;
      const decoder = makeBlockDecoder(block, check, lzma, place);
      yield { isAway: false, memory: 0, runs: decodeBlock(reader, decoder) };
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
}

/** How long the block is behind its header, where another thread can decode it: its length is there, and little enough to be held. */
function lengthAway(
  { compressedSize, uncompressedSize }: BlockHeader,
  checkLength: number,
): number | undefined {
  if (compressedSize === undefined || uncompressedSize === undefined) return undefined;
  // The header's length is a multiple of four, so is what precedes the check (section 3.3).
  const length = compressedSize + (-compressedSize & 3) + checkLength;
  return length > MOST_AWAY ? undefined : length;
}

/** The next `length` bytes, or all up to the end, in the pieces they come in. */
async function readPieces(reader: ByteReader, length: number): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  for (let left = length; left > 0;) {
    const piece = await reader.take(left);
    if (piece === undefined) break;
    pieces.push(piece);
    left -= piece.length;
  }
  return pieces;
}

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
): Promise<{ readonly block: BlockHeader; readonly bytes: Uint8Array }> {
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
  return { block, bytes };
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
