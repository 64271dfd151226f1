/** The bits of L1 and L2 table entries, and nothing of where tables lie: one entry in, one tagged value out. */

/** What an L1 entry says. */
export type L1Entry =
  | { readonly kind: 'unallocated' }
  | { readonly kind: 'table'; readonly hostOffset: number }
  | InvalidEntry;

/** What a standard (not extended) L2 entry says of its cluster. */
export type L2Entry =
  | { readonly kind: 'unallocated' }
  /** Reads as zeros. `hostOffset` is a preallocated cluster whose content means nothing, or 0. */
  | { readonly kind: 'zero'; readonly hostOffset: number }
  | { readonly kind: 'plain'; readonly hostOffset: number }
  /** `hostLength` bytes up to the end of the last sector used: the compressed data may end before. */
  | { readonly kind: 'compressed'; readonly hostOffset: number; readonly hostLength: number }
  | InvalidEntry;

/** An entry that the specification does not allow. */
interface InvalidEntry {
  readonly kind: 'invalid';
  /** For messages: what is wrong, without its place. */
  readonly why: string;
}

/** Size of an L1 entry and of a standard L2 entry in bytes. */
export const ENTRY_SIZE = 8;

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
 * flag. Specification: "Cluster mapping", L2 table entry.
 */
export function decodeL2Entry(
  high: number,
  low: number,
  clusterBits: number,
  version: 2 | 3,
): L2Entry {
  // bit 62: compressed
  if ((high & 0x40000000) !== 0) return decodeCompressed(high, low, clusterBits);
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
  // bit 63 without an offset would be the first cluster of an external data file
  return high === 0 ? UNALLOCATED : invalid('is in use at offset 0, the header');
}

/** Specification: Compressed Clusters Descriptor; `x` is its name for the count of offset bits. Bit 63 is not looked at. */
function decodeCompressed(high: number, low: number, clusterBits: number): L2Entry {
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
