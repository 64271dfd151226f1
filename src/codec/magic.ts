/** How codecs are told by the first bytes of what they made. */

import { viewOf } from '../bytes.ts';

/** RFC 1952, 2.3.1: ID1 and ID2. */
const GZIP_MAGIC = [0x1f, 0x8b];

/** The .xz file format 1.2.1, 2.1.1.1. */
const XZ_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00];

/** RFC 8878, 3.1.1. */
export const ZSTD_MAGIC = 0xfd2fb528;

/** LZ4 Frame Format 1.6, "General Structure" and "Legacy frame". */
export const LZ4_MAGIC = 0x184d2204;
export const LZ4_LEGACY_MAGIC = 0x184c2102;

/** The first of 16 magic numbers of skippable frames, which zstd and LZ4 share. */
export const SKIPPABLE_MAGIC = 0x184d2a50;

/** A skippable frame begins with its magic and the length of what follows, of four bytes each. */
export const SKIPPABLE_HEADER_LENGTH = 8;

export function isSkippable(magic: number): boolean {
  return (magic & ~0xf) === SKIPPABLE_MAGIC;
}

export function isGzip(head: Uint8Array): boolean {
  return startsWith(head, GZIP_MAGIC);
}

export function isXz(head: Uint8Array): boolean {
  return startsWith(head, XZ_MAGIC);
}

/** The flags of the first block's header, behind the stream header and the header's size: both lengths are there (section 3.1.2). */
export function hasXzParts(head: Uint8Array): boolean {
  return ((head[13] ?? 0) & 0xc0) === 0xc0;
}

/** As `isXz`; less than a magic will do as far as it goes. */
export function startsLikeXz(head: Uint8Array): boolean {
  return startsWith(head, XZ_MAGIC.slice(0, head.length));
}

/** Skippable frames may come first, as pzstd writes them; nothing but these, as far as can be seen, is zstd, too. */
export function isZstd(head: Uint8Array): boolean {
  const at = firstFrame(head);
  return at > 0 && at >= head.length ? true : magicAt(head, at) === ZSTD_MAGIC;
}

/** Skippable frames may come first. */
export function isLz4(head: Uint8Array): boolean {
  const magic = magicAt(head, firstFrame(head));
  return magic === LZ4_MAGIC || magic === LZ4_LEGACY_MAGIC;
}

/** Where the first frame begins that is not skippable; the end of `head` or beyond it when that is not seen. */
function firstFrame(head: Uint8Array): number {
  let at = 0;
  for (let magic = magicAt(head, 0); magic !== undefined; magic = magicAt(head, at)) {
    if (!isSkippable(magic)) break;
    if (at + SKIPPABLE_HEADER_LENGTH > head.length) return head.length;
    at += SKIPPABLE_HEADER_LENGTH + viewOf(head).getUint32(at + 4, true);
  }
  return at;
}

function magicAt(head: Uint8Array, at: number): number | undefined {
  return at + 4 <= head.length ? viewOf(head).getUint32(at, true) : undefined;
}

function startsWith(head: Uint8Array, magic: readonly number[]): boolean {
  return head.length >= magic.length && magic.every((byte, at) => head[at] === byte);
}
