/** The bits of L1 and L2 table entries, and nothing of where tables lie: one entry in, one tagged value out. */

/** What an L1 entry says. */
export type L1Entry =
  | { readonly kind: 'unallocated' }
  | { readonly kind: 'table'; readonly hostOffset: number }
  | InvalidEntry;

/** What an L2 entry says of its cluster. */
export type L2Entry =
  /** Reads as what the backing file has there. */
  | { readonly kind: 'unallocated' }
  /** Reads as zeros. `hostOffset` is a preallocated cluster whose content means nothing, or 0. */
  | { readonly kind: 'zero'; readonly hostOffset: number }
  | { readonly kind: 'plain'; readonly hostOffset: number }
  /** `hostLength` bytes up to the end of the last sector used: the compressed data may end before. */
  | { readonly kind: 'compressed'; readonly hostOffset: number; readonly hostLength: number }
  | SubclusterEntry
  | InvalidEntry;

/** A cluster whose subclusters differ; bit n (unsigned, no bit in both) speaks of the subcluster with number n. */
export interface SubclusterEntry {
  readonly kind: 'subclusters';
  /** Of the whole cluster; 0 without meaning where no bit of `allocated` is set. */
  readonly hostOffset: number;
  /** Subclusters that are plain. */
  readonly allocated: number;
  /** Subclusters that read as zeros; what is neither reads as what the backing file has there. */
  readonly zeros: number;
}

/** An entry that the specification does not allow. */
interface InvalidEntry {
  readonly kind: 'invalid';
  /** For messages: what is wrong, without its place. */
  readonly why: string;
}

/** Size of an L1 entry and of a standard L2 entry in bytes. */
export const ENTRY_SIZE = 8;

/** Size of an extended L2 entry in bytes. */
export const EXTENDED_ENTRY_SIZE = 16;

/** A cluster with an extended L2 entry has 2 to the power of this many subclusters. */
export const SUBCLUSTER_COUNT_BITS = 5;

const ALL_SUBCLUSTERS = 0xffffffff;

/** Compressed data is measured in these, whatever the cluster size. */
const SECTOR_SIZE = 512;

const TWO_32 = 2 ** 32;
/** Offset bits 32 to 55, in the high half. */
const OFFSET_HIGH = 0x00ffffff;
/** Offset bits 9 to 31, in the low half. */
const OFFSET_LOW = 0xfffffe00;

const UNALLOCATED = { kind: 'unallocated' } as const;
const ZERO = { kind: 'zero', hostOffset: 0 } as const;

/**
 * Decodes the L1 entry whose halves are `high` and `low` (unsigned), of an image with clusters of `2 ** clusterBits`
 * bytes. Specification: "Cluster mapping", L1 table entry.
 */
export function decodeL1Entry(high: number, low: number, clusterBits: number): L1Entry {
  // bits 0-8 and 56-62: reserved; bit 63: the table's refcount is exactly one, which a reader need not know
  if ((low & 0x1ff) !== 0 || (high & 0x7f000000) !== 0) return invalid('has reserved bits set');
  const hostOffset = offsetOf(high, low);
  if (hostOffset === 0) return UNALLOCATED;
  if (isMisaligned(low, clusterBits)) return misaligned(hostOffset, clusterBits);
  return { kind: 'table', hostOffset };
}

/**
 * Decodes the standard L2 entry whose halves are `high` and `low` (unsigned). `version` is the header's: 2 has no zero
 * flag. Only with an external data file there can be a cluster in use at offset 0.
 * Specification: "Cluster mapping", L2 table entry.
 */
export function decodeL2Entry(
  high: number,
  low: number,
  clusterBits: number,
  version: 2 | 3,
  hasDataFile = false,
): L2Entry {
  // bit 62: compressed
  if ((high & 0x40000000) !== 0) return decodeCompressed(high, low, clusterBits, hasDataFile);
  // bits 1-8 and 56-61: reserved
  if ((low & 0x1fe) !== 0 || (high & 0x3f000000) !== 0) return invalid('has reserved bits set');
  const hostOffset = offsetOf(high, low);
  if (isMisaligned(low, clusterBits)) return misaligned(hostOffset, clusterBits);
  // bit 0: reads as zeros
  if ((low & 1) !== 0) {
    if (version === 2) return invalid('has the zero flag, which version 2 does not know');
    return hostOffset === 0 ? ZERO : { kind: 'zero', hostOffset };
  }
  if (hostOffset !== 0) return { kind: 'plain', hostOffset };
  // bit 63: in use
  if (high === 0) return UNALLOCATED;
  return hasDataFile ? { kind: 'plain', hostOffset } : invalid('is in use at offset 0, the header');
}

/**
 * Decodes the extended L2 entry whose first half is `high` and `low`, and whose bitmap is `zeros` (bits 32 to 63) and
 * `allocated` (bits 0 to 31), all unsigned. Specification: "Extended L2 Entries".
 */
export function decodeExtendedL2Entry(
  high: number,
  low: number,
  zeros: number,
  allocated: number,
  clusterBits: number,
  hasDataFile = false,
): L2Entry {
  // bit 62: compressed
  if ((high & 0x40000000) !== 0) {
    if (zeros !== 0 || allocated !== 0) return invalid('is compressed, but has subclusters');
    return decodeCompressed(high, low, clusterBits, hasDataFile);
  }
  // bits 0-8 and 56-61: reserved
  if ((low & 0x1ff) !== 0 || (high & 0x3f000000) !== 0) return invalid('has reserved bits set');
  const hostOffset = offsetOf(high, low);
  if (isMisaligned(low, clusterBits)) return misaligned(hostOffset, clusterBits);
  if ((allocated & zeros) !== 0) return invalid('has subclusters both allocated and zero');
  if (hostOffset === 0) {
    // bit 63: in use
    if (high !== 0 && !hasDataFile) return invalid('is in use at offset 0, the header');
    if (high === 0 && allocated !== 0) return invalid('has subclusters allocated in no cluster');
  }
  if (allocated === ALL_SUBCLUSTERS) return { kind: 'plain', hostOffset };
  if (zeros === ALL_SUBCLUSTERS) return hostOffset === 0 ? ZERO : { kind: 'zero', hostOffset };
  if (allocated === 0 && zeros === 0) return UNALLOCATED;
  return { kind: 'subclusters', hostOffset, allocated, zeros };
}

/** Specification: Compressed Clusters Descriptor; `x` is its name for the count of offset bits. Bit 63 is not looked at. */
function decodeCompressed(
  high: number,
  low: number,
  clusterBits: number,
  hasDataFile: boolean,
): L2Entry {
  if (hasDataFile) return invalid('is compressed, which a data file has no place for');
  const x = 62 - (clusterBits - 8);
  const offsetHigh = high & ((1 << (x - 32)) - 1);
  if (offsetHigh > OFFSET_HIGH) return invalid('has an offset of more than 56 bits');
  const hostOffset = offsetHigh * TWO_32 + low;
  const furtherSectors = (high & 0x3fffffff) >>> (x - 32);
  const hostLength = (furtherSectors + 1) * SECTOR_SIZE - (low % SECTOR_SIZE);
  return { kind: 'compressed', hostOffset, hostLength };
}

/** Bits 9 to 55: exact, since a multiple of 512 below 2^56 fits the 53 bits of a number. */
function offsetOf(high: number, low: number): number {
  return (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0);
}

/** No cluster is larger than 2^21 bytes, so the low half tells. */
function isMisaligned(low: number, clusterBits: number): boolean {
  return (low & OFFSET_LOW & ((1 << clusterBits) - 1)) !== 0;
}

function invalid(why: string): InvalidEntry {
  return { kind: 'invalid', why };
}

function misaligned(hostOffset: number, clusterBits: number): InvalidEntry {
  return invalid(
    `has offset ${hostOffset}, not a multiple of the cluster size ${2 ** clusterBits}`,
  );
}
