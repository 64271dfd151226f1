/** The header of a qcow2 file: every field, with the rules for it that need no byte beyond the header's cluster. */

import { viewOf } from '../../bytes.ts';
import type { SparsecopyError } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import { ENTRY_SIZE, EXTENDED_ENTRY_SIZE } from './entry.ts';
import { parseExtensions, type Extensions } from './extensions.ts';
import { hasExtendedL2 } from './features.ts';
import { makeHead, type Head } from './head.ts';

/** "QFI" and 0xfb. */
const MAGIC = 0x514649fb;

/** Size of a version 2 header, and the least of a version 3 header, in bytes. */
const V2_SIZE = 72;
const V3_SIZE = 104;

/** 512 bytes is the specification's least, 2 MiB the most that qemu opens. */
const LEAST_CLUSTER_BITS = 9;
const MOST_CLUSTER_BITS = 21;

/** With extended L2 entries the specification wants 16 KiB: a subcluster is no smaller than a sector. */
const LEAST_EXTENDED_CLUSTER_BITS = 14;

/** The incompatible feature bit that goes with a compression type other than 0. */
const COMPRESSION_TYPE_BIT = 3;

/** What the header and its extensions say. Offsets in bytes of the image file. */
export interface Header extends Extensions {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** In bytes. */
  readonly clusterSize: number;
  /** In bytes. */
  readonly virtualSize: number;
  /** 0: none, 1: AES, 2: LUKS. */
  readonly cryptMethod: number;
  /** Count of entries in the active L1 table; there may be more than the virtual size needs. */
  readonly l1Size: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  /** In clusters. */
  readonly refcountTableClusters: number;
  /** Width of a reference count in bits: 1 to 64, a power of two. */
  readonly refcountBits: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  /** Numbers of the bits that are set, ascending. */
  readonly incompatible: readonly number[];
  readonly compatible: readonly number[];
  readonly autoclear: readonly number[];
  /** 0: zlib, 1: zstd. */
  readonly compressionType: number;
  /** Present when there is one; empty when its name is longer than allowed or not within the bytes looked at. */
  readonly backingFile: string | undefined;
}

/** True when `head` starts with the magic of qcow2 (and of its predecessor qcow, told apart by the version). */
export function hasMagic(head: Uint8Array): boolean {
  return head.length >= 4 && viewOf(head).getUint32(0) === MAGIC;
}

/**
 * Parses the header and its extensions. `bytes` is the start of the file called `name`: `limits.probeHead` bytes, or
 * all of a shorter file. Features, references and encryption that make an image unreadable are no error here.
 * @throws SparsecopyError `FORMAT` (no magic), `UNSUPPORTED` (version), `TRUNCATED`, `CORRUPT`, `LIMIT`.
 * Specification: "Header", "Additional fields".
 */
export function parseHeader(bytes: Uint8Array, name: string, limits: Limits): Header {
  const head = makeHead(bytes, name, limits);
  head.need(8, 'qcow2 header');
  const version = parseVersion(head);
  head.need(version === 2 ? V2_SIZE : V3_SIZE, 'qcow2 header');
  const incompatible = version === 2 ? [] : setBits(head, 72);
  const isExtended = hasExtendedL2({ incompatible });
  const clusterBits = parseClusterBits(head, isExtended);
  const clusterSize = 2 ** clusterBits;
  const headerLength = version === 2 ? V2_SIZE : parseHeaderLength(head, clusterSize);
  const virtualSize = parseVirtualSize(head);
  const backingOffset = head.u64(8);
  // 56: refcount_table_clusters
  const refcountTableClusters = count(
    head,
    56,
    'refcount_table_clusters',
    clusterSize,
    'qcow2RefcountTableSize',
  );
  if (refcountTableClusters === 0) {
    throw wrong(head, 56, 'refcount_table_clusters', 0, 'at least 1');
  }
  // 96: refcount_order: 6 stands for 64 bits, and version 2 has 16
  const refcountOrder = version === 2 ? 4 : head.u32(96);
  if (refcountOrder > 6) throw wrong(head, 96, 'refcount_order', refcountOrder, 'at most 6');
  return {
    version,
    clusterBits,
    clusterSize,
    virtualSize,
    // 32: crypt_method
    cryptMethod: head.u32(32),
    ...parseL1(head, virtualSize, clusterSize, isExtended ? EXTENDED_ENTRY_SIZE : ENTRY_SIZE),
    refcountTableOffset: offset(head, 48, 'refcount_table_offset', clusterSize),
    refcountTableClusters,
    refcountBits: 2 ** refcountOrder,
    snapshotsOffset: offset(head, 64, 'snapshots_offset', clusterSize),
    snapshotCount: count(head, 60, 'nb_snapshots', 1, 'qcow2SnapshotCount'),
    incompatible,
    compatible: version === 2 ? [] : setBits(head, 80),
    autoclear: version === 2 ? [] : setBits(head, 88),
    compressionType: parseCompressionType(head, headerLength, incompatible),
    backingFile: parseBackingFile(head, backingOffset, clusterSize),
    ...parseExtensions(
      head,
      headerLength,
      // the name of the backing file follows the extensions
      backingOffset >= headerLength && backingOffset < clusterSize ? backingOffset : clusterSize,
    ),
  };
}

/** 0: magic, 4: version */
function parseVersion(head: Head): 2 | 3 {
  if (head.u32(0) !== MAGIC) {
    const numbers = { expected: MAGIC, found: head.u32(0) };
    throw head.fail('FORMAT', 0, 'does not start with the magic of qcow2', numbers);
  }
  const version = head.u32(4);
  if (version === 2 || version === 3) return version;
  throw head.fail('UNSUPPORTED', 4, `has qcow2 version ${version}, expected 2 or 3`, {
    feature: `version ${version}`,
    found: version,
  });
}

/** 20: cluster_bits */
function parseClusterBits(head: Head, isExtended: boolean): number {
  const bits = head.u32(20);
  const least = isExtended ? LEAST_EXTENDED_CLUSTER_BITS : LEAST_CLUSTER_BITS;
  if (bits >= least && bits <= MOST_CLUSTER_BITS) return bits;
  const expected = `${least} to ${MOST_CLUSTER_BITS}${isExtended ? ' with extended L2 entries' : ''}`;
  throw wrong(head, 20, 'cluster_bits', bits, expected);
}

/** 100: header_length. The specification wants a multiple of 8; qemu takes any, and nothing here depends on it. */
function parseHeaderLength(head: Head, clusterSize: number): number {
  const length = head.u32(100);
  if (length < V3_SIZE || length > clusterSize) {
    throw wrong(head, 100, 'header_length', length, `${V3_SIZE} to ${clusterSize}`);
  }
  head.need(length, 'qcow2 header');
  return length;
}

/** 24: size */
function parseVirtualSize(head: Head): number {
  const size = head.u64(24);
  if (size <= Number.MAX_SAFE_INTEGER) return size;
  const found = head.exact64(24);
  throw head.fail('LIMIT', 24, `header field size is ${found.toString()}, expected below 2^53`, {
    limit: 'virtualSize',
    found,
  });
}

/** 36: l1_size, 40: l1_table_offset */
function parseL1(
  head: Head,
  virtualSize: number,
  clusterSize: number,
  entrySize: number,
): { l1Size: number; l1Offset: number } {
  const l1Size = count(head, 36, 'l1_size', ENTRY_SIZE, 'qcow2L1Size');
  const l1Offset = offset(head, 40, 'l1_table_offset', clusterSize);
  const needed = Math.ceil(virtualSize / clusterSize / (clusterSize / entrySize));
  if (l1Size < needed) {
    throw wrong(head, 36, 'l1_size', l1Size, `at least ${needed} for ${virtualSize} bytes`);
  }
  if (l1Offset === 0 && needed > 0) {
    throw wrong(head, 40, 'l1_table_offset', 0, 'an offset beyond the header');
  }
  return { l1Size, l1Offset };
}

/** 104: compression_type, present when the header is longer than that */
function parseCompressionType(
  head: Head,
  headerLength: number,
  incompatible: readonly number[],
): number {
  const type = headerLength > V3_SIZE ? head.u8(104) : 0;
  const bit = incompatible.includes(COMPRESSION_TYPE_BIT);
  if (bit !== (type !== 0)) {
    const expected = `${bit ? 'not 0' : '0'} with incompatible feature bit 3 ${bit ? 'set' : 'clear'}`;
    throw wrong(head, 104, 'compression_type', type, expected);
  }
  return type;
}

/** 8: backing_file_offset, 16: backing_file_size */
function parseBackingFile(
  head: Head,
  backingOffset: number,
  clusterSize: number,
): string | undefined {
  if (backingOffset === 0) return undefined;
  const end = backingOffset + head.u32(16);
  const isReadable =
    head.u32(16) <= head.limits.qcow2BackingNameLength && end <= Math.min(clusterSize, head.length);
  return isReadable ? head.text(backingOffset, end) : '';
}

/** An offset field; it must be a multiple of the cluster size. */
function offset(head: Head, at: number, field: string, clusterSize: number): number {
  const value = head.u64(at);
  if (value <= Number.MAX_SAFE_INTEGER && value % clusterSize === 0) return value;
  const expected = `a multiple of the cluster size ${clusterSize}, below 2^53`;
  throw wrong(head, at, field, head.exact64(at), expected);
}

/** A count field, of things of `unit` bytes each. */
function count(head: Head, at: number, field: string, unit: number, limit: keyof Limits): number {
  const value = head.u32(at);
  const most = head.limits[limit] / unit;
  if (value <= most) return value;
  throw wrong(head, at, field, value, `at most ${most}`, limit);
}

/** The numbers of the bits set in the 64-bit field at `at`. */
function setBits(head: Head, at: number): number[] {
  const bits: number[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const half = head.u32(bit < 32 ? at + 4 : at);
    if (((half >>> (bit % 32)) & 1) === 1) bits.push(bit);
  }
  return bits;
}

function wrong(
  head: Head,
  at: number,
  field: string,
  found: number | bigint,
  expected: string,
  limit?: keyof Limits,
): SparsecopyError {
  return head.fail(
    'CORRUPT',
    at,
    `header field ${field} is ${found.toString()}, expected ${expected}`,
    {
      expected,
      found,
      ...(limit === undefined ? {} : { limit }),
    },
  );
}
