/** Every limit on what an input may ask for, each with its reason. Checks against them come before any allocation. */

const KiB = 1024;
const MiB = 1024 * KiB;
const TiB = 1024 * 1024 * MiB;

/** All sizes in bytes. */
export interface Limits {
  readonly virtualSize: number;
  readonly codecLayers: number;
  readonly probeHead: number;
  readonly qcow2L1Size: number;
  readonly qcow2RefcountTableSize: number;
  readonly qcow2SnapshotCount: number;
  readonly qcow2HeaderExtensionCount: number;
  readonly qcow2BackingNameLength: number;
  readonly qcow2L2CacheSize: number;
  readonly decoderWindow: number;
  readonly emptyMembers: number;
}

export const defaultLimits: Limits = {
  /** ext4's largest file; larger disks fail with EFBIG at the first write near their end. */
  virtualSize: 16 * TiB,
  /** gzip of xz of lz4 ... is peeled as often as it is there; a gzip that contains itself must still end. */
  codecLayers: 8,
  /** Enough for every magic that is looked for, and for a qcow2 header with all its extensions. */
  probeHead: 64 * KiB,
  /** qemu's QCOW_MAX_L1_SIZE. Only the part that the virtual size needs is read. */
  qcow2L1Size: 32 * MiB,
  /** qemu's QCOW_MAX_REFTABLE_SIZE; range-checked, never loaded. */
  qcow2RefcountTableSize: 8 * MiB,
  /** qemu's QCOW_MAX_SNAPSHOTS. */
  qcow2SnapshotCount: 65536,
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
