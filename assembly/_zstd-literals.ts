/** The literals section of a compressed block (RFC 8878, section 3.1.1.3.1). */

import { readTree } from './_zstd-huffman';
import { BAD_LITERALS, BAD_TREE, LITERALS, SLACK } from './_zstd-memory';
import { readFourStreams, readStream } from './_zstd-streams';

/** What `readLiterals` has found: they lie in the input or in their own area, with `SLACK` bytes after them. */
export let literalsAt: usize = 0;
export let literalsLength: u32 = 0;

/** The tables of _zstd-huffman.ts are those of a block of this frame. */
let hasTree: bool = false;

/** Forgets the tree of the frame before. */
export function forgetTree(): void {
  hasTree = false;
}

/**
 * Reads the literals at `from`, in a block of `length` bytes, which can have `most` of them. Gives the length of the section, or an
 * error.
 */
export function readLiterals(from: usize, length: u32, most: u32): i32 {
  // 0-1: raw, one byte repeated, compressed, compressed with the tree before; 2-3: form of the lengths
  const header = load<u32>(from);
  const form = (header >> 2) & 3;
  if ((header & 2) == 0) {
    // one byte, two bytes, one byte, three bytes
    const start: u32 = form == 1 ? 2 : form == 3 ? 3 : 1;
    const size =
      form == 1
        ? (header & 0xffff) >> 4
        : form == 3
          ? (header & 0xffffff) >> 4
          : (header & 0xff) >> 3;
    const used = start + ((header & 1) == 0 ? size : 1);
    if (used > length || size > most) return BAD_LITERALS;
    literalsLength = size;
    if ((header & 1) == 0) {
      literalsAt = from + start;
    } else {
      literalsAt = LITERALS;
      memory.fill(LITERALS, load<u8>(from + start), size + SLACK);
    }
    return used;
  }
  // two lengths of 10 bits, or of 14, or of 18; all but the first form have four streams
  const start: u32 = form < 2 ? 3 : form + 2;
  if (start > length) return BAD_LITERALS;
  const width: u32 = form < 2 ? 10 : (form << 2) + 6;
  const lengths = load<u64>(from) >> 4;
  const mask = (1 << width) - 1;
  const size = (<u32>lengths) & mask;
  const packed = (<u32>(lengths >> width)) & mask;
  if (start + packed > length || size > most || size == 0) return BAD_LITERALS;
  let at = from + start;
  const end = at + packed;
  if ((header & 1) == 0) {
    hasTree = false;
    const tree = readTree(at, packed);
    if (tree < 0) return tree;
    at += tree;
    hasTree = true;
  } else if (!hasTree) {
    return BAD_TREE;
  }
  literalsAt = LITERALS;
  literalsLength = size;
  if (form == 0) {
    if (!readStream(at, <u32>(end - at), LITERALS, size)) return BAD_LITERALS;
  } else if (readFourStreams(at, <u32>(end - at), LITERALS, size) < 0) {
    return BAD_LITERALS;
  }
  return <i32>(start + packed);
}
