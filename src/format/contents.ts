/** What lies on a disk, told by its first bytes: partition tables, file systems, volume managers. */

import type { Signature } from './signatures.ts';

const KiB = 1024;

/** An MBR's four entries of 16 bytes each begin here (UEFI specification 5.2.1, table 5.1). */
const MBR_ENTRIES = 446;

/**
 * An MBR's signature stands at the end of every boot sector, also where a program lies in place of the table. It is a table
 * when all of it is zero, or when an entry names a partition: 0 BootIndicator (0, or 0x80 active), 4 OSType, 8 StartingLBA,
 * 12 SizeInLBA.
 */
function hasPartitions(head: Buffer): boolean {
  let isEmpty = true;
  for (let at = MBR_ENTRIES; at < MBR_ENTRIES + 64; at += 16) {
    const isUsed =
      (head.readUInt8(at) & 0x7f) === 0 &&
      head.readUInt8(at + 4) !== 0 &&
      head.readUInt32LE(at + 12) !== 0;
    if (isUsed) return true;
    isEmpty &&= head.subarray(at, at + 16).every((byte) => byte === 0);
  }
  return isEmpty;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

/**
 * The BIOS parameter block of FAT (ECMA-107, 11; Microsoft's FAT specification 1.03): 11 bytes per sector, 13 sectors per
 * cluster, 14 reserved sectors, 16 count of FATs, 21 media.
 */
function hasFatParameters(head: Buffer): boolean {
  const sectorSize = head.readUInt16LE(11);
  const media = head.readUInt8(21);
  return (
    isPowerOfTwo(sectorSize) &&
    sectorSize >= 512 &&
    sectorSize <= 4096 &&
    isPowerOfTwo(head.readUInt8(13)) &&
    head.readUInt16LE(14) > 0 &&
    head.readUInt8(16) > 0 &&
    (media === 0xf0 || media >= 0xf8)
  );
}

/**
 * Two bytes of magic are few, so the superblock at 1024 (ext4's documentation, "Super Block") must make sense: 0 inodes, 4
 * blocks, 24 log2 of the block size less 10, 76 revision.
 */
function isExtSuperblock(head: Buffer): boolean {
  return (
    head.readUInt32LE(KiB) > 0 &&
    head.readUInt32LE(KiB + 4) > 0 &&
    head.readUInt32LE(KiB + 24) <= 6 &&
    head.readUInt32LE(KiB + 76) <= 1
  );
}

/** minix's, versions 1 and 2 (Linux, minix_fs.h), likewise: 0 inodes, 4 blocks of the inode map, 6 of the zone map, 8 first zone. */
function isMinixSuperblock(head: Buffer): boolean {
  return [0, 4, 6, 8].every((at) => head.readUInt16LE(KiB + at) > 0);
}

/** Version 3: 0 inodes, 6 blocks of the inode map, 8 of the zone map, 10 first zone. */
function isMinix3Superblock(head: Buffer): boolean {
  return [0, 6, 8, 10].every((at) => head.readUInt16LE(KiB + at) > 0);
}

/** hfs' master directory block at 1024 (Inside Macintosh: Files, 2), likewise: 20 bytes of an allocation block. */
function isHfsBlock(head: Buffer): boolean {
  const blockSize = head.readUInt32BE(KiB + 20);
  return blockSize > 0 && blockSize % 512 === 0;
}

/** A Sun label is 512 bytes whose 16-bit words make 0 by exclusive or (Linux, block/partitions/sun.c). */
function hasSunChecksum(head: Buffer): boolean {
  let sum = 0;
  for (let at = 0; at < 512; at += 2) sum ^= head.readUInt16BE(at);
  return sum === 0;
}

/** The sectors in which a thing is looked for that may be in one of the first `count`. */
function sectors(count: number): number[] {
  return Array.from({ length: count }, (_, sector) => sector * 512);
}

/** Linux pages: the swap signature is in the last 10 bytes of the first one. */
const PAGE_SIZES = [4, 8, 16, 32, 64].map((size) => size * KiB);

/**
 * Where nothing else is named, magic and place are those of util-linux' libblkid, which reads all of these. btrfs' magic lies
 * beyond the 64 KiB that are usually looked at; what is before it is zero (a blank disk, as far as can be seen).
 */
export const contents: readonly Signature[] = [
  // partition tables
  { name: 'mbr', at: 510, magic: '\x55\xaa', also: hasPartitions },
  // UEFI specification 5.3.2: LBA 1, whatever the size of a sector; its copy is the last sector
  { name: 'gpt', at: [512, 1024, 2048, 4096, -512, -4096], magic: 'EFI PART' },
  { name: 'apm', at: [512, 2048], magic: 'PM\0\0' },
  { name: 'bsd', at: [64, 128, 512], magic: '\x57\x45\x56\x82' },
  { name: 'sun', at: 508, magic: '\xda\xbe', also: hasSunChecksum },
  { name: 'dvh', at: 0, magic: '\x0b\xe5\xa9\x41' },
  // Amiga: within the first 16 sectors
  { name: 'rdb', at: sectors(16), magic: 'RDSK' },
  // optical discs: ECMA-119 (ISO 9660), 8.1; ECMA-167 (UDF), 2/9.1: descriptors of 2 KiB from 32 KiB on
  { name: 'iso9660', at: [32 * KiB + 1, 34 * KiB + 1], magic: 'CD001' },
  { name: 'udf', at: 32 * KiB + 1, magic: ['BEA01', 'NSR02', 'NSR03'] },
  // file systems
  { name: 'ext', at: KiB + 56, magic: '\x53\xef', also: isExtSuperblock },
  { name: 'xfs', at: 0, magic: 'XFSB' },
  { name: 'btrfs', at: 64 * KiB + 64, magic: '_BHRfS_M' },
  { name: 'f2fs', at: KiB, magic: '\x10\x20\xf5\xf2' },
  { name: 'ntfs', at: 3, magic: 'NTFS    ' },
  { name: 'bitlocker', at: 3, magic: '-FVE-FS-' },
  { name: 'refs', at: 3, magic: 'ReFS\0\0\0\0' },
  { name: 'exfat', at: 3, magic: 'EXFAT   ' },
  { name: 'fat', at: 0, magic: ['\xeb', '\xe9'], also: hasFatParameters },
  { name: 'hfsplus', at: KiB, magic: ['H+\0\x04', 'HX\0\x05'] },
  { name: 'hfs', at: KiB, magic: 'BD', also: isHfsBlock },
  { name: 'apfs', at: 32, magic: 'NXSB' },
  { name: 'squashfs', at: 0, magic: ['hsqs', 'sqsh'] },
  { name: 'erofs', at: KiB, magic: '\xe2\xe1\xf5\xe0' },
  { name: 'cramfs', at: [0, 512], magic: ['\x45\x3d\xcd\x28', '\x28\xcd\x3d\x45'] },
  { name: 'romfs', at: 0, magic: '-rom1fs-' },
  { name: 'bfs', at: 0, magic: '\xce\xfa\xad\x1b' },
  {
    name: 'minix',
    at: KiB + 16,
    magic: ['\x7f\x13', '\x8f\x13', '\x68\x24', '\x78\x24'],
    also: isMinixSuperblock,
  },
  { name: 'minix', at: KiB + 24, magic: '\x5a\x4d', also: isMinix3Superblock },
  { name: 'jfs', at: 32 * KiB, magic: 'JFS1' },
  { name: 'nilfs2', at: KiB + 6, magic: '\x34\x34', also: (head) => head.readUInt32LE(KiB) === 2 },
  { name: 'reiserfs', at: [8 * KiB + 20, 8 * KiB + 52], magic: 'ReIsErFs' },
  { name: 'ocfs2', at: [1, 2, 4, 8].map((size) => size * KiB), magic: 'OCFSV2' },
  { name: 'ufs', at: 8 * KiB + 1372, magic: ['\x54\x19\x01\x00', '\x00\x01\x19\x54'] },
  { name: 'swap', at: PAGE_SIZES.map((size) => size - 10), magic: ['SWAPSPACE2', 'SWAP-SPACE'] },
  // volume managers
  { name: 'lvm', at: sectors(4), magic: 'LABELONE' },
  { name: 'mdraid', at: [0, 4 * KiB], magic: '\xfc\x4e\x2b\xa9' },
  { name: 'bcache', at: 4 * KiB + 24, magic: ['\xc6\x85\x73\xf6\x4e\x1a\x45\xca'] },
  { name: 'bcachefs', at: 4 * KiB + 24, magic: ['\xc6\x85\x73\xf6\x66\xce\x90\xa9'] },
  // OpenZFS: the label's list of pairs, in XDR; the first one's name is `version`
  { name: 'zfs', at: 16 * KiB + 20, magic: '\0\0\0\x07version' },
];
