/** Knows the fields of the .xz container: stream header and footer, block header, variable-length integers. */

import { crc32 } from 'node:zlib';
import { viewOf } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import { checkMaker } from './xz-check.ts';
import type { Check } from './xz-check.ts';
import { filterMaker } from './xz-filter.ts';
import type { Filter } from './xz-filter.ts';

/** Section 2.1.2.4. */
const FOOTER_MAGIC = [0x59, 0x5a];

/** Length of a stream header, and of a stream footer too, in bytes (section 2.1). */
export const STREAM_HEADER_LENGTH = 12;

/** Longest variable-length integer in bytes: 63 bits (section 1.2). */
export const MAX_INTEGER_LENGTH = 9;

/** Section 5.3.1. */
const LZMA2 = 0x21;

/** Highest defined dictionary property: 4 GiB - 1 (section 5.3.1). */
const LAST_DICTIONARY_PROPERTY = 40;

/**
 * Parses a stream header (section 2.1.1), whose magic the caller has tested: `bytes` are its 12 bytes, at `offset`
 * of the input `name`. Gives what makes the check of each block.
 * @throws SparsecopyError `CORRUPT` for a wrong CRC32, `UNSUPPORTED` for reserved flags and unknown checks.
 */
export function parseStreamHeader(bytes: Uint8Array, offset: number, name: string): () => Check {
  // 0: magic, 6: null byte of the stream flags, 7: check id (low four bits; the others are reserved), 8: CRC32 of 6 and 7
  const place = `stream header at ${offset}`;
  demandCrc32(crc32(bytes.subarray(6, 8)), bytes.subarray(8), place, offset, name);
  const flags = bytes[7] ?? 0;
  if (bytes[6] !== 0 || (flags & 0xf0) !== 0) {
    throw unsupported('reserved stream flags', place, offset, name);
  }
  const makeCheck = checkMaker(flags);
  if (makeCheck === undefined) throw unsupported(`check with id ${flags}`, place, offset, name);
  return makeCheck;
}

/**
 * Checks a stream footer (section 2.1.2) against the stream's header, both of 12 bytes, and the length of its index
 * in bytes. The footer is at `offset` of the input `name`.
 * @throws SparsecopyError `CORRUPT`.
 */
export function checkStreamFooter(
  bytes: Uint8Array,
  header: Uint8Array,
  indexLength: number,
  offset: number,
  name: string,
): void {
  // 0: CRC32 of 4 to 9, 4: backward size: length of the index in units of four, minus one, 8: stream flags, 10: magic
  const place = `stream footer at ${offset}`;
  const view = viewOf(bytes);
  if (bytes[10] !== FOOTER_MAGIC[0] || bytes[11] !== FOOTER_MAGIC[1]) {
    throw corrupt(`${place} does not end with the magic bytes "YZ"`, offset, name);
  }
  demandCrc32(crc32(bytes.subarray(4, 10)), bytes.subarray(0, 4), place, offset, name);
  if (bytes[8] !== header[6] || bytes[9] !== header[7]) {
    throw corrupt(`${place} has other stream flags than the header of its stream`, offset, name);
  }
  const found = (view.getUint32(4, true) + 1) * 4;
  if (found !== indexLength) {
    throw corrupt(
      `${place} says that the index has ${found} bytes, found ${indexLength}`,
      offset,
      name,
    );
  }
}

/** Length of a block header in bytes, from its first byte, which is not 0 (section 3.1.1). */
export function blockHeaderLength(first: number): number {
  return (first + 1) * 4;
}

/** What a block header says. */
export interface BlockHeader {
  /** Of the compressed data in bytes, when stored. */
  readonly compressedSize: number | undefined;
  /** In bytes, when stored. */
  readonly uncompressedSize: number | undefined;
  /** Of LZMA2, in bytes. */
  readonly dictionarySize: number;
  /** What undoes the filters before LZMA2, in the order in which that is done; to be called for one block only. */
  readonly filters: readonly (() => Filter)[];
}

/**
 * Parses a block header (section 3.1): `bytes` is all of it, at `offset` of the input `name`.
 * @throws SparsecopyError `CORRUPT` for what contradicts the specification, `UNSUPPORTED` for reserved flags and unknown filters.
 */
export function parseBlockHeader(bytes: Uint8Array, offset: number, name: string): BlockHeader {
  const place = `block header at ${offset}`;
  const end = bytes.length - 4;
  const fields = bytes.subarray(0, end);
  demandCrc32(crc32(fields), bytes.subarray(end), place, offset, name);
  // 0: header size, 1: block flags: count of filters - 1 (bits 0-1), reserved (2-5), which sizes are there (6, 7)
  const flags = bytes[1] ?? 0;
  if ((flags & 0x3c) !== 0) throw unsupported('reserved block flags', place, offset, name);
  let at = 2;
  const integer = (): number => {
    const parsed = parseInteger(fields, at);
    if (parsed === undefined) {
      throw corrupt(`${place} has no valid integer at its byte ${at}`, offset, name);
    }
    at += parsed.length;
    return parsed.value;
  };
  const compressedSize = (flags & 0x40) === 0 ? undefined : integer();
  const uncompressedSize = (flags & 0x80) === 0 ? undefined : integer();
  const filters: (() => Filter)[] = [];
  let dictionaryProperty = 0;
  for (let left = (flags & 0x03) + 1; left > 0; left--) {
    const id = integer();
    const length = integer();
    if (length > end - at) throw corrupt(`${place} is too short for its filters`, offset, name);
    const properties = fields.subarray(at, at + length);
    at += length;
    if (id === LZMA2) {
      if (left > 1) throw corrupt(`${place} has a filter after LZMA2`, offset, name);
      dictionaryProperty = parseDictionary(properties, place, offset, name);
      continue;
    }
    const filter = filterMaker({ id, properties }, place, { source: name, offset });
    if (filter === undefined) {
      throw unsupported(`filter with id 0x${id.toString(16)}`, place, offset, name);
    }
    if (left === 1) throw corrupt(`${place} does not end its filters with LZMA2`, offset, name);
    filters.unshift(filter);
  }
  // the rest is padding of zeros; the specification calls anything else a field of the future (section 3.1.6)
  if (fields.subarray(at).some((byte) => byte !== 0)) {
    throw unsupported('unknown block header fields', place, offset, name);
  }
  const dictionarySize = sizeOfDictionary(dictionaryProperty);
  return { compressedSize, uncompressedSize, dictionarySize, filters };
}

/** LZMA2's only property (section 5.3.1). */
function parseDictionary(
  properties: Uint8Array,
  place: string,
  offset: number,
  name: string,
): number {
  const [property = 0] = properties;
  if (properties.length !== 1) {
    const sentence = `${place} has ${properties.length} bytes of LZMA2 properties, expected 1`;
    throw corrupt(sentence, offset, name);
  }
  if (property > LAST_DICTIONARY_PROPERTY) {
    throw corrupt(
      `${place} has dictionary property ${property}, expected 0 to ${LAST_DICTIONARY_PROPERTY}`,
      offset,
      name,
    );
  }
  return property;
}

/** In bytes (section 5.3.1): 2 or 3 times a power of two, and for the last property all that 32 bits can say. */
function sizeOfDictionary(property: number): number {
  if (property === LAST_DICTIONARY_PROPERTY) return 2 ** 32 - 1;
  return (2 | (property & 1)) * 2 ** ((property >> 1) + 11);
}

/**
 * A variable-length integer at `at` (section 1.2): its value, rounded when above 2^53, and its length in bytes.
 * Undefined when `bytes` end in it or it is not the shortest encoding.
 */
export function parseInteger(
  bytes: Uint8Array,
  at: number,
): { readonly value: number; readonly length: number } | undefined {
  let value = 0;
  for (let length = 1; length <= MAX_INTEGER_LENGTH; length++) {
    const byte = bytes[at + length - 1];
    if (byte === undefined) return undefined;
    value += (byte & 0x7f) * 2 ** (7 * (length - 1));
    if (byte < 0x80) return byte === 0 && length > 1 ? undefined : { value, length };
  }
  return undefined;
}

/** @throws SparsecopyError `CORRUPT` when `found` is not the CRC32 that `stored` holds. */
export function demandCrc32(
  found: number,
  stored: Uint8Array,
  place: string,
  offset: number,
  name: string,
): void {
  const expected = viewOf(stored).getUint32(0, true);
  if (found !== expected) {
    throw new SparsecopyError(
      'CORRUPT',
      `${place} has CRC32 ${found.toString(16)}, stored is ${expected.toString(16)}`,
      { source: name, offset, found, expected },
    );
  }
}

function unsupported(
  feature: string,
  place: string,
  offset: number,
  name: string,
): SparsecopyError {
  return new SparsecopyError('UNSUPPORTED', `${place} asks for: ${feature}`, {
    source: name,
    offset,
    feature,
  });
}

function corrupt(sentence: string, offset: number, name: string): SparsecopyError {
  return new SparsecopyError('CORRUPT', sentence, { source: name, offset });
}
