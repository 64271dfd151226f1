/** Decodes .xz (the .xz file format 1.2.1): knows the order of its parts, and verifies all of them but LZMA2 data. */

import { setImmediate } from 'node:timers/promises';
import { SparsecopyError } from '../errors.ts';
import type { Codec, CodecContext, Run } from '../types.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import type { Check } from './xz-check.ts';
import { MAX_DICTIONARY, makeXzDecoder } from './xz-decoder.ts';
import type { XzDecoder } from './xz-decoder.ts';
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

/** Longest header of an LZMA2 chunk in bytes: control, two sizes of two bytes, properties. */
const MAX_CHUNK_HEADER = 6;

/**
 * The .xz format with LZMA2 and the checks none, CRC32 and CRC64: any number of streams and blocks, stream padding.
 * Every boundary is found from the sizes in the container, so a cut (`TRUNCATED`) is known from damage.
 */
export const xz: Codec = {
  name: 'xz',
  matches: isXz,
  async *decode(bytes, context): AsyncGenerator<Run> {
    await using reader = makeReader(bytes, context.name);
    let decoder: XzDecoder | undefined;
    let empty = 0;
    for (let first = true; first || !(await reader.atEnd()); first = false) {
      const header = await readStreamHeader(reader, first);
      const makeCheck = parseStreamHeader(header.bytes, header.offset, context.name);
      const found = makeRecords();
      let length = 0;
      while ((await readAhead(reader, 1, 'block header or index'))[0] !== 0) {
        const start = reader.offset;
        const block = await readBlockHeader(reader, context);
        decoder ??= await makeXzDecoder();
        const check = makeCheck();
        const uncompressed = yield* decodeBlock(reader, block, decoder, check);
        const unpadded = reader.offset - start + check.digest().length;
        found.add(unpadded, uncompressed);
        await readBlockEnd(reader, start, check);
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

/** @throws SparsecopyError also `LIMIT` for a dictionary that is larger than what is allowed or can be decoded. */
async function readBlockHeader(
  reader: ByteReader,
  { name, limits }: CodecContext,
): Promise<BlockHeader> {
  const { offset } = reader;
  const [first = 0] = await readAhead(reader, 1, 'block header');
  const bytes = await reader.read(blockHeaderLength(first), 'block header');
  const block = parseBlockHeader(bytes, offset, name);
  const limit = Math.min(limits.decoderWindow, MAX_DICTIONARY);
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

/** Decodes the LZMA2 data of a block, from its first chunk to its end marker. Gives how many bytes came out. */
async function* decodeBlock(
  reader: ByteReader,
  block: BlockHeader,
  decoder: XzDecoder,
  check: Check,
): AsyncGenerator<Run, number> {
  const start = reader.offset;
  let promised = 0;
  let length = 0;
  decoder.startBlock(block.dictionaryProperty);
  for (let ended = false; !ended;) {
    const chunk = await readChunkHeader(reader);
    ended = chunk.isEnd;
    promised += chunk.uncompressed;
    // at once, since damage may lead beyond the end of the input
    demandAtMost(reader, start, 'uncompressed', promised, block.uncompressedSize);
    const compressed = reader.offset - start + chunk.length;
    demandAtMost(reader, start, 'compressed', compressed, block.compressedSize);
    for (let left = chunk.length; left > 0;) {
      const { offset } = reader;
      // in the pieces it comes in: so damage shows even where a damaged length leads beyond the end of the input
      const bytes = (await reader.take(left)) ?? (await reader.read(left, 'LZMA2 chunk'));
      left -= bytes.length;
      const runs = decoder.decode(bytes);
      let next = runs.next();
      for (; next.done !== true; next = runs.next()) {
        const run = next.value;
        check.update(run);
        length += run.kind === 'zero' ? run.length : run.bytes.length;
        yield run;
        // decoding holds the thread: others get a turn after each piece
        await setImmediate();
      }
      if (next.value !== undefined) {
        const { code, sentence, cause } = next.value;
        throw new SparsecopyError(
          code,
          `LZMA2 chunk with bytes ${offset} to ${reader.offset} cannot be decoded: ${sentence}`,
          { source: reader.name, offset, cause },
        );
      }
    }
  }
  demandSize(reader, start, 'uncompressed', length, block.uncompressedSize ?? promised);
  demandSize(reader, start, 'compressed', reader.offset - start, block.compressedSize);
  return length;
}

/** Looks at the next chunk's header: its length with the header, and what it decodes to, in bytes. */
async function readChunkHeader(
  reader: ByteReader,
): Promise<{ readonly isEnd: boolean; readonly length: number; readonly uncompressed: number }> {
  // 0: control: 0 end, 1 and 2 uncompressed, from 0x80 on LZMA (0xc0 on: with properties) and five bits of a size,
  // 1: uncompressed size - 1, its low 16 bits, 3: compressed size - 1 (LZMA), 5: properties; all big-endian
  const [control = 0] = await readAhead(reader, 1, 'LZMA2 chunk');
  if (control === 0) return { isEnd: true, length: 1, uncompressed: 0 };
  if (control > 2 && control < 0x80) {
    throw corrupt(
      reader,
      reader.offset,
      `LZMA2 chunk at ${reader.offset} has control byte ${control}, expected 0 to 2, or 128 to 255`,
    );
  }
  const isLzma = control >= 0x80;
  const headerLength = isLzma ? (control >= 0xc0 ? MAX_CHUNK_HEADER : 5) : 3;
  const [, b = 0, c = 0, d = 0, e = 0] = await readAhead(reader, headerLength, 'LZMA2 chunk');
  const uncompressed = (isLzma ? (control & 0x1f) << 16 : 0) + (b << 8) + c + 1;
  const compressed = isLzma ? (d << 8) + e + 1 : uncompressed;
  return { isEnd: false, length: headerLength + compressed, uncompressed };
}

/** Reads block padding to a multiple of four (section 3.3), and the check (3.4), and compares them. */
async function readBlockEnd(reader: ByteReader, start: number, check: Check): Promise<void> {
  await readPadding(reader, start, 'block padding');
  const { offset } = reader;
  const expected = Buffer.from(check.digest());
  const stored = Buffer.from(await reader.read(expected.length, 'block check'));
  if (!expected.equals(stored)) {
    throw corrupt(
      reader,
      offset,
      `block at ${start} has ${check.name} ${expected.toString('hex')}, stored is ${stored.toString('hex')}`,
    );
  }
}

/** @throws SparsecopyError `CORRUPT` when `most` is known, and `found` is a greater number of bytes. */
function demandAtMost(
  reader: ByteReader,
  start: number,
  what: string,
  found: number,
  most: number | undefined,
): void {
  if (most !== undefined && found > most) demandSize(reader, start, what, found, most);
}

/** @throws SparsecopyError `CORRUPT` when `expected` is known, and `found` is another number of bytes. */
function demandSize(
  reader: ByteReader,
  start: number,
  what: string,
  found: number,
  expected: number | undefined,
): void {
  if (expected === undefined || found === expected) return;
  throw new SparsecopyError(
    'CORRUPT',
    `block at ${start} has ${found} bytes of ${what} data, expected ${expected}`,
    { source: reader.name, offset: start, found, expected },
  );
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
