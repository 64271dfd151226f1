/** The header extensions of qcow2: the area between the header and the end of its cluster, or the backing file's name. */

import { alignUp } from '../../bytes.ts';
import type { Head } from './head.ts';

/** Header extension types; the others are for writers, or unknown, and are passed over. */
const END = 0x00000000;
const BACKING_FORMAT = 0xe2792aca;
const FEATURE_NAMES = 0x6803f857;
const DATA_FILE = 0x44415441;
const CRYPTO_HEADER = 0x0537be77;
const BITMAPS = 0x23852875;

/** An entry of the feature name table: type, bit number, 46 bytes of name. */
const FEATURE_NAME_SIZE = 48;

/** What the header extensions say. */
export interface Extensions {
  readonly backingFormat: string | undefined;
  /** Name of the external data file. */
  readonly dataFile: string | undefined;
  /** Where the header of the encryption lies in the file, in bytes. */
  readonly cryptoHeader: { readonly offset: number; readonly length: number } | undefined;
  /** Where the directory of the dirty bitmaps lies in the file, in bytes, and how many bitmaps there are. */
  readonly bitmaps:
    | { readonly count: number; readonly directoryOffset: number; readonly directoryLength: number }
    | undefined;
  /** The image's own names for features, by `featureKey`. */
  readonly featureNames: ReadonlyMap<string, string>;
}

/** Key into `Extensions.featureNames`; `type` 0: incompatible, 1: compatible, 2: autoclear. */
export function featureKey(type: number, bit: number): string {
  return `${type}.${bit}`;
}

/**
 * Parses the header extensions from `start` to `end` (exclusive) or the end mark.
 * @throws SparsecopyError `CORRUPT` (one that goes beyond `end`), `TRUNCATED`, `LIMIT` (too many of them).
 * Specification: "Header extensions", "String header extensions", "Feature name table".
 */
export function parseExtensions(head: Head, start: number, end: number): Extensions {
  const { qcow2HeaderExtensionCount } = head.limits;
  let backingFormat: string | undefined;
  let dataFile: string | undefined;
  let featureNames: ReadonlyMap<string, string> = new Map();
  let cryptoHeader: Extensions['cryptoHeader'];
  let bitmaps: Extensions['bitmaps'];
  let count = 0;
  for (let at = start; at + 8 <= end;) {
    // 0: type, 4: length, 8: data, padded to a multiple of 8
    head.need(at + 8, 'header extension area');
    const type = head.u32(at);
    const length = head.u32(at + 4);
    const data = at + 8;
    if (length > end - data) {
      throw head.fail(
        'CORRUPT',
        at,
        `header extension at ${at} has ${length} bytes, its area ends after ${end - data}`,
        { expected: end - data, found: length },
      );
    }
    if (type === END) break;
    if (++count > qcow2HeaderExtensionCount) {
      throw head.fail('LIMIT', at, `has more than ${qcow2HeaderExtensionCount} header extensions`, {
        limit: 'qcow2HeaderExtensionCount',
        expected: qcow2HeaderExtensionCount,
      });
    }
    head.need(data + length, 'header extension');
    if (type === BACKING_FORMAT) backingFormat = head.text(data, data + length);
    else if (type === DATA_FILE) dataFile = head.text(data, data + length);
    else if (type === FEATURE_NAMES) featureNames = parseFeatureNames(head, data, data + length);
    else if (type === CRYPTO_HEADER && length >= 16) {
      // 0: offset, 8: length
      cryptoHeader = { offset: head.u64(data), length: head.u64(data + 8) };
    } else if (type === BITMAPS && length >= 24) {
      // 0: nb_bitmaps, 4: reserved, 8: bitmap_directory_size, 16: bitmap_directory_offset
      bitmaps = {
        count: head.u32(data),
        directoryLength: head.u64(data + 8),
        directoryOffset: head.u64(data + 16),
      };
    }
    at = data + alignUp(length, 8);
  }
  return { backingFormat, dataFile, cryptoHeader, bitmaps, featureNames };
}

function parseFeatureNames(head: Head, start: number, end: number): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  for (let at = start; at + FEATURE_NAME_SIZE <= end; at += FEATURE_NAME_SIZE) {
    // 0: type, 1: bit number, 2: name, padded with zeros
    const [name = ''] = head.text(at + 2, at + FEATURE_NAME_SIZE).split('\0', 1);
    names.set(featureKey(head.u8(at), head.u8(at + 1)), name);
  }
  return names;
}
