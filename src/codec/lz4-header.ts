/** What stands before the blocks of LZ4 frames: magic numbers and the frame header. */

import { viewOf } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { CodecContext } from '../types.ts';
import { isSkippable, LZ4_LEGACY_MAGIC, LZ4_MAGIC, SKIPPABLE_MAGIC } from './magic.ts';
import type { ByteReader } from './reader.ts';
import { makeXxh32 } from './xxh32.ts';

/** Smallest and largest number of a block maximum size ("BD byte"): 64 KiB, and four times as much for each step. */
const MIN_BLOCK_SIZE_ID = 4;
const MAX_BLOCK_SIZE_ID = 7;

export function isMagic(word: number): boolean {
  return word === LZ4_MAGIC || word === LZ4_LEGACY_MAGIC || isSkippable(word);
}

/** True when `bytes` (fewer than 4) can be the beginning of a magic number. */
function beginsMagic(bytes: Uint8Array): boolean {
  const magics = [LZ4_MAGIC, LZ4_LEGACY_MAGIC, SKIPPABLE_MAGIC];
  return magics.some((magic) =>
    bytes.every((byte, at) => {
      // The lowest 4 bits of a skippable frame's magic number are free.
      const free = magic === SKIPPABLE_MAGIC && at === 0 ? 0x0f : 0;
      return (byte & ~free) === ((magic >>> (8 * at)) & 0xff);
    }),
  );
}

export function corrupt(
  reader: ByteReader,
  offset: number,
  sentence: string,
  expected?: string | number,
  found?: string | number,
): SparsecopyError {
  return new SparsecopyError('CORRUPT', sentence, {
    source: reader.name,
    offset,
    ...(expected === undefined ? {} : { expected }),
    ...(found === undefined ? {} : { found }),
  });
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

export async function readUint32(reader: ByteReader, what: string): Promise<number> {
  return viewOf(await reader.read(4, what)).getUint32(0, true);
}

/** Fills `into` with the bytes that come next, without gathering them elsewhere before. */
export async function readInto(reader: ByteReader, into: Uint8Array, what: string): Promise<void> {
  const place = reader.offset;
  for (let at = 0; at < into.length;) {
    const piece = await reader.take(into.length - at);
    if (piece === undefined) {
      throw new SparsecopyError(
        'TRUNCATED',
        `${what} at ${place} needs ${into.length} bytes, input ends at ${place + at}`,
        { source: reader.name, offset: place, expected: into.length, found: at },
      );
    }
    into.set(piece, at);
    at += piece.length;
  }
}

/** Reads a checksum and compares it with `computed`. */
export async function verify(reader: ByteReader, computed: number, what: string): Promise<void> {
  const place = reader.offset;
  const stored = await readUint32(reader, what);
  if (stored === computed) return;
  throw corrupt(
    reader,
    place,
    `${what} at ${place} is ${hex(stored)}, the data have ${hex(computed)}`,
    hex(stored),
    hex(computed),
  );
}

export async function readMagic(reader: ByteReader): Promise<number> {
  const place = reader.offset;
  const head = await reader.peek(4);
  if (head.length === 4 || beginsMagic(head)) {
    const magic = await readUint32(reader, 'magic number of an LZ4 frame');
    if (isMagic(magic)) return magic;
  }
  const found = `0x${Buffer.from(head).reverse().toString('hex')}`;
  throw corrupt(
    reader,
    place,
    `${place === 0 ? 'input does not begin with' : 'garbage: input goes on without'} the magic number ` +
      `of an LZ4 frame at ${place}, it has ${found}`,
    hex(LZ4_MAGIC),
    found,
  );
}

/** What the header of a frame says. */
export interface FrameHeader {
  readonly independent: boolean;
  readonly blockChecksum: boolean;
  readonly contentChecksum: boolean;
  readonly contentSize: number | undefined;
  /** In bytes. */
  readonly blockMaximum: number;
}

/** Reads and checks a frame header ("Frame Descriptor"); offsets below are from behind the magic number. */
export async function readHeader(reader: ByteReader, context: CodecContext): Promise<FrameHeader> {
  const place = reader.offset;
  // 0: FLG, 1: BD
  const [flags = 0] = await reader.peek(1);
  const hasContentSize = (flags & 0x08) !== 0;
  const hasDictionaryId = (flags & 0x01) !== 0;
  const length = 2 + (hasContentSize ? 8 : 0) + (hasDictionaryId ? 4 : 0);
  const header = await reader.read(length + 1, 'LZ4 frame header');
  const view = viewOf(header);

  // length: HC, the second byte of the XXH32 of all before it
  const hash = makeXxh32();
  hash.update(header.subarray(0, length));
  const computed = (hash.digest() >>> 8) & 0xff;
  const stored = view.getUint8(length);
  if (computed !== stored) {
    throw corrupt(
      reader,
      place + length,
      `header checksum at ${place + length} is ${hex(stored)}, the header has ${hex(computed)}`,
      hex(stored),
      hex(computed),
    );
  }
  const unsupported = (feature: string): SparsecopyError =>
    new SparsecopyError('UNSUPPORTED', `LZ4 frame header at ${place} asks for ${feature}`, {
      source: reader.name,
      offset: place,
      feature,
    });
  const version = flags >>> 6;
  if (version !== 1) throw unsupported(`LZ4 frame version ${version}`);
  // FLG: 7-6 version, 5 block independence, 4 block checksum, 3 content size, 2 content checksum, 1 reserved, 0 dictID
  // BD: 7 reserved, 6-4 block maximum size, 3-0 reserved
  const descriptor = view.getUint8(1);
  if ((flags & 0x02) !== 0 || (descriptor & 0x8f) !== 0) {
    throw corrupt(
      reader,
      place,
      `LZ4 frame header at ${place} has reserved bits set: FLG ${hex(flags)}, BD ${hex(descriptor)}`,
    );
  }
  const sizeId = descriptor >>> 4;
  if (sizeId < MIN_BLOCK_SIZE_ID || sizeId > MAX_BLOCK_SIZE_ID) {
    throw corrupt(
      reader,
      place + 1,
      `block maximum size at ${place + 1} is number ${sizeId}, which is reserved`,
      `${MIN_BLOCK_SIZE_ID} to ${MAX_BLOCK_SIZE_ID}`,
      sizeId,
    );
  }
  // 2 (or 10, behind the content size): Dictionary ID
  if (hasDictionaryId) throw unsupported(`LZ4 dictionary ${hex(view.getUint32(length - 4, true))}`);
  // 2: Content Size, 64 bits
  const contentSize = hasContentSize
    ? view.getUint32(6, true) * 2 ** 32 + view.getUint32(2, true)
    : undefined;
  const limit = context.limits.virtualSize;
  if (contentSize !== undefined && contentSize > limit) {
    throw new SparsecopyError(
      'LIMIT',
      `LZ4 frame header at ${place} says ${contentSize} bytes of content, the limit is ${limit}`,
      {
        source: reader.name,
        offset: place,
        limit: 'virtualSize',
        expected: limit,
        found: contentSize,
      },
    );
  }
  return {
    independent: (flags & 0x20) !== 0,
    blockChecksum: (flags & 0x10) !== 0,
    contentChecksum: (flags & 0x04) !== 0,
    contentSize,
    blockMaximum: 4 ** (sizeId - MIN_BLOCK_SIZE_ID) * 65536,
  };
}
