import { describe, expect, test } from 'vitest';
import { hasMagic, parseHeader } from '../src/format/qcow2/header.ts';
import { detectFormat, formats } from '../src/format/index.ts';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { defaultLimits } from '../src/limits.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { ImageDetails } from '../src/types.ts';
import { rejection } from './helpers.ts';
import { context, fixture, openBytes } from './qcow2-helpers.ts';

/** The first cluster of a version 3 image of 1 MiB with 64 KiB clusters, and fields changed. */
function header(change: (view: DataView, bytes: Buffer) => void = () => undefined): Buffer {
  const bytes = Buffer.alloc(65_536);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  bytes.write('QFI\xfb', 'latin1');
  view.setUint32(4, 3);
  view.setUint32(20, 16);
  view.setBigUint64(24, 1_048_576n);
  view.setUint32(36, 1);
  view.setBigUint64(40, 0x30000n);
  view.setBigUint64(48, 0x10000n);
  view.setUint32(56, 1);
  view.setUint32(96, 4);
  view.setUint32(100, 112);
  change(view, bytes);
  return bytes;
}

const parse = (bytes: Uint8Array): ReturnType<typeof parseHeader> =>
  parseHeader(bytes, 'disk.qcow2', defaultLimits);

function codeOf(bytes: Uint8Array): unknown {
  try {
    parse(bytes);
  } catch (error) {
    return (error as { code: unknown }).code;
  }
  return 'accepted';
}

test('the fields of a header', () => {
  expect(parse(header())).toEqual({
    version: 3,
    clusterBits: 16,
    clusterSize: 65_536,
    virtualSize: 1_048_576,
    cryptMethod: 0,
    l1Size: 1,
    l1Offset: 0x30000,
    refcountTableOffset: 0x10000,
    refcountTableClusters: 1,
    refcountBits: 16,
    snapshotsOffset: 0,
    snapshotCount: 0,
    incompatible: [],
    compatible: [],
    autoclear: [],
    compressionType: 0,
    backingFile: undefined,
    backingFormat: undefined,
    dataFile: undefined,
    cryptoHeader: undefined,
    bitmaps: undefined,
    featureNames: new Map(),
  });
});

test('version 2 ends after 72 bytes: what follows are extensions, not feature bits', () => {
  const bytes = header((view) => {
    view.setUint32(4, 2);
    // an unknown extension of 12 bytes where version 3 has its feature bits
    view.setUint32(72, 0x76543210);
    view.setUint32(76, 12);
    // the backing format, 'raw'
    view.setUint32(96, 0xe2792aca);
    view.setUint32(100, 3);
    view.setUint32(104, 0x72617700);
  });
  expect(parse(bytes)).toMatchObject({ version: 2, incompatible: [], backingFormat: 'raw' });
});

test('bits of both halves are found', () => {
  const bytes = header((view) => {
    view.setBigUint64(72, (1n << 63n) | (1n << 32n) | (1n << 31n) | 1n);
    view.setBigUint64(80, 3n);
    view.setBigUint64(88, 1n << 40n);
  });
  expect(parse(bytes)).toMatchObject({
    incompatible: [0, 31, 32, 63],
    compatible: [0, 1],
    autoclear: [40],
  });
});

describe('header fields', () => {
  type Change = (view: DataView) => void;
  const u8 =
    (at: number, value: number): Change =>
    (view) =>
      view.setUint8(at, value);
  const u32 =
    (at: number, value: number): Change =>
    (view) =>
      view.setUint32(at, value);
  const u64 =
    (at: number, value: bigint): Change =>
    (view) =>
      view.setBigUint64(at, value);

  test.each<[string, Change[], string]>([
    ['size 2^53 - 1, beyond its L1 table', [u64(24, 2n ** 53n - 1n)], 'CORRUPT'],
    ['size 2^53', [u64(24, 2n ** 53n)], 'LIMIT'],
    ['size 0 without an L1 table', [u64(24, 0n), u32(36, 0), u64(40, 0n)], 'accepted'],
    ['size of all that one L2 table describes', [u64(24, 2n ** 29n)], 'accepted'],
    ['size of one byte more', [u64(24, 2n ** 29n + 1n)], 'CORRUPT'],
    ['an L1 table longer than needed', [u32(36, 100)], 'accepted'],
    ['the longest L1 table', [u32(36, 4_194_304)], 'accepted'],
    ['an L1 table one entry longer', [u32(36, 4_194_305)], 'CORRUPT'],
    ['the longest refcount table', [u32(56, 128)], 'accepted'],
    ['a refcount table one cluster longer', [u32(56, 129)], 'CORRUPT'],
    ['65536 snapshots', [u32(60, 65_536)], 'accepted'],
    ['65537 snapshots', [u32(60, 65_537)], 'CORRUPT'],
    ['snapshots past the end', [u64(64, 2n ** 40n)], 'accepted'],
    ['refcounts of 64 bits', [u32(96, 6)], 'accepted'],
    ['refcounts of 128 bits', [u32(96, 7)], 'CORRUPT'],
    ['header_length 103', [u32(100, 103)], 'CORRUPT'],
    ['header_length 104', [u32(100, 104)], 'accepted'],
    ['header_length 105, as qemu does', [u32(100, 105)], 'accepted'],
    ['header_length of a cluster', [u32(100, 65_536)], 'accepted'],
    ['header_length of more', [u32(100, 65_537)], 'CORRUPT'],
    ['cluster_bits 31', [u32(20, 31)], 'CORRUPT'],
    ['cluster_bits 2^32 - 1', [u32(20, 0xffffffff)], 'CORRUPT'],
    ['extended L2 entries', [u64(72, 16n)], 'accepted'],
    ['extended L2 entries in clusters of 16 KiB', [u64(72, 16n), u32(20, 14)], 'accepted'],
    ['extended L2 entries in clusters of 8 KiB', [u64(72, 16n), u32(20, 13)], 'CORRUPT'],
    [
      'size of all that one extended L2 table describes',
      [u64(72, 16n), u64(24, 2n ** 28n)],
      'accepted',
    ],
    ['size of one byte more', [u64(72, 16n), u64(24, 2n ** 28n + 1n)], 'CORRUPT'],
    ['zstd', [u64(72, 8n), u8(104, 1)], 'accepted'],
    ['zstd in a header too short for it', [u64(72, 8n), u8(104, 1), u32(100, 104)], 'CORRUPT'],
    ['an extension that fills the cluster', [u32(112, 1), u32(116, 65_416)], 'accepted'],
    ['an extension one byte longer', [u32(112, 1), u32(116, 65_417)], 'CORRUPT'],
    ['an end mark that claims more than there is', [u32(116, 65_536)], 'CORRUPT'],
    [
      'an extension up to the backing file name',
      [u64(8, 200n), u32(112, 1), u32(116, 80)],
      'accepted',
    ],
    ['an extension into it', [u64(8, 200n), u32(112, 1), u32(116, 81)], 'CORRUPT'],
  ])('%s', (_what, changes, code) => {
    const changed = header((view) => {
      for (const change of changes) change(view);
    });
    expect(codeOf(changed)).toBe(code);
  });

  test('an error has the place, what was expected and what was found', () => {
    const bytes = header((view) => view.setBigUint64(40, 2n ** 63n + 1n));
    expect(() => parse(bytes)).toThrow(
      'disk.qcow2: header field l1_table_offset is 9223372036854775809, ' +
        'expected a multiple of the cluster size 65536, below 2^53',
    );
  });
});

test('a header that ends anywhere within is TRUNCATED', () => {
  for (let length = 0; length < 112; length++) {
    expect(codeOf(header().subarray(0, length)), `${length} bytes`).toBe('TRUNCATED');
  }
  // 112 bytes of header, and the end mark of the extensions
  expect(codeOf(header().subarray(0, 119))).toBe('TRUNCATED');
  expect(codeOf(header().subarray(0, 120))).toBe('accepted');
});

test('the backing file: its name, or that there is one', () => {
  const named = (offset: bigint, length: number): unknown =>
    parse(
      header((view, bytes) => {
        view.setBigUint64(8, offset);
        view.setUint32(16, length);
        bytes.write('../../etc/shadow', 1000);
      }),
    ).backingFile;
  expect(named(1000n, 16)).toBe('../../etc/shadow');
  expect(named(0n, 16)).toBeUndefined();
  expect(named(1000n, 0)).toBe('');
  expect(named(1000n, 1024)).toBe('');
  expect(named(65_530n, 7)).toBe('');
  expect(named(2n ** 64n - 1n, 16)).toBe('');
});

test('magic: qcow2 that is broken is still qcow2, and everything else is raw', () => {
  const nameOf = (head: Uint8Array): string => detectFormat({ head, size: head.length }).name;
  expect(hasMagic(Buffer.from('QFI\xfb', 'latin1'))).toBe(true);
  expect(nameOf(Buffer.from('QFI\xfb', 'latin1'))).toBe('qcow2');
  expect(nameOf(Buffer.from('QFI'))).toBe('raw');
  expect(nameOf(Buffer.from('QFI?'))).toBe('raw');
  expect(nameOf(Buffer.alloc(0))).toBe('raw');
  expect(nameOf(Buffer.alloc(512))).toBe('raw');
  expect(formats.at(-1)?.name).toBe('raw');
});

test('what is declared qcow2 and is not, is FORMAT', async () => {
  expect(await rejection(openBytes(Buffer.alloc(65_536)))).toMatchObject({ code: 'FORMAT' });
});

describe('describe tells of images that open refuses', () => {
  test.each<[string, number | undefined, Partial<ImageDetails>]>([
    ['REFERENCE.backing-file', 3072, { backingFile: 'base.raw' }],
    ['REFERENCE.backing-file-without-name', 3072, { backingFile: '' }],
    ['REFERENCE.backing-file-name-at-2e64', 3072, { backingFile: '' }],
    ['REFERENCE.data-file-bit', undefined, { dataFile: '', features: ['external data file'] }],
    ['REFERENCE.data-file-extension-alone', undefined, { dataFile: 'disk.raw', features: [] }],
    ['UNSUPPORTED.encrypted-aes', 3072, { encryption: 'aes' }],
    ['UNSUPPORTED.encrypted-luks-without-header', 3072, { encryption: 'luks' }],
    ['UNSUPPORTED.encrypted-method-3', 3072, { encryption: 'method 3' }],
    ['UNSUPPORTED.incompatible-bit-63', undefined, { features: ['incompatible bit 63'] }],
    ['UNSUPPORTED.compression-type-2', 3072, { features: ['compression type'] }],
    ['CORRUPT.marked-corrupt', undefined, { features: ['corrupt'] }],
    ['CORRUPT.raw-data-file-bit-alone', 3072, { features: ['raw external data'] }],
  ])('%s', async (name, allocatedSize, details) => {
    const described = await qcow2.describe(bufferSource(fixture('bad', name), name), context);
    expect(described).toMatchObject({ format: 'qcow2', version: 3, ...details });
    expect(described.allocatedSize).toBe(allocatedSize);
  });

  test('larger than allowed', async () => {
    const file = bufferSource(fixture('bad', 'LIMIT.size-17-tib'));
    expect((await qcow2.describe(file, context, true)).virtualSize).toBe(17 * 2 ** 40);
  });

  test('by the header alone, from its first bytes alone', async () => {
    const file = bufferSource(fixture('good', 'deflate').subarray(0, 512));
    expect(await qcow2.describe(file, context, true)).toEqual({
      format: 'qcow2',
      virtualSize: 40_960,
      version: 3,
      clusterSize: 512,
      compressionType: 'zlib',
      snapshotCount: 0,
      features: [],
    });
    expect(await rejection(qcow2.describe(file, context))).toMatchObject({ code: 'TRUNCATED' });
  });
});
