/** LZ4 streams: frames, legacy frames and skippable frames, one after another (LZ4 Frame Format 1.6). */

import { asBuffer, viewOf } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { ByteStream, Codec, CodecContext, Run } from '../types.ts';
import { makeIndependentBlocks, makeLinkedBlocks, runLength } from './lz4-block.ts';
import type { Lz4BlockFault, NativeBlockDecoder } from './lz4-block.ts';
import {
  corrupt,
  FRAME_MAGIC,
  isMagic,
  isSkippable,
  LEGACY_MAGIC,
  readHeader,
  readMagic,
  readUint32,
  verify,
} from './lz4-header.ts';
import { makeReader } from './reader.ts';
import type { ByteReader } from './reader.ts';
import { makeXxh32 } from './xxh32.ts';

const MiB = 1024 * 1024;

/** What a block of a legacy frame decodes to at most. */
const LEGACY_BLOCK = 8 * MiB;
/** The longest compressed form of that: a byte more for each 255, and 16 (LZ4_COMPRESSBOUND). */
const LEGACY_STORED = LEGACY_BLOCK + Math.floor(LEGACY_BLOCK / 255) + 16;

let nativeDecoder: Promise<NativeBlockDecoder | undefined> | undefined;

/**
 * The block decoder of the optional package `lz4`; undefined when the package cannot be loaded, or when the environment
 * has `SPARSECOPY_NATIVE=0`. It must only be given blocks that `measureLz4Block` has passed.
 */
export async function loadNativeLz4(): Promise<NativeBlockDecoder | undefined> {
  if (process.env['SPARSECOPY_NATIVE'] === '0') return undefined;
  nativeDecoder ??= import('lz4').then(
    (library): NativeBlockDecoder =>
      (block, output) =>
        library.decodeBlock(asBuffer(block), asBuffer(output)),
    () => undefined,
  );
  return nativeDecoder;
}

/**
 * LZ4 as the `lz4` command writes it. Every checksum and size that is there is verified. Legacy frames have none and no
 * end mark either: one that was cut between two blocks cannot be told from a whole one. They are `UNSUPPORTED` when untrusted.
 */
export const lz4: Codec = {
  name: 'lz4',

  matches(head): boolean {
    const view = viewOf(head);
    let at = 0;
    while (at + 8 <= head.length && isSkippable(view.getUint32(at, true))) {
      at += 8 + view.getUint32(at + 4, true);
    }
    if (at + 4 > head.length) return false;
    const magic = view.getUint32(at, true);
    return magic === FRAME_MAGIC || magic === LEGACY_MAGIC;
  },

  async *decode(bytes: ByteStream, context: CodecContext): AsyncGenerator<Run> {
    const reader = makeReader(bytes, context.name);
    const progress = makeProgress(context, reader);
    try {
      do {
        const magic = await readMagic(reader);
        if (magic === FRAME_MAGIC) yield* decodeFrame(reader, context, progress);
        else if (magic === LEGACY_MAGIC) {
          if (context.untrusted === true) throw legacyRefused(reader);
          yield* decodeLegacyFrame(reader, progress);
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
  progress: (length: number) => void,
): AsyncGenerator<Run> {
  const start = reader.offset;
  const header = await readHeader(reader, context);
  const blocks = header.independent
    ? makeIndependentBlocks(header.blockMaximum, await loadNativeLz4())
    : makeLinkedBlocks(header.blockMaximum);
  const contentHash = header.contentChecksum ? makeXxh32() : undefined;
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
    if (length > header.blockMaximum) {
      throw corrupt(
        reader,
        place,
        `LZ4 block at ${place} has ${length} bytes, the frame allows ${header.blockMaximum}`,
        header.blockMaximum,
        length,
      );
    }
    const block = await reader.read(length, 'LZ4 block');
    if (header.blockChecksum) {
      const hash = makeXxh32();
      hash.update(block);
      await verify(reader, hash.digest(), 'block checksum');
    }
    const run = word === length ? blocks.decode(block) : blocks.store(block);
    if ('fault' in run) throw damaged(reader, place + 4, run);
    size += runLength(run);
    if (header.contentSize !== undefined && size > header.contentSize) throw sizeError();
    if (run.kind === 'zero') contentHash?.updateZeros(run.length);
    else contentHash?.update(run.bytes);
    progress(runLength(run));
    if (runLength(run) > 0) yield run;
  }
  if (header.contentSize !== undefined && size !== header.contentSize) throw sizeError();
  if (contentHash !== undefined) await verify(reader, contentHash.digest(), 'content checksum');
}

/** Blocks up to the end of the input or the next magic number ("Legacy frame"). */
async function* decodeLegacyFrame(
  reader: ByteReader,
  progress: (length: number) => void,
): AsyncGenerator<Run> {
  const blocks = makeIndependentBlocks(LEGACY_BLOCK, await loadNativeLz4());
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
    const run = blocks.decode(await reader.read(length, 'LZ4 block'));
    if ('fault' in run) throw damaged(reader, place + 4, run);
    progress(runLength(run));
    if (runLength(run) > 0) yield run;
  }
}
