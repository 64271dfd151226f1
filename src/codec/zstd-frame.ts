/** Knows the layout of Zstandard frames (RFC 8878, section 3.1): magic numbers, frame headers and block headers. */

import { viewOf } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { isSkippable, SKIPPABLE_HEADER_LENGTH, SKIPPABLE_MAGIC, ZSTD_MAGIC } from './magic.ts';

/** In bytes (section 3.1.1.2). */
export const BLOCK_HEADER_LENGTH = 3;

/** Of the content checksum, in bytes (section 3.1.1). */
const CHECKSUM_LENGTH = 4;

/** The maximum of what a block decodes to, in bytes (section 3.1.1.2.4). */
export const MAX_BLOCK = 128 * 1024;

/** The largest window that is decoded, in bytes: the zstd command's default. */
const MAX_WINDOW = 128 * 1024 * 1024;

/** In bytes, by the dictionary id flag (section 3.1.1.1.3). */
const DICTIONARY_ID_LENGTHS = [0, 1, 2, 4];

/** Block types (section 3.1.1.2.2). */
export const RAW = 0;
const RLE = 1;
const COMPRESSED = 2;
const RESERVED = 3;

/** A header of literals and one of sequences, in bytes (section 3.1.1.3). libzstd takes none for an empty block. */
const MIN_COMPRESSED_BLOCK = 2;

/** Where something lies, for messages. */
export interface Place {
  /** Of the input; absent for parts of something that has no name here. */
  readonly name?: string | undefined;
  /** In bytes from the start of the input. */
  readonly offset: number;
}

/** What a frame header says. */
export interface FrameHeader {
  /** Of the header with its magic number, in bytes. */
  readonly length: number;
  /** Of all the frame decodes to, in bytes, when stored. */
  readonly contentSize: number | undefined;
  /** How far back matches may reach, in bytes. */
  readonly window: number;
  /** The most that one block may decode to, in bytes. */
  readonly blockMaximum: number;
  readonly hasChecksum: boolean;
}

/** What a block header says. */
export interface BlockHeader {
  readonly isLast: boolean;
  readonly type: number;
  /** As stored, in bytes: of what a block of one repeated byte decodes to, else of the block. */
  readonly size: number;
  /** Of the block after its header, in bytes. */
  readonly length: number;
}

/** What a frame may ask for, in bytes. */
export interface FrameLimits {
  readonly decoderWindow: number;
  readonly virtualSize: number;
}

/** The largest window that a frame may have, in bytes. */
export function largestWindow({ decoderWindow }: FrameLimits): number {
  return Math.min(decoderWindow, MAX_WINDOW);
}

/** The kind of frame that `bytes` start with, told from at most four bytes: `cut` when they may become either. */
export function frameKind(bytes: Uint8Array): 'data' | 'skippable' | 'cut' | 'other' {
  if (bytes.length >= 4) {
    const magic = viewOf(bytes).getUint32(0, true);
    if (magic === ZSTD_MAGIC) return 'data';
    return isSkippable(magic) ? 'skippable' : 'other';
  }
  const starts = (magic: number, mask: number): boolean =>
    bytes.every((byte, at) => ((byte ^ (magic >>> (8 * at))) & (at === 0 ? mask : 0xff)) === 0);
  return starts(ZSTD_MAGIC, 0xff) || starts(SKIPPABLE_MAGIC, 0xf0) ? 'cut' : 'other';
}

/** Length of a skippable frame with its header, in bytes; `bytes` are the header. */
export function skippableLength(bytes: Uint8Array): number {
  return SKIPPABLE_HEADER_LENGTH + viewOf(bytes).getUint32(4, true);
}

/** Length of the frame header that `bytes` start with, in bytes; `bytes` have at least five. */
export function frameHeaderLength(bytes: Uint8Array): number {
  const descriptor = bytes[4] ?? 0;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryLength = DICTIONARY_ID_LENGTHS[descriptor & 0x03] ?? 0;
  const contentLength = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  return 5 + (isSingleSegment ? 0 : 1) + dictionaryLength + contentLength;
}

/**
 * Parses a frame header (section 3.1.1.1), which `bytes` start with. Nothing larger than `limits` gets past it.
 * @throws SparsecopyError `LIMIT` (window, content), `UNSUPPORTED` (dictionary), `CORRUPT` (reserved bit).
 */
export function parseFrameHeader(
  bytes: Uint8Array,
  place: Place,
  limits: FrameLimits,
): FrameHeader {
  // 0: magic, 4: descriptor: content size flag (7-6), single segment (5), unused (4), reserved (3), checksum (2),
  // dictionary id flag (1-0); then window descriptor (unless single segment), dictionary id, content size
  const view = viewOf(bytes);
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x08) !== 0) {
    throw frameError('CORRUPT', 'has the reserved bit of its descriptor set', place);
  }
  const length = frameHeaderLength(bytes);
  let at = 5;
  let window = 0;
  if (!isSingleSegment) {
    // exponent (7-3), mantissa (2-0)
    const windowDescriptor = view.getUint8(at++);
    const base = 2 ** (10 + (windowDescriptor >> 3));
    window = base + (base / 8) * (windowDescriptor & 0x07);
  }
  const dictionaryLength = DICTIONARY_ID_LENGTHS[descriptor & 0x03] ?? 0;
  const dictionary = bytes
    .subarray(at, at + dictionaryLength)
    .reduceRight((id, byte) => id * 256 + byte, 0);
  if (dictionary !== 0) {
    throw new SparsecopyError(
      'UNSUPPORTED',
      `frame at ${place.offset} needs the dictionary with id ${dictionary}`,
      { ...sourceOf(place), feature: 'dictionary', found: dictionary },
    );
  }
  at += dictionaryLength;
  const contentSize = parseContentSize(view, at, length - at);
  if (isSingleSegment) window = contentSize ?? 0;
  const most = largestWindow(limits);
  if (window > most) {
    throw new SparsecopyError(
      'LIMIT',
      `frame at ${place.offset} asks for a window of ${window} bytes, at most ${most} are allowed`,
      { ...sourceOf(place), limit: 'decoderWindow', found: window, expected: most },
    );
  }
  if (contentSize !== undefined && contentSize > limits.virtualSize) {
    throw new SparsecopyError(
      'LIMIT',
      `frame at ${place.offset} says ${contentSize} bytes of content, at most ${limits.virtualSize} are allowed`,
      {
        ...sourceOf(place),
        limit: 'virtualSize',
        found: contentSize,
        expected: limits.virtualSize,
      },
    );
  }
  return {
    length,
    contentSize,
    window,
    blockMaximum: Math.min(window, MAX_BLOCK),
    hasChecksum: (descriptor & 0x04) !== 0,
  };
}

/** In bytes, rounded when above 2^53; undefined when its field has no length. */
function parseContentSize(view: DataView, at: number, length: number): number | undefined {
  switch (length) {
    case 0:
      return undefined;
    case 1:
      return view.getUint8(at);
    case 2:
      // smaller sizes have a field of one byte
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    default:
      return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  }
}

/**
 * Parses the block header (section 3.1.1.2) at `at` of `bytes`; `place` is where it lies in the input.
 * @throws SparsecopyError `CORRUPT` for the reserved type and for more than the frame allows a block.
 */
export function parseBlockHeader(
  bytes: Uint8Array,
  at: number,
  { blockMaximum }: FrameHeader,
  place: Place,
): BlockHeader {
  // little-endian: last block (0), type (1-2), size (3-23): of what a run-length block decodes to, else of the block
  const header = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16);
  const type = (header >> 1) & 0x03;
  const size = header >>> 3;
  if (type === RESERVED) {
    throw new SparsecopyError('CORRUPT', `block at ${place.offset} has the reserved type 3`, {
      ...sourceOf(place),
      found: type,
    });
  }
  if (type === COMPRESSED && size < MIN_COMPRESSED_BLOCK) {
    throw new SparsecopyError(
      'CORRUPT',
      `compressed block at ${place.offset} has ${size} bytes, expected at least ${MIN_COMPRESSED_BLOCK}`,
      { ...sourceOf(place), found: size, expected: MIN_COMPRESSED_BLOCK },
    );
  }
  if (size > blockMaximum) {
    throw new SparsecopyError(
      'CORRUPT',
      `block at ${place.offset} has ${size} bytes, its frame allows ${blockMaximum}`,
      { ...sourceOf(place), found: size, expected: blockMaximum },
    );
  }
  return { isLast: (header & 1) !== 0, type, size, length: type === RLE ? 1 : size };
}

/** Length of what follows a block, in bytes: the next block's header, or the checksum, or nothing. */
export function lengthAfterBlock(block: BlockHeader, frame: FrameHeader): number {
  if (!block.isLast) return BLOCK_HEADER_LENGTH;
  return frame.hasChecksum ? CHECKSUM_LENGTH : 0;
}

/** The error for a frame that decodes to `found` bytes, which are not its content size. */
export function wrongSize(frame: FrameHeader, found: number, place: Place): SparsecopyError {
  return new SparsecopyError(
    'CORRUPT',
    `frame at ${place.offset} decodes to ${found} bytes, expected ${frame.contentSize ?? 0}`,
    {
      ...sourceOf(place),
      found,
      ...(frame.contentSize === undefined ? {} : { expected: frame.contentSize }),
    },
  );
}

/** The error for a frame: what is wrong with it, after "frame at ...". */
export function frameError(
  code: ErrorCode,
  sentence: string,
  place: Place,
  cause?: unknown,
): SparsecopyError {
  return new SparsecopyError(code, `frame at ${place.offset} ${sentence}`, {
    ...sourceOf(place),
    cause,
  });
}

/** The fields of `ErrorDetails` that say where. */
function sourceOf({ name, offset }: Place): { readonly source?: string; readonly offset: number } {
  return name === undefined ? { offset } : { source: name, offset };
}
