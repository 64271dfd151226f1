/** Every limit on what an input may ask for, each with its reason. Checks against them come before any allocation. */

import type { Policy } from './types.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const TiB = 1024 * GiB;

/** All sizes in bytes, all times in seconds. */
export interface Limits {
  readonly virtualSize: number;
  readonly sourceSize: number;
  readonly ratio: number;
  readonly ratioFloor: number;
  readonly idleTime: number;
  readonly minimumRate: number;
  readonly totalTime: number;
  readonly referenceDepth: number;
  readonly keyIterations: number;
  readonly parkedSize: number;
  readonly pendingRuns: number;
  readonly codecLayers: number;
  readonly probeHead: number;
  readonly qcow2L1Size: number;
  readonly qcow2RefcountTableSize: number;
  readonly qcow2SnapshotCount: number;
  readonly qcow2SnapshotTableSize: number;
  readonly qcow2CryptoHeaderSize: number;
  readonly qcow2ClaimsSize: number;
  readonly qcow2HeaderExtensionCount: number;
  readonly qcow2BackingNameLength: number;
  readonly qcow2L2CacheSize: number;
  readonly decoderWindow: number;
  readonly emptyMembers: number;
}

export const defaultLimits: Limits = {
  /** ext4's largest file; larger disks fail with EFBIG at the first write near their end. */
  virtualSize: 16 * TiB,
  /** Of the input as it came, still compressed; what a file or a pipe of the operator's own has is his business. */
  sourceSize: Infinity,
  /**
   * Non-zero bytes of the disk for each byte of the input: deflate reaches 1,030, lz4 254. Zeros do not count, or every sparse
   * disk would be refused.
   */
  ratio: 1000,
  /** So many non-zero bytes are never too many. */
  ratioFloor: 64 * MiB,
  /** How long an input that passes once may give nothing while somebody waits for it. */
  idleTime: Infinity,
  /** Bytes a second that such an input must give, on the average of each `idleTime` for which it was waited for. */
  minimumRate: 0,
  /** How long a copy may take. */
  totalTime: Infinity,
  /** Images that name images that name images: crosvm's limit. */
  referenceDepth: 10,
  /** Of the key derivation, all key slots together: eight of those that qemu makes have 45 million, which take a minute. */
  keyIterations: 50_000_000,
  /** What one pass over an image keeps in memory until its place is known; what is more goes to a temporary file. */
  parkedSize: 64 * MiB,
  /** Runs of clusters known and not yet come, in one pass over an image: 32 bytes each. Tables beyond wait, parked. */
  pendingRuns: 1024 * KiB,
  /** gzip of xz of lz4 ... is peeled as often as it is there; a gzip that contains itself must still end. */
  codecLayers: 8,
  /** Has every magic that is looked for (`format/signatures.ts`; btrfs' alone lies beyond), and a qcow2 header with all its extensions. */
  probeHead: 64 * KiB,
  /** qemu's QCOW_MAX_L1_SIZE. Only the part that the virtual size needs is read. */
  qcow2L1Size: 32 * MiB,
  /** qemu's QCOW_MAX_REFTABLE_SIZE; range-checked, never loaded. */
  qcow2RefcountTableSize: 8 * MiB,
  /** qemu's QCOW_MAX_SNAPSHOTS. */
  qcow2SnapshotCount: 65536,
  /** qemu's QCOW_MAX_SNAPSHOTS_SIZE is 64 MiB, for 1 KiB each; a thousand of the usual 100 bytes fit many times over. */
  qcow2SnapshotTableSize: 8 * MiB,
  /** qemu writes 2 MiB of key slots at most (eight of 256 KiB, 4,000 stripes each). */
  qcow2CryptoHeaderSize: 4 * MiB,
  /**
   * Notes on which parts of the file have an owner: a bit for each cluster, and for compressed clusters two for each sector and 16 bytes
   * each; 64 GiB of compressed image need some 48 MiB.
   */
  qcow2ClaimsSize: 64 * MiB,
  /** qemu writes four; 200,000 of them cost qemu-img ten seconds. */
  qcow2HeaderExtensionCount: 256,
  /** The specification's maximum. */
  qcow2BackingNameLength: 1023,
  /** 8 MiB of L2 tables cover 64 GiB of disk at 64 KiB clusters; a sequential copy needs one table. */
  qcow2L2CacheSize: 8 * MiB,
  /** The zstd command's default maximum; `xz -9` needs 64 MiB. */
  decoderWindow: 128 * MiB,
  /** Members, frames or streams in a row that put out nothing: a stream of these makes work without end. */
  emptyMembers: 65536,
};

/** What `policy: 'untrusted'` allows: images that strangers hand in (security.md, section 4). */
export const untrustedLimits: Limits = {
  ...defaultLimits,
  /** Glance's default `image_size_cap`. */
  virtualSize: TiB,
  /** 1 TiB of disk is rarely more than 64 GiB of image; more costs hours. */
  sourceSize: 64 * GiB,
  /** Zip bombs begin where honest data end: Apache POI refuses beyond 100 to 1. Disks full of one byte other than 0 do, too. */
  ratio: 100,
  /** rpi-imager's, too: it gives up a download of which 60 s bring next to nothing. */
  idleTime: 60,
  /** Slower is no transfer, but somebody who keeps a place occupied: 64 GiB would take weeks. */
  minimumRate: 16 * KiB,
  /** 64 GiB at 3 MiB/s. */
  totalTime: 6 * 60 * 60,
  /** Two or three of them. */
  keyIterations: 20_000_000,
  /** An image in one compression; more is a bomb or a mistake. */
  codecLayers: 1,
  /** Files made of parts have hundreds of members (bgzip's empty one at the end is one), hardly any of them empty. */
  emptyMembers: 1024,
};

/**
 * The limits of `policy` (default: `default`), with those that `overrides` has.
 * @throws RangeError when one of them is not a number of 0 or more.
 */
export function limitsOf(policy?: Policy, overrides: Partial<Limits> = {}): Limits {
  const given = Object.entries(overrides as Record<string, unknown>).filter(
    ([, value]) => value !== undefined,
  );
  for (const [name, value] of given) {
    if (typeof value !== 'number' || !(value >= 0)) {
      throw new RangeError(`limit ${name} must be a number of 0 or more, found ${String(value)}`);
    }
  }
  return {
    ...(policy === 'untrusted' ? untrustedLimits : defaultLimits),
    ...(Object.fromEntries(given) as Partial<Limits>),
  };
}
