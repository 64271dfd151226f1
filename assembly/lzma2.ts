/**
 * Decodes LZMA2 chunks (a filter of the .xz format, section 5.3.1; LZMA itself is as in its author's specification).
 *
 * The dictionary is a ring at the end of the memory, and what is decoded is taken out of it. Long runs of zeros are noted in a list,
 * and need not be looked for. A chunk is
 *
 *     control, uncompressed size - 1 (16 bits, and 5 of the control byte), for LZMA: compressed size - 1, properties, then the data
 *
 * which the caller has parsed.
 */

import { makeTables } from './_crc64';
import { DICTIONARY, INPUT, PATTERNS, RUNS, resetProbabilities } from './_lzma2-memory';
import {
  Coder,
  DAMAGED,
  DONE,
  FULL,
  INPUT_ENDS,
  Input,
  NOT_RESET,
  NO_MEMORY,
  Ring,
  SLACK,
  Zeros,
} from './_lzma2-state';
import { decode } from './_lzma2-symbols';

export { crc64, crc64Zeros } from './_crc64';
export { INPUT as input, RUNS as runs } from './_lzma2-memory';

/** What the next chunk has to set. */
let needsDictionary: bool = true;
let needsProperties: bool = true;
let isStored: bool = false;

/** By how much the ring grows at least, in bytes. */
const GROWTH: u32 = 0x100000;

/** Where the next byte goes: what lies before it, up to the place of the last time, can be taken. */
export function place(): usize {
  return Ring.position;
}

/** How many runs of zeros are in the list. */
export function runCount(): u32 {
  return Zeros.count;
}

/** What is in the ring up to `place` has been taken, and so has the list. Gives where the next byte will be. */
export function taken(): usize {
  Zeros.count = 0;
  if (Ring.position == Ring.end) makeRoom();
  if (Zeros.end != Ring.position) Zeros.length = 0;
  Zeros.start = Ring.taken = Ring.position;
  // it may become longer than 32 bits can say
  Zeros.length = min<u32>(Zeros.length, 0xf0000000);
  return Ring.position;
}

/** Makes place behind the end of the ring, or goes on at its start. */
function makeRoom(): void {
  const size = <u32>(Ring.end - DICTIONARY);
  if (size < Ring.capacity) {
    grow(size + min<u32>(Ring.capacity - size, max<u32>(size, GROWTH)));
    return;
  }
  // the byte before the first one is the last one
  store<u8>(DICTIONARY - 1, load<u8>(Ring.end - 1));
  Ring.hasWrapped = true;
  if (Zeros.end == Ring.position) Zeros.end = DICTIONARY;
  Ring.position = DICTIONARY;
}

/** Makes memory and tables for CRC64 alone, with 64 KiB at `input`. */
export function startCrc64(): void {
  if (grow(0)) makeTables();
}

/** Makes the ring `size` bytes long. False when there is no memory. */
function grow(size: u32): bool {
  const end = <u64>DICTIONARY + <u64>size + <u64>SLACK;
  if (end > 0xffff0000) return false;
  const pages = <i32>((end + 0xffff) >>> 16);
  const missing = pages - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return false;
  Ring.end = DICTIONARY + size;
  return true;
}

/** Starts a block with a dictionary of `size` bytes, of which it can use `used` at most. False when there is no memory. */
export function startBlock(size: u32, used: u32): bool {
  // the largest is more than there can be: then memory ends some day
  const needed = min<u32>(min(size, used), 0xffffff00);
  // nothing lies farther back than what was put out: so no distance leads out of the ring
  Ring.dictionarySize = needed;
  Ring.capacity = ((needed + 15) & ~15) + SLACK;
  Ring.capacity = max<u32>(Ring.capacity, min<u32>(used & ~15, GROWTH) + SLACK);
  needsDictionary = needsProperties = true;
  if (!grow(min<u32>(Ring.capacity, GROWTH))) return false;
  for (let distance: usize = 1; distance < 16; distance++) {
    for (let at: usize = 0; at < 16; at++)
      store<u8>(PATTERNS + distance * 16 + at, <u8>(at % distance));
    // and in row 0 how many of its bytes are whole repetitions
    store<u8>(PATTERNS + distance - 1, <u8>(16 - (16 % distance)));
  }
  startRing();
  return true;
}

function startRing(): void {
  Ring.position = DICTIONARY;
  store<u8>(DICTIONARY - 1, 0);
  Ring.hasWrapped = false;
  Zeros.length = 0;
  Zeros.start = Zeros.end = Ring.taken = DICTIONARY;
  Coder.rest = 0;
  Zeros.count = 0;
}

/**
 * Starts a chunk, whose data of `length` bytes are at `input`; `control` and `properties` are bytes of its header. Everything before it has
 * been taken where it resets the dictionary.
 */
export function startChunk(control: u32, properties: u32, uncompressed: u32, length: u32): i32 {
  if (control == 1 || control >= 0xe0) {
    needsDictionary = false;
    needsProperties = true;
    startRing();
  } else if (needsDictionary) return NOT_RESET;
  Input.left = uncompressed;
  Input.at = INPUT;
  Input.end = INPUT + length;
  isStored = control < 0x80;
  if (isStored) return DONE;
  if (control >= 0xc0) {
    // (pb * 5 + lp) * 9 + lc
    if (properties > (4 * 5 + 4) * 9 + 8) return DAMAGED;
    Coder.lc = properties % 9;
    const rest = properties / 9;
    const lp = rest % 5;
    if (Coder.lc + lp > 4) return DAMAGED;
    Coder.lpMask = (1 << lp) - 1;
    Coder.pbMask = (1 << (rest / 5)) - 1;
    needsProperties = false;
  } else if (needsProperties) return NOT_RESET;
  if (control >= 0xa0) {
    resetProbabilities(Coder.lc + <u32>popcnt(Coder.lpMask));
    Coder.state = Coder.rep0 = Coder.rep1 = Coder.rep2 = Coder.rep3 = 0;
  }
  if (length < 5) return INPUT_ENDS;
  if (load<u8>(INPUT) != 0) return DAMAGED;
  Coder.range = 0xffffffff;
  Coder.code = bswap<u32>(load<u32>(INPUT, 1));
  Input.at = INPUT + 5;
  return DONE;
}

/** Decodes up to the end of the chunk, or of the ring. */
export function run(): i32 {
  if (Input.left == 0) return DONE;
  if (Ring.position == Ring.end) {
    if (<u32>(Ring.end - DICTIONARY) < Ring.capacity) return NO_MEMORY;
    return FULL;
  }
  const start = Ring.position;
  const limit = start + min<u32>(Input.left, <u32>(Ring.end - start));
  const result = isStored ? copyStored(limit) : decode(limit);
  Input.left -= <u32>(Ring.position - start);
  if (result != DONE || Input.left > 0) return result != DONE ? result : FULL;
  return DONE;
}

function copyStored(limit: usize): i32 {
  const length = limit - Ring.position;
  if (Input.at + length > Input.end) return INPUT_ENDS;
  memory.copy(Ring.position, Input.at, length);
  Input.at += length;
  Ring.position = limit;
  return DONE;
}
