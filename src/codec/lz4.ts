/** LZ4 streams: frames, legacy frames and skippable frames, one after another (LZ4 Frame Format 1.6). */

import { viewOf } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { ByteStream, Codec, CodecContext, Run } from '../types.ts';
import { makeBlockDecoder } from './lz4-block.ts';
import type { Lz4BlockDecoder, Lz4BlockFault } from './lz4-block.ts';
import {
  corrupt,
  isMagic,
  readHeader,
  readInto,
  readMagic,
  readUint32,
  verify,
} from './lz4-header.ts';
import { isLz4, LZ4_LEGACY_MAGIC, LZ4_MAGIC } from './magic.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';

const MiB = 1024 * 1024;

/** What a block of a legacy frame decodes to at most. */
const LEGACY_BLOCK = 8 * MiB;
/** The longest compressed form of that: a byte more for each 255, and 16 (LZ4_COMPRESSBOUND). */
const LEGACY_STORED = LEGACY_BLOCK + Math.floor(LEGACY_BLOCK / 255) + 16;

/**
 * LZ4 as the `lz4` command writes it. Every checksum and size that is there is verified. Legacy frames have none and no
 * end mark either: one that was cut between two blocks cannot be told from a whole one. They are `UNSUPPORTED` when untrusted.
 */
export const lz4: Codec = {
  name: 'lz4',

  matches: isLz4,

  async *decode(bytes: ByteStream, context: CodecContext): AsyncGenerator<Run> {
    const reader = makeReader(bytes, context.name);
    const progress = makeProgress(context, reader);
    const blocks = makeBlockDecoder(context.lent);
    try {
      do {
        const magic = await readMagic(reader);
        if (magic === LZ4_MAGIC) yield* decodeFrame(reader, context, blocks, progress);
        else if (magic === LZ4_LEGACY_MAGIC) {
          if (context.untrusted === true) throw legacyRefused(reader);
          yield* decodeLegacyFrame(reader, blocks, progress);
        } else await reader.skip(await readUint32(reader, 'skippable frame'), 'skippable frame');
        progress(0);
      } while (!(await reader.atEnd()));
    } finally {
      await reader[Symbol.asyncDispose]();
    }
  },
};

/** A legacy frame can be cut or changed without a trace, and asks for blocks of 8 MiB (security.md, 4.1). */
function legacyRefused(reader: ByteReader): SparsecopyError {
  const offset = reader.offset - 4; // its magic number has been read
  return new SparsecopyError(
    'UNSUPPORTED',
    `legacy LZ4 frame at ${offset} has no checksum, and is not accepted from an untrusted source`,
    { source: reader.name, offset, feature: 'legacy LZ4 frame' },
  );
}

/** Counts what puts out nothing (blocks and frames) and refuses too many in a row; called with the bytes put out. */
function makeProgress(context: CodecContext, reader: ByteReader): (length: number) => void {
  const limit = context.limits.emptyMembers;
  let empty = 0;
  return (length) => {
    empty = length > 0 ? 0 : empty + 1;
    if (empty <= limit) return;
    throw new SparsecopyError(
      'LIMIT',
      `more than ${limit} blocks or frames in a row before ${reader.offset} hold nothing`,
      { source: reader.name, offset: reader.offset, limit: 'emptyMembers', expected: limit },
    );
  };
}

function damaged(reader: ByteReader, place: number, { fault, at }: Lz4BlockFault): SparsecopyError {
  return corrupt(reader, place + at, `LZ4 block at ${place} ${fault} (at ${place + at})`);
}

async function* decodeFrame(
  reader: ByteReader,
  context: CodecContext,
  blocks: Lz4BlockDecoder,
  progress: (length: number) => void,
): AsyncGenerator<Run> {
  const start = reader.offset;
  const header = await readHeader(reader, context);
  const maximum = header.blockMaximum;
  blocks.begin({
    maximum,
    stored: maximum,
    linked: !header.independent,
    checksum: header.contentChecksum,
  });
  let size = 0;
  const sizeError = (): SparsecopyError =>
    corrupt(
      reader,
      start,
      `LZ4 frame at ${start} says ${header.contentSize ?? 0} bytes of content, it has ${size} at ${reader.offset}`,
      header.contentSize,
      size,
    );

  for (;;) {
    const place = reader.offset;
    // The highest bit tells an uncompressed block; 0 is the end mark.
    const word = await readUint32(reader, 'LZ4 block size or end mark');
    if (word === 0) break;
    const length = word & 0x7fffffff;
    if (length > maximum) {
      throw corrupt(
        reader,
        place,
        `LZ4 block at ${place} has ${length} bytes, the frame allows ${maximum}`,
        maximum,
        length,
      );
    }
    await readInto(reader, blocks.input(length), 'LZ4 block');
    if (header.blockChecksum) await verify(reader, blocks.inputChecksum(), 'block checksum');
    if (word === length) {
      const fault = blocks.decode();
      if (fault !== undefined) throw damaged(reader, place + 4, fault);
    } else blocks.store();
    size += blocks.length;
    if (header.contentSize !== undefined && size > header.contentSize) throw sizeError();
    progress(blocks.length);
    yield* blocks.runs();
  }
  if (header.contentSize !== undefined && size !== header.contentSize) throw sizeError();
  if (header.contentChecksum) await verify(reader, blocks.contentChecksum(), 'content checksum');
}

/** Blocks up to the end of the input or the next magic number ("Legacy frame"). */
async function* decodeLegacyFrame(
  reader: ByteReader,
  blocks: Lz4BlockDecoder,
  progress: (length: number) => void,
): AsyncGenerator<Run> {
  blocks.begin({ maximum: LEGACY_BLOCK, stored: LEGACY_STORED, linked: false, checksum: false });
  while (!(await reader.atEnd())) {
    const place = reader.offset;
    const head = await reader.peek(4);
    if (head.length === 4 && isMagic(viewOf(head).getUint32(0, true))) return;
    const length = await readUint32(reader, 'LZ4 block size');
    if (length > LEGACY_STORED) {
      throw corrupt(
        reader,
        place,
        `LZ4 legacy block at ${place} has ${length} bytes, at most ${LEGACY_STORED} are possible`,
        LEGACY_STORED,
        length,
      );
    }
    await readInto(reader, blocks.input(length), 'LZ4 block');
    const fault = blocks.decode();
    if (fault !== undefined) throw damaged(reader, place + 4, fault);
    progress(blocks.length);
    yield* blocks.runs();
  }
}
