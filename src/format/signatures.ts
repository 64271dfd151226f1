/** The signatures of disk image formats, of what lies on disks, and of files that are no disks. */

import { asBuffer, isZero } from '../bytes.ts';
import { detectCodec } from '../codec/index.ts';
import { contents } from './contents.ts';

const KiB = 1024;

/** So much of the start of an image has every signature but btrfs' (`contents.ts`), and what lies around them. */
export const HEAD_LENGTH: number = 64 * KiB;

/** Bytes at a known place that tell what a thing is. */
export interface Signature {
  readonly name: string;
  /** Where it may be, in bytes from the start; negative: from the end of the image, within its last `TAIL_LENGTH` bytes. */
  readonly at: number | readonly number[];
  /** One character a byte. */
  readonly magic: string | readonly string[];
  /** What else must be true; `head` has at least `HEAD_LENGTH` bytes, with zeros behind the end of a shorter image. */
  readonly also?: (head: Buffer) => boolean;
}

interface ImageSignature extends Signature {
  /** So many of the first bytes are the format's own: a disk's signature in there was put there. */
  readonly headerLength: number | ((head: Buffer) => number);
}

/** Footers lie in the last so many bytes: 512 for VHD and UDIF, one sector for the copy of a GPT. */
export const TAIL_LENGTH: number = 4 * KiB;

/** Where qcow2's cluster_bits is, and what it may be (its specification, "Header"). */
function qcow2HeaderLength(head: Buffer): number {
  const clusterBits = head.readUInt32BE(20);
  return clusterBits >= 9 && clusterBits <= 21 ? 2 ** clusterBits : 512;
}

/** A VMDK descriptor is text: comments and empty lines, then its version (VMware, "Virtual Disk Format 5.0"). */
function isVmdkDescriptor(head: Buffer): boolean {
  const text = head.toString('latin1', 0, 2 * KiB).replace(/^\xef\xbb\xbf/, '');
  return /^# Disk DescriptorFile\s/.test(text) || /^(?:#[^\n]*\n|[ \t\r]*\n)*version=\d/.test(text);
}

/** Disk image formats, by qemu's names where it has one. Magics are those of the specification, or of qemu's block drivers. */
const images: readonly ImageSignature[] = [
  {
    name: 'qcow2',
    at: 0,
    magic: 'QFI\xfb',
    // 4: version; another one than these is refused by whoever reads it
    also: (head) => head.readUInt32BE(4) !== 1,
    headerLength: qcow2HeaderLength,
  },
  { name: 'qcow', at: 0, magic: 'QFI\xfb\0\0\0\x01', headerLength: 48 },
  { name: 'qed', at: 0, magic: 'QED\0', headerLength: 4 * KiB },
  // VMware: hosted sparse, ESX' COWD, seSparse (64 bits), text
  { name: 'vmdk', at: 0, magic: ['KDMV', 'COWD'], headerLength: 512 },
  { name: 'vmdk', at: 0, magic: '\xbe\xba\xfe\xca\0\0\0\0', headerLength: 512 },
  { name: 'vmdk', at: 0, magic: '', also: isVmdkDescriptor, headerLength: 512 },
  // [MS-VHDX] 2.2.1
  { name: 'vhdx', at: 0, magic: 'vhdxfile', headerLength: 64 * KiB },
  { name: 'vdi', at: 64, magic: '\x7f\x10\xda\xbe', headerLength: 512 },
  // Microsoft, "Virtual Hard Disk Image Format": a copy in front of dynamic ones; the footer, of 511 bytes before 2004
  { name: 'vpc', at: 0, magic: 'conectix', headerLength: 512 + KiB },
  { name: 'vpc', at: [-512, -511], magic: 'conectix', headerLength: 0 },
  { name: 'parallels', at: 0, magic: ['WithoutFreeSpace', 'WithouFreSpacExt'], headerLength: 64 },
  { name: 'bochs', at: 0, magic: 'Bochs Virtual HD Image', headerLength: 512 },
  { name: 'cloop', at: 0, magic: '#!/bin/sh\n#V2.0 Format\nmodprobe cloop', headerLength: 128 },
  { name: 'dmg', at: -512, magic: 'koly\0\0\0\x04\0\0\x02\0', headerLength: 0 },
  { name: 'dmg', at: 0, magic: 'encrcdsa', headerLength: 512 },
  // LUKS On-Disk Format 1.2.3, 2.3; what follows in a header of version 1 is salts, which are random
  { name: 'luks', at: 0, magic: 'LUKS\xba\xbe', headerLength: 208 },
  // AOSP, libsparse/sparse_format.h
  { name: 'simg', at: 0, magic: '\x3a\xff\x26\xed', headerLength: 28 },
  { name: 'ewf', at: 0, magic: ['EVF\t\r\n\xff\0', 'EVF2\r\n\x81\0'], headerLength: 13 },
  { name: 'partclone', at: 0, magic: 'partclone-image', headerLength: 64 },
];

/** Archives and compressions that are not read here, which may hold an image; `file`'s data base has them all. */
const containers: readonly Signature[] = [
  { name: 'zip', at: 0, magic: ['PK\x03\x04', 'PK\x05\x06'] },
  { name: 'tar', at: 257, magic: 'ustar' },
  { name: '7z', at: 0, magic: '7z\xbc\xaf\x27\x1c' },
  { name: 'rar', at: 0, magic: 'Rar!\x1a\x07' },
  { name: 'xar', at: 0, magic: 'xar!' },
  { name: 'cab', at: 0, magic: 'MSCF\0\0\0\0' },
  { name: 'wim', at: 0, magic: 'MSWIM\0\0\0' },
  { name: 'cpio', at: 0, magic: ['070701', '070702', '070707'] },
  { name: 'bzip2', at: 0, magic: 'BZh', also: isBzip2 },
  { name: 'lzip', at: 0, magic: 'LZIP\x01' },
  { name: 'lzop', at: 0, magic: '\x89LZO\0\r\n\x1a\n' },
  { name: 'lzma', at: 0, magic: '\x5d\0\0', also: isLzmaAlone },
  { name: 'compress', at: 0, magic: '\x1f\x9d' },
];

/** 3: a digit, the block size; then a block begins, or the stream ends. */
function isBzip2(head: Buffer): boolean {
  const digit = head.readUInt8(3) - 0x30;
  const next = head.toString('latin1', 4, 10);
  return digit >= 1 && digit <= 9 && (next === '1AY&SY' || next === '\x17rE8P\x90');
}

/** 5: the uncompressed size, of which the encoders write none (all ones) or one that is far below 2^56. */
function isLzmaAlone(head: Buffer): boolean {
  return head.readUInt8(12) === 0 || head.readBigUInt64LE(5) === 0xffff_ffff_ffff_ffffn;
}

/** Files that got here by mistake: an error page, a pointer instead of the file it stands for. */
const documents: readonly Signature[] = [
  {
    name: 'html',
    at: 0,
    magic: '',
    also: (head) => startsWith(head, /^(?:<!doctype html|<html)/i),
  },
  { name: 'xml', at: 0, magic: '', also: (head) => startsWith(head, /^<\?xml /) },
  { name: 'git-lfs pointer', at: 0, magic: 'version https://git-lfs.github.com/spec/' },
  { name: 'elf', at: 0, magic: '\x7fELF' },
  { name: 'pdf', at: 0, magic: '%PDF-' },
];

/** The text that `head` begins with, without a byte order mark and white space in front. */
function startsWith(head: Buffer, pattern: RegExp): boolean {
  return pattern.test(head.toString('latin1', 0, 256).replace(/^(?:\xef\xbb\xbf)?\s*/, ''));
}

/** The bytes that tell what an image is. */
export interface Edges {
  /** The first bytes of the image: `HEAD_LENGTH` or more, or all of a shorter one. */
  readonly head: Uint8Array;
  /** The last bytes of the image: `TAIL_LENGTH` or more, or all of a shorter one; `undefined` when they have not come yet. */
  readonly tail: Uint8Array | undefined;
}

/** Names of what an image has the signatures of, each once. */
export interface Signatures {
  /** Disk image formats, but for raw. */
  readonly formats: readonly string[];
  /** What may lie on a disk: tables and file systems; `blank` when all that was looked at is zero. */
  readonly contents: readonly string[];
  /** Those of `contents` whose signature lies in the header of one of `formats`. */
  readonly embedded: readonly string[];
  /** Archives and compressions, which may hold an image. */
  readonly containers: readonly string[];
  /** Files of other kinds. */
  readonly documents: readonly string[];
}

/** Looks for every signature that is known. */
export function probeSignatures({ head, tail }: Edges): Signatures {
  const start = padded(head);
  const end = tail === undefined ? Buffer.alloc(0) : asBuffer(tail);
  const formats = new Set<string>();
  let headerLength = 0;
  for (const image of images) {
    if (placeOf(image, start, end) === undefined) continue;
    formats.add(image.name);
    const own = image.headerLength;
    headerLength = Math.max(headerLength, typeof own === 'number' ? own : own(start));
  }
  const found = new Set<string>();
  const embedded = new Set<string>();
  for (const content of contents) {
    const place = placeOf(content, start, end);
    if (place === undefined) continue;
    found.add(content.name);
    if (place >= 0 && place < headerLength) embedded.add(content.name);
  }
  if (head.length > 0 && isZero(head)) found.add('blank');
  const namesOf = (table: readonly Signature[]): string[] =>
    table.filter((row) => placeOf(row, start, end) !== undefined).map(({ name }) => name);
  const codec = detectCodec(head);
  return {
    formats: [...formats],
    contents: [...found],
    embedded: [...embedded],
    containers: [...namesOf(containers), ...(codec === undefined ? [] : [codec.name])],
    documents: namesOf(documents),
  };
}

/** `head`, with zeros behind the end of a short one, so that fields can be read without looking at its length. */
function padded(head: Uint8Array): Buffer {
  if (head.length >= HEAD_LENGTH) return asBuffer(head);
  const bytes = Buffer.alloc(HEAD_LENGTH);
  bytes.set(head);
  return bytes;
}

/** Where `signature` is found first, as its `at` says it. */
function placeOf(signature: Signature, start: Buffer, end: Buffer): number | undefined {
  const { at, magic, also } = signature;
  const magics = typeof magic === 'string' ? [magic] : magic;
  const places = typeof at === 'number' ? [at] : at;
  const place = places.find((candidate) => {
    const bytes = candidate < 0 ? end : start;
    const from = candidate < 0 ? end.length + candidate : candidate;
    return (
      from >= 0 &&
      magics.some((text) => text === bytes.toString('latin1', from, from + text.length))
    );
  });
  return place !== undefined && also?.(start) !== false ? place : undefined;
}
