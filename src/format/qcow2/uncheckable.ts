/** Which qcow2 images get no verdict, since qemu opens none of them, whatever their tables say. */

import { alignUp, viewOf } from '../../bytes.ts';
import { SparsecopyError, type ErrorCode } from '../../errors.ts';
import type { Header } from './header.ts';

/** Count of the defined incompatible feature bits. */
const KNOWN_BITS = 5;

const DATA_FILE_BIT = 2;
const EXTENDED_L2_BIT = 4;

/** The autoclear bit of raw external data. */
const RAW_DATA_FILE_BIT = 1;

/** Extended L2 entries need subclusters of 512 bytes or more, 32 to a cluster. */
const LEAST_EXTENDED_BITS = 14;

/** Compression types: zlib, zstd. Methods of encryption: none, AES, LUKS. */
const MOST_COMPRESSION_TYPE = 1;
const LUKS = 2;

const MOST_BACKING_NAME = 1023;
const MOST_BACKING_FORMAT = 15;

/** Header extension types, and the lengths that the specification gives them. */
const END = 0x00000000;
const BACKING_FORMAT = 0xe2792aca;
const CRYPTO_HEADER = 0x0537be77;
const CRYPTO_HEADER_LENGTH = 16;
const BITMAPS = 0x23852875;
const BITMAPS_LENGTH = 24;

/**
 * Refuses what qemu does not open. `head` is what `header` was parsed from.
 * @throws SparsecopyError `UNSUPPORTED`, `CORRUPT`.
 */
export function refuseUncheckable(header: Header, head: Uint8Array, name: string): void {
  const { autoclear, clusterBits, clusterSize, cryptMethod, cryptoHeader, incompatible } = header;
  const fail = (code: ErrorCode, sentence: string, offset: number): SparsecopyError =>
    new SparsecopyError(code, sentence, { source: name, offset });

  const unknown = incompatible.find((bit) => bit >= KNOWN_BITS);
  if (unknown !== undefined) {
    throw fail('UNSUPPORTED', `needs incompatible feature bit ${unknown}`, 72);
  }
  if (header.compressionType > MOST_COMPRESSION_TYPE) {
    throw fail('UNSUPPORTED', `has compression type ${header.compressionType}`, 104);
  }
  if (incompatible.includes(EXTENDED_L2_BIT) && clusterBits < LEAST_EXTENDED_BITS) {
    const sentence = `has extended L2 entries with clusters of ${clusterSize} bytes, expected at least ${2 ** LEAST_EXTENDED_BITS}`;
    throw fail('CORRUPT', sentence, 20);
  }
  const hasDataFile = incompatible.includes(DATA_FILE_BIT);
  if (hasDataFile && header.dataFile === undefined) {
    throw fail('CORRUPT', 'has its data in another file, and does not name it', 72);
  }
  if (!hasDataFile && autoclear.includes(RAW_DATA_FILE_BIT)) {
    throw fail('CORRUPT', 'has the raw external data bit, but no external data file', 88);
  }
  if (cryptMethod > LUKS) throw fail('UNSUPPORTED', `has encryption method ${cryptMethod}`, 32);
  if ((cryptMethod === LUKS) !== (cryptoHeader !== undefined)) {
    const found = cryptoHeader === undefined ? 'no' : 'an';
    throw fail(
      'CORRUPT',
      `has encryption method ${cryptMethod}, and ${found} encryption header`,
      32,
    );
  }
  if (cryptoHeader !== undefined && cryptoHeader.offset % clusterSize !== 0) {
    const sentence = `has its encryption header at ${cryptoHeader.offset}, expected a multiple of the cluster size ${clusterSize}`;
    throw fail('CORRUPT', sentence, 0);
  }
  const view = viewOf(head);
  // 8: backing_file_offset, 16: backing_file_size
  const nameOffset = view.getUint32(8) * 2 ** 32 + view.getUint32(12);
  const nameLength = view.getUint32(16);
  const most = Math.min(MOST_BACKING_NAME, clusterSize - nameOffset);
  if (nameOffset !== 0 && nameLength > most) {
    const sentence = `has the name of its backing file in ${nameLength} bytes at ${nameOffset}, expected at most ${Math.max(0, most)}`;
    throw fail('CORRUPT', sentence, 8);
  }
  refuseExtensions(header, head, nameOffset === 0 ? clusterSize : nameOffset, fail);
}

/** Refuses header extensions of a wrong length; that they all fit before `end` is known by now. */
function refuseExtensions(
  { version }: Header,
  head: Uint8Array,
  end: number,
  fail: (code: ErrorCode, sentence: string, offset: number) => SparsecopyError,
): void {
  const view = viewOf(head);
  // 100: header_length
  let at = version === 2 ? 72 : view.getUint32(100);
  while (at + 8 <= Math.min(end, head.length)) {
    // 0: type, 4: length
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === END) return;
    if (
      (type === BITMAPS && length !== BITMAPS_LENGTH) ||
      (type === CRYPTO_HEADER && length !== CRYPTO_HEADER_LENGTH) ||
      (type === BACKING_FORMAT && length > MOST_BACKING_FORMAT)
    ) {
      const name = `header extension 0x${type.toString(16)} at ${at}`;
      throw fail('CORRUPT', `${name} has ${length} bytes, which it must not have`, at);
    }
    at += 8 + alignUp(length, 8);
  }
}
