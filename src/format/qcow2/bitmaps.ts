/** The dirty bitmaps that a qcow2 file keeps: where their tables and clusters lie. What they say is nobody's business here. */

import { alignUp, viewOf } from '../../bytes.ts';
import { quoteUntrusted, SparsecopyError } from '../../errors.ts';
import { makeArea } from './area.ts';
import { ENTRY_SIZE } from './entry.ts';
import type { Header } from './header.ts';
import type { PaddedFile } from './padded.ts';

/** The part of a directory entry that each has, in bytes. */
const FIXED_SIZE = 24;

/** qemu's limits; it opens no image that goes beyond them. */
const MOST_BITMAPS = 65535;
const MOST_DIRECTORY_SIZE = 64 * 1024 * 1024;
const MOST_NAME_LENGTH = 1023;
const MOST_BITMAP_SIZE = 512 * 1024 * 1024;
const LEAST_GRANULARITY_BITS = 9;
const MOST_GRANULARITY_BITS = 31;

/** The autoclear bit that says that the extension has been kept up to date. */
const BITMAPS_BIT = 0;

/** The one type of bitmap there is. */
const DIRTY_TRACKING = 1;

/** Bits of a directory entry's flags: in_use, auto. */
const IN_USE = 1;
const KNOWN_FLAGS = 3;

/** Tables are read in pieces of so many entries. */
const PIECE_COUNT = 128 * 1024;

const TWO_32 = 2 ** 32;

export interface Bitmap {
  readonly name: string;
  readonly tableOffset: number;
  /** Count of entries. */
  readonly tableSize: number;
}

/** Where the directory of the bitmaps lies; `undefined` when there is none that counts. */
export function bitmapDirectory(header: Header): Header['bitmaps'] {
  return header.autoclear.includes(BITMAPS_BIT) ? header.bitmaps : undefined;
}

/**
 * Reads the directory of the bitmaps, and looks at all entries of their tables.
 * @throws SparsecopyError `CORRUPT` for what qemu does not open.
 * Specification: "Bitmaps extension", "Bitmap directory", "Bitmap table".
 */
export async function readBitmaps(file: PaddedFile, header: Header): Promise<readonly Bitmap[]> {
  const directory = bitmapDirectory(header);
  if (directory === undefined) return [];
  const { count, directoryOffset, directoryLength } = directory;
  const corrupt = (sentence: string, offset: number): SparsecopyError =>
    new SparsecopyError('CORRUPT', sentence, { source: file.name, offset });
  if (
    count === 0 ||
    count > MOST_BITMAPS ||
    directoryLength === 0 ||
    directoryLength > MOST_DIRECTORY_SIZE ||
    directoryOffset % header.clusterSize !== 0
  ) {
    const sentence = `bitmaps extension has ${count} bitmaps in ${directoryLength} bytes at ${directoryOffset}, expected 1 to ${MOST_BITMAPS} in at most ${MOST_DIRECTORY_SIZE} at a multiple of the cluster size ${header.clusterSize}`;
    throw corrupt(sentence, directoryOffset);
  }
  const endless = { ...file, size: Infinity };
  const area = makeArea(endless, directoryOffset, { size: MOST_DIRECTORY_SIZE }, 'size');
  const bitmaps: Bitmap[] = [];
  const names = new Set<string>();
  let at = 0;
  for (; at < directoryLength && bitmaps.length < count;) {
    const place = directoryOffset + at;
    const what = `entry ${bitmaps.length} of the bitmap directory at ${directoryOffset}`;
    await area.need(at + FIXED_SIZE, what);
    // 0: offset of the bitmap table, 8: count of its entries, 12: flags, 16: type, 17: granularity_bits,
    // 18: length of the name, 20: length of the extra data, which qemu does not allow
    const tableOffset = area.u64(at);
    const tableSize = area.u32(at + 8);
    const flags = area.u32(at + 12);
    const granularityBits = area.u8(at + 17);
    const nameLength = area.u16(at + 18);
    const nameStart = at + FIXED_SIZE;
    const end = alignUp(nameStart + nameLength, 8);
    if (end > directoryLength) {
      throw corrupt(`${what} ends after ${end} bytes, its directory has ${directoryLength}`, place);
    }
    if (
      area.u32(at + 20) !== 0 ||
      area.u8(at + 16) !== DIRTY_TRACKING ||
      (flags & ~KNOWN_FLAGS) !== 0 ||
      nameLength > MOST_NAME_LENGTH ||
      granularityBits < LEAST_GRANULARITY_BITS ||
      granularityBits > MOST_GRANULARITY_BITS
    ) {
      throw corrupt(`${what} has fields that are not allowed`, place);
    }
    await area.need(end, what);
    const name = area.text(nameStart, nameStart + nameLength);
    if (names.has(name)) throw corrupt(`${what} has the name of another one`, place);
    names.add(name);
    if (
      tableOffset === 0 ||
      tableOffset % header.clusterSize !== 0 ||
      tableSize === 0 ||
      tableSize * header.clusterSize > MOST_BITMAP_SIZE ||
      ((flags & IN_USE) === 0 && tableSize !== tableSizeOf(header, granularityBits))
    ) {
      throw corrupt(`${what} has a table of ${tableSize} entries at ${tableOffset}`, place);
    }
    const bitmap = { name, tableOffset, tableSize };
    await forEachCluster(file, bitmap, header.clusterSize, () => undefined);
    bitmaps.push(bitmap);
    at = end;
  }
  if (bitmaps.length !== count || at !== directoryLength) {
    const sentence = `bitmap directory at ${directoryOffset} has ${bitmaps.length} bitmaps in ${at} bytes, expected ${count} in ${directoryLength}`;
    throw corrupt(sentence, directoryOffset);
  }
  return bitmaps;
}

/**
 * Calls `visit` with the offset of each cluster of a bitmap, and with where its table says so.
 * @throws SparsecopyError `CORRUPT` for an entry that is not allowed.
 */
export async function forEachCluster(
  file: PaddedFile,
  { name, tableOffset, tableSize }: Bitmap,
  clusterSize: number,
  visit: (offset: number, place: number) => void,
): Promise<void> {
  const piece = Buffer.allocUnsafeSlow(Math.min(tableSize, PIECE_COUNT) * ENTRY_SIZE);
  for (let start = 0; start < tableSize; start += PIECE_COUNT) {
    const bytes = piece.subarray(0, (tableSize - start) * ENTRY_SIZE);
    await file.read(bytes, tableOffset + start * ENTRY_SIZE);
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length; at += ENTRY_SIZE) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      // bits 9-55: offset; bit 0, where that is 0: all ones
      const offset = (high & 0x00ffffff) * TWO_32 + ((low & 0xfffffe00) >>> 0);
      const place = tableOffset + start * ENTRY_SIZE + at;
      // bits 1-8 and 56-63: reserved
      const isAllowed =
        (low & 0x1fe) === 0 &&
        (high & 0xff000000) === 0 &&
        (offset === 0 || (low & 1) === 0) &&
        offset % clusterSize === 0;
      if (!isAllowed) {
        const index = start + at / ENTRY_SIZE;
        throw new SparsecopyError(
          'CORRUPT',
          `entry ${index} of the table of bitmap ${quoteUntrusted(name)} at ${tableOffset} is not allowed`,
          { source: file.name, offset: place },
        );
      }
      if (offset !== 0) visit(offset, place);
    }
  }
}

/** How many clusters a bitmap of the whole disk has: one bit for each granule, in whole words of 64. */
function tableSizeOf({ clusterSize, virtualSize }: Header, granularityBits: number): number {
  // qemu drops what is no whole sector at the end of a disk
  const size = virtualSize - (virtualSize % 512);
  const words = Math.ceil(Math.ceil(size / 2 ** granularityBits) / 64);
  return Math.ceil((words * 8) / clusterSize);
}
