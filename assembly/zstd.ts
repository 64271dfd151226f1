/**
 * Decodes Zstandard frames (RFC 8878), a block at a time; src/codec/zstd-decoder.ts, which calls it, finds the blocks and checks their headers.
 *
 * What comes out lies in the window, a buffer that is written from its start again when it is full: a block is never cut. It is larger
 * than the frame's window by two blocks and more, so all that offsets can reach is still there, as is the last MiB that was put out.
 */

import { isZero } from './_zstd-copy';
import { makeConstantTables } from './_zstd-fse';
import { forgetTree, literalsAt, literalsLength, readLiterals } from './_zstd-literals';
import { INPUT, MAX_BLOCK, SLACK, TOO_LONG, WINDOW } from './_zstd-memory';
import { forgetSequences, runSequences } from './_zstd-sequences';
import { hashData, hashEnd, hashStart, hashZeros } from './_zstd-xxh64';

/** Set in what `decodeBlock` gives when the block is all zeros. */
// @ts-ignore: decorator
@inline const ZERO: i32 = 1 << 30;

/** In bytes: what of the output must stay where it is until it has been fetched. */
// @ts-ignore: decorator
@inline const KEPT: u32 = 1024 * 1024;

let isReady: bool = false;
let window: u32 = 0;
let blockMaximum: u32 = 0;
let hasChecksum: bool = false;

/** The buffer ends here; what was put out last lies from `WINDOW` to `position`, what came before ends at `olderEnd`. */
let bufferEnd: usize = 0;
let position: usize = WINDOW;
let olderEnd: usize = WINDOW;
let olderLength: u32 = 0;

/** Zeros that were put out last, at most `window`. */
let zeros: u32 = 0;

/** Where the bytes of a compressed or repeated block are to be put, at most 128 KiB. */
export function inputArea(): usize {
  return INPUT;
}

/** Starts a frame with a window of `size` bytes and blocks of at most `most`. False when there is not enough memory. */
export function startFrame(size: u32, most: u32, checksum: bool): bool {
  const end = WINDOW + (size > KEPT ? size : KEPT) + 2 * MAX_BLOCK + 2 * SLACK;
  const pages = <i32>((end + 0xffff) >> 16) - memory.size();
  if (pages > 0 && memory.grow(pages) < 0) return false;
  if (!isReady) makeConstantTables();
  isReady = true;
  window = size;
  blockMaximum = most;
  hasChecksum = checksum;
  bufferEnd = end;
  position = olderEnd = WINDOW;
  olderLength = 0;
  zeros = 0;
  forgetTree();
  forgetSequences();
  hashStart();
  return true;
}

/** Where the next block will be put out: raw blocks are put there. */
export function outputArea(): usize {
  if (position + blockMaximum + SLACK > bufferEnd) {
    olderEnd = position;
    olderLength = <u32>(position - WINDOW);
    position = WINDOW;
  }
  return position;
}

/**
 * Decodes a block of `size` bytes and `type` (0: raw, 1: repeated, 2: compressed) at the place that `outputArea` gave. Gives the length
 * of what came out, with `ZERO` when it is all zeros, or an error.
 */
export function decodeBlock(type: u32, size: u32): i32 {
  if (size > blockMaximum) return TOO_LONG;
  if (type == 1 && load<u8>(INPUT) == 0) return repeatZeros(size);
  let length = size;
  if (type == 1) {
    memory.fill(position, load<u8>(INPUT), size);
  } else if (type == 2) {
    const result = decodeCompressed(INPUT, size);
    if (result < 0) return result;
    length = result;
  }
  const end = position + length;
  if (hasChecksum) hashData(position, length);
  const isAllZero = length > 0 && isZero(position, end);
  if (isAllZero) zeros = length > window - zeros ? window : zeros + length;
  else if (length > 0) zeros = 0;
  position = end;
  return isAllZero ? length | ZERO : length;
}

/** Puts out `size` zeros, without writing them when an offset reaches nothing but zeros. */
function repeatZeros(size: u32): i32 {
  if (zeros < window) {
    memory.fill(position, 0, size);
    position += size;
    zeros = size > window - zeros ? window : zeros + size;
  }
  if (hasChecksum) hashZeros(size);
  return size > 0 ? size | ZERO : 0;
}

function decodeCompressed(from: usize, size: u32): i32 {
  const used = readLiterals(from, size, blockMaximum);
  if (used < 0) return used;
  return runSequences(
    from + used,
    from + size,
    literalsAt,
    literalsAt + literalsLength,
    position,
    blockMaximum,
    WINDOW,
    olderEnd,
    olderLength,
    window,
  );
}

/** Where `decodeFrame` puts what it decodes. */
export function frameArea(): usize {
  return WINDOW;
}

/**
 * Decodes a frame that `length` bytes at the input area start with, at most 128 KiB, and that is `wanted` bytes, at most a MiB, with a
 * window of at most `most`. False when it is not, or when anything in it is wrong: then a block at a time shows what.
 */
export function decodeFrame(length: u32, wanted: u32, most: u32): bool {
  let at = frameHeader(length, wanted, most);
  if (at == 0) return false;
  const end = INPUT + length;
  for (let isLast = false; !isLast;) {
    if (at + 3 > end) return false;
    const header = load<u32>(at);
    at += 3;
    isLast = (header & 1) != 0;
    const type = (header >> 1) & 3;
    let size = (header & 0xffffff) >> 3;
    const stored = type == 1 ? 1 : size;
    if (type == 3 || size > blockMaximum || at + stored > end) return false;
    if (type == 2) {
      if (size < 2) return false;
      const result = decodeCompressed(at, size);
      if (result < 0) return false;
      size = result;
    } else if (type == 1) {
      memory.fill(position, load<u8>(at), size);
    } else {
      memory.copy(position, at, size);
    }
    if (hasChecksum) hashData(position, size);
    position += size;
    if (position - WINDOW > wanted) return false;
    at += stored;
  }
  if (position - WINDOW != wanted) return false;
  return !hasChecksum || (at + 4 <= end && load<u32>(at) == hashEnd());
}

/** Starts the frame whose header (section 3.1.1.1) is at the input area. Gives where its blocks start, or 0. */
function frameHeader(length: u32, wanted: u32, most: u32): usize {
  if (length < 5 || load<u32>(INPUT) != 0xfd2fb528) return 0;
  // content size flag (7-6), single segment (5), unused (4), reserved (3), checksum (2), dictionary id flag (1-0)
  const descriptor = <u32>load<u8>(INPUT, 4);
  if ((descriptor & 0x0b) != 0) return 0;
  const isSingle = (descriptor & 0x20) != 0;
  let at = INPUT + 5;
  let size: u64 = wanted;
  if (!isSingle) {
    // exponent (7-3), mantissa (2-0)
    const mantissa = <u64>(load<u8>(at) & 7);
    size = (8 + mantissa) << (7 + <u64>(load<u8>(at) >> 3));
    at++;
  }
  const flag = descriptor >> 6;
  const sizeLength: u32 = flag == 0 ? (isSingle ? 1 : 0) : 1 << flag;
  let content = load<u64>(at);
  if (sizeLength < 8) content &= ((<u64>1) << (sizeLength << 3)) - 1;
  if (sizeLength == 2) content += 256;
  if ((sizeLength > 0 && content != wanted) || size > most) return 0;
  at += sizeLength;
  if (at > INPUT + length) return 0;
  const window = sizeLength > 0 && wanted < size ? wanted : <u32>size;
  const blockMost = size < MAX_BLOCK ? <u32>size : MAX_BLOCK;
  return startFrame(window, blockMost, (descriptor & 4) != 0) ? at : 0;
}

/** The content checksum of the frame (section 3.1.1), when it has one. */
export function checksum(): u32 {
  return hashEnd();
}
