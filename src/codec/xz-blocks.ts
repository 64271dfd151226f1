/** Decodes blocks of .xz out of a stream, in this thread or in one that they have been sent to. */

import { setImmediate } from 'node:timers/promises';
import type { ByteStream, Run } from '../types.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeBlockDecoder } from './xz-block.ts';
import type { BlockDecoder, BlockPlace } from './xz-block.ts';
import { MAX_CHUNK_HEADER, makeLzma2Decoder } from './xz-decoder.ts';
import type { Lzma2Decoder } from './xz-decoder.ts';
import { readPadding } from './xz-fields.ts';
import { parseBlockHeader, parseStreamHeader } from './xz-header.ts';

/** Decodes a block behind its header, up to the end marker of LZMA2. */
export async function* decodeBlock(
  reader: ByteReader,
  decoder: BlockDecoder,
): AsyncGenerator<Run, void> {
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
export async function readBlockEnd(
  reader: ByteReader,
  start: number,
  decoder: BlockDecoder,
): Promise<void> {
  await readPadding(reader, start, 'block padding');
  const { offset } = reader;
  decoder.verify(await reader.read(decoder.checkLength, 'block check'), offset);
}

/** A block that is sent to another thread: the header of its stream, its own, and where it is. What is behind its header follows. */
export interface XzBlock {
  readonly streamHeader: Uint8Array;
  readonly header: Uint8Array;
  readonly place: BlockPlace;
}

/** Decoders that no block needs. */
const idle: Lzma2Decoder[] = [];

/**
 * Decodes the block `block`, of which `bytes` are all but its header; the bytes of a run are lent until the next one is asked for.
 * @throws SparsecopyError as decoding it in its stream does.
 */
export async function* decodeXzBlock(
  { streamHeader, header, place }: XzBlock,
  bytes: ByteStream,
): AsyncGenerator<Run, void> {
  const { name, start, data } = place;
  await using reader = makeReader(bytes, name, data);
  const check = parseStreamHeader(streamHeader, 0, name)();
  const block = parseBlockHeader(header, start, name);
  const lzma = idle.pop() ?? makeLzma2Decoder();
  // Filters keep some of it, and change it in place.
  lzma.lent = block.filters.length === 0;
  try {
    const decoder = makeBlockDecoder(block, check, lzma, place);
    yield* decodeBlock(reader, decoder);
    await readBlockEnd(reader, start, decoder);
  } finally {
    if (idle.length === 0) idle.push(lzma);
  }
}
