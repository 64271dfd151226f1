/** `check` on damaged images: what qemu-img says of each, however it is damaged. */

import { spawnSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  expectSameVerdict,
  makeImage,
  makeRichImage,
  ownVerdict,
  qemuVerdict,
  snapshot,
  structureOf,
  structuresOf,
} from './check-helpers.ts';
import { noise, tempDir } from './helpers.ts';
import { fixturePath, fixtures } from './qcow2-helpers.ts';
import { describeWith } from './tools.ts';

type Damage = (image: Buffer) => void;
type Change = (value: bigint, image: Buffer) => bigint;

const bit = (number: number): bigint => 1n << BigInt(number);
const OFFSET = 0xfffffffffff000n;

/** Kinds of L2 entries: with a cluster, with one of its own, compressed. */
const isPlain = (value: bigint): boolean => (value & bit(62)) === 0n && (value & OFFSET) > 0n;
const isOwn = (value: bigint): boolean => isPlain(value) && value >= bit(63);
const isCompressed = (value: bigint): boolean => (value & bit(62)) !== 0n;
const isAny = (value: bigint): boolean => value > 0n;

function change(image: Buffer, at: number, changed: Change): void {
  image.writeBigUInt64BE(BigInt.asUintN(64, changed(image.readBigUInt64BE(at), image)), at);
}

/** Where the first wanted entry of 8 or 16 bytes lies. */
function entryOf(image: Buffer, kind: string, isWanted: (value: bigint) => boolean): number {
  for (const { offset, length, unit } of structuresOf(image).filter((one) => one.kind === kind)) {
    for (let at = offset; at < offset + length; at += unit) {
      if (isWanted(image.readBigUInt64BE(at))) return at;
    }
  }
  throw new Error(`no such entry in ${kind}`);
}

const start = (kind: string, image: Buffer): bigint => BigInt(structureOf(image, kind).offset);

/** Damages to 64 bits: of the first such entry, of what lies `skip` bytes into a structure, of the header. */
const entry =
  (kind: string, isWanted: (value: bigint) => boolean, changed: Change): Damage =>
  (image) =>
    change(image, entryOf(image, kind, isWanted), changed);
const l2 = (changed: Change): Damage => entry('L2', isOwn, changed);
const l1 = (changed: Change): Damage => entry('L1', isAny, changed);
const within =
  (kind: string, skip: number, changed: Change): Damage =>
  (image) =>
    change(image, structureOf(image, kind).offset + skip, changed);
const blockEntry = (changed: Change): Damage => within('refcount table', 0, changed);
const header =
  (at: number, changed: Change): Damage =>
  (image) =>
    change(image, at, changed);

/** Damages to 16 or 32 bits `skip` bytes into a structure, or to 32 or 8 bits of the header. */
const within16 =
  (kind: string, skip: number, value: number): Damage =>
  (image) =>
    image.writeUInt16BE(value, structureOf(image, kind).offset + skip);
const within32 =
  (kind: string, skip: number, value: number, number = 0): Damage =>
  (image) =>
    image.writeUInt32BE(value, structureOf(image, kind, number).offset + skip);
const header32 =
  (at: number, value: number): Damage =>
  (image) =>
    image.writeUInt32BE(value, at);
const header8 =
  (at: number, value: number): Damage =>
  (image) =>
    image.writeUInt8(value, at);

/** Damage to the refcount of the cluster that the first L2 entry of its own has, or of one that is free. */
const refcount =
  (value: number): Damage =>
  (image) => {
    const l2Entry = image.readBigUInt64BE(entryOf(image, 'L2', isOwn));
    within16('refcount block', 2 * Number((l2Entry & OFFSET) / 4096n), value)(image);
  };
const freeRefcount =
  (value: number): Damage =>
  (image) => {
    const { offset } = structureOf(image, 'refcount block');
    for (let at = offset; at < offset + image.length / 2048; at += 2) {
      if (image.readUInt16BE(at) === 0) return image.writeUInt16BE(value, at);
    }
    throw new Error('no cluster is free');
  };
const wholeBlock =
  (value: number): Damage =>
  (image) => {
    const { offset, length } = structureOf(image, 'refcount block');
    image.fill(value, offset, offset + length);
  };

/** Damages, and how qemu-img exits. */
const damages: readonly (readonly [string, number, Damage])[] = [
  ['a refcount that is too high', 2, refcount(2)],
  ['a refcount that is too low', 2, refcount(0)],
  ['a refcount of a free cluster', 3, freeRefcount(1)],
  ['the refcount of the header', 2, within16('refcount block', 0, 0)],
  ['the refcount of the refcount table', 3, within16('refcount block', 2, 2)],
  ['a refcount block full of ones', 2, wholeBlock(0xff)],
  ['a refcount block full of zeros', 2, wholeBlock(0)],

  ['a lost L2 entry', 3, l2(() => 0n)],
  ['an L2 entry of bit 63 alone', 3, l2(() => bit(63))],
  [
    'an L2 entry at a shared cluster',
    2,
    l2((_, image) => image.readBigUInt64BE(entryOf(image, 'L2 of a snapshot', isPlain))),
  ],
  ['an L2 entry at the L1 table', 2, l2((_, image) => bit(63) | start('L1', image))],
  ['an L2 entry at its own table', 2, l2((_, image) => bit(63) | start('L2', image))],
  [
    'an L2 entry at the refcount table',
    2,
    l2((_, image) => bit(63) | start('refcount table', image)),
  ],
  [
    'an L2 entry at a refcount block',
    2,
    l2((_, image) => bit(63) | start('refcount block', image)),
  ],
  ['an L2 entry at the snapshot table', 2, l2((_, image) => bit(63) | start('snapshot', image))],
  ['an L2 entry beyond the end', 2, l2(() => bit(63) | bit(40))],
  [
    'an L2 entry at the end',
    2,
    l2((_, image) => bit(63) | BigInt(Math.ceil(image.length / 4096) * 4096)),
  ],
  ['an L2 entry at the largest offset', 2, l2(() => 0x80fffffffffff000n)],
  ['an unaligned L2 entry', 2, l2((value) => value + 512n)],
  ['an unaligned zero L2 entry', 2, l2((value) => value + 513n)],
  ['an L2 entry with reserved bit 1', 2, l2((value) => value | bit(1))],
  ['an L2 entry with reserved bit 61', 2, l2((value) => value | bit(61))],
  ['an L2 entry without bit 63', 2, l2((value) => value ^ bit(63))],
  ['an L2 entry that becomes zero', 0, l2((value) => value | 1n)],
  ['an L2 entry that becomes compressed', 2, l2((value) => value | bit(62))],
  ['a compressed cluster with bit 63', 2, entry('L2', isCompressed, (value) => value | bit(63))],
  [
    'a compressed cluster that is larger',
    2,
    entry('L2', isCompressed, (value) => value + (15n << 58n)),
  ],
  ['a compressed cluster beyond the end', 2, entry('L2', isCompressed, (value) => value | bit(50))],
  ['bit 63 in a snapshot', 0, entry('L2 of a snapshot', isPlain, (value) => value ^ bit(63))],

  ['a lost L1 entry', 3, l1(() => 0n)],
  ['an L1 entry at the header', 2, l1(() => bit(63))],
  ['an L1 entry beyond the end', 2, l1(() => bit(63) | bit(40))],
  ['an unaligned L1 entry', 2, l1((value) => value + 512n)],
  ['an L1 entry with a reserved bit', 2, l1((value) => value | bit(60))],
  ['an L1 entry without bit 63', 2, l1((value) => value ^ bit(63))],
  [
    'two L1 entries at one table',
    2,
    within('L1', 8, (_, image) => image.readBigUInt64BE(structureOf(image, 'L1').offset)),
  ],

  ['a lost refcount block', 2, blockEntry(() => 0n)],
  ['a refcount block at another cluster', 2, blockEntry((value) => value + 4096n)],
  [
    'a refcount block twice',
    2,
    within('refcount table', 8, (_, image) => start('refcount block', image)),
  ],
  ['a refcount block beyond the end', 2, blockEntry(() => bit(40))],
  ['a refcount table entry with a reserved bit', 2, blockEntry((value) => value | 1n)],
  ['an unaligned refcount block', 1, blockEntry((value) => value + 512n)],
  ['a refcount block at 2^63', 1, blockEntry((value) => value | bit(63))],
  ['an unaligned refcount block for nothing', 2, within('refcount table', 80, () => 512n)],

  ['a snapshot with an unaligned L1 table', 2, within('snapshot', 0, (value) => value + 1n)],
  ['a snapshot with an L1 table beyond the end', 2, within('snapshot', 0, () => bit(40))],
  ['a snapshot with an unaligned L1 table at 2^62', 2, within('snapshot', 0, () => bit(62) + 3n)],
  ['a snapshot with an L1 table of 2^32 - 1', 2, within32('snapshot', 8, 2 ** 32 - 1)],
  ['a snapshot with a longer name', 1, within16('snapshot', 14, 40000)],
  ['a snapshot with too much extra data', 1, within32('snapshot', 36, 1025)],
  ['a snapshot without extra data', 2, within32('snapshot', 36, 0, 1)],
  ['one snapshot fewer', 3, header32(60, 1)],
  ['one snapshot more', 2, header32(60, 3)],
  ['an unaligned snapshot table', 1, header(64, (value) => value + 8n)],
  ['a snapshot table at the header', 2, header(64, () => 0n)],
  ['a snapshot table beyond the end', 2, header(64, () => bit(40))],

  ['a bitmap cluster beyond the end', 2, within('bitmap table', 0, () => bit(40))],
  ['an unaligned bitmap cluster', 1, within('bitmap table', 0, (value) => value + 512n)],
  [
    'a bitmap table entry with a reserved bit',
    1,
    within('bitmap table', 0, (value) => value | bit(60)),
  ],
  ['a lost bitmap cluster', 3, within('bitmap table', 0, () => 1n)],
  ['a bitmap with a larger table', 1, within32('bitmap', 8, 2)],
  ['a bitmap with unknown flags', 1, within32('bitmap', 12, 4)],
  [
    'a bitmap of another type',
    1,
    (image) => image.writeUInt8(2, structureOf(image, 'bitmap').offset + 16),
  ],
  ['a bitmaps extension with more bitmaps', 1, within32('bitmaps extension', 8, 2)],
  ['a bitmaps extension of another length', 1, within32('bitmaps extension', 4, 16)],
  ['a bitmaps extension that is out of date', 3, header8(95, 0)],

  ['an L1 table that is longer', 0, header32(36, 20)],
  ['an L1 table of more clusters', 2, header32(36, 600)],
  ['an L1 table beyond the end', 2, header(40, () => bit(40))],
  ['an L1 table at 2^55', 2, header(40, () => bit(55))],
  ['an L1 table at 0', 2, header(40, () => 0n)],
  ['an unaligned L1 table', 1, header(40, (value) => value + 512n)],
  ['an L1 table that is too short', 1, header32(36, 0)],
  ['a refcount table beyond the end', 2, header(48, () => bit(40))],
  ['a refcount table at 2^55', 2, header(48, () => bit(55))],
  ['a refcount table of more clusters', 2, header32(56, 3)],
  ['a refcount table of no clusters', 2, header32(56, 0)],
  ['an incompatible feature that is unknown', 1, header8(72, 1)],
  ['a raw data file bit alone', 1, header8(95, 3)],
  ['extended L2 entries in clusters of 4 KiB', 1, header8(79, 16)],
  ['another refcount width', 2, header32(96, 3)],
  ['a backing file name beyond the cluster', 1, header(8, () => bit(40))],
  ['encryption without a header', 1, header32(32, 3)],
];

describeWith(['qemu-img', 'qemu-io'], 'a damaged image', () => {
  test('by name', async () => {
    const folder = tempDir();
    const path = makeRichImage(folder);
    expect((await expectSameVerdict(path)).status).toBe(0);
    const sound = readFileSync(path);
    for (const [name, status, damage] of damages) {
      const image = Buffer.from(sound);
      damage(image);
      writeFileSync(path, image);
      expect((await expectSameVerdict(path, undefined, name)).status, name).toBe(status);
    }
  });

  test('cut at many places', async () => {
    const path = makeImage(tempDir(), 'cluster_size=16k');
    snapshot(path, 'a');
    const { length } = readFileSync(path);
    const seen = new Set<number>();
    for (let size = length - 1; size > 0; size -= 16384 + 123) {
      truncateSync(path, size);
      seen.add((await expectSameVerdict(path)).status);
    }
    expect([...seen].sort()).toEqual([0, 2]);
  });

  test('whose refcounts cannot be read, in part', async () => {
    const path = makeImage(tempDir(), 'cluster_size=512');
    const sound = readFileSync(path);
    for (const { offset, length } of structuresOf(sound).filter(({ kind }) => kind === 'L2')) {
      for (let at = offset; at < offset + length; at += 8) {
        if (isOwn(sound.readBigUInt64BE(at))) change(sound, at, (value) => value ^ bit(63));
      }
    }
    const table = structureOf(sound, 'refcount table');
    let count = 0;
    for (let at = table.offset; sound.readBigUInt64BE(at) > 0n; at += 8) {
      const image = Buffer.from(sound);
      // where no file has bytes
      change(image, at, (value) => value | bit(63));
      writeFileSync(path, image);
      const { status, counts } = await expectSameVerdict(path);
      expect(status).toBe(1);
      expect(counts?.['checkErrors']).toBeGreaterThan(0);
      count++;
    }
    expect(count).toBeGreaterThan(2);
  });

  test('by a machine that stopped before it had written its refcounts', async () => {
    const path = makeImage(tempDir(), 'lazy_refcounts=on');
    const killed = spawnSync('qemu-io', ['-c', 'write 2M 500k', '-c', 'abort', path]);
    expect(killed.signal).toBe('SIGABRT');
    expect((await expectSameVerdict(path)).status).toBe(2);
  });

  test.each(['extended_l2=on,cluster_size=16k', 'data_file', 'refcount_bits=1', 'compat=0.10'])(
    'in any of its structures, with %s',
    async (options) => {
      const folder = tempDir();
      const isData = options === 'data_file';
      const path = makeImage(folder, isData ? `data_file=${join(folder, 'data.raw')}` : options);
      if (options.startsWith('compat')) snapshot(path, 'a');
      await expectSameOfMany(path, 30, 5);
    },
  );

  test('in any of its structures, with everything', async () => {
    await expectSameOfMany(makeRichImage(tempDir()), 120, 77);
  });

  /** Damages copies of the image at `path`, each in one to three entries, and compares the verdicts. */
  async function expectSameOfMany(path: string, count: number, seed: number): Promise<void> {
    const sound = readFileSync(path);
    const structures = structuresOf(sound);
    const kinds = [...new Set(structures.map(({ kind }) => kind))];
    const clusterSize = 2 ** sound.readUInt32BE(20);
    const bytes = noise(count * 64, seed);
    let taken = 0;
    const random = (below: number): number => {
      taken += 4;
      return bytes.readUInt32BE(taken % (bytes.length - 4)) % below;
    };
    const seen = new Set<number>();
    for (let round = 0; round < count; round++) {
      const image = Buffer.from(sound);
      const told: string[] = [];
      for (let left = random(4) === 0 ? 3 : 1; left > 0; left--) {
        const kind = kinds[random(kinds.length)];
        const alike = structures.filter((structure) => structure.kind === kind);
        const structure = alike[random(alike.length)];
        if (structure === undefined) continue;
        const { offset, length, unit } = structure;
        const used: number[] = [];
        for (let at = offset; at + unit <= offset + length; at += unit) {
          if (random(8) === 0 || image.subarray(at, at + unit).some((byte) => byte !== 0)) {
            used.push(at);
          }
        }
        const at = used[random(used.length)] ?? offset;
        const width = Math.min(unit, 8);
        const old = BigInt(`0x${image.toString('hex', at, at + width)}`);
        const clusters = Math.ceil(image.length / clusterSize);
        const target = BigInt(random(clusters + 2) * clusterSize);
        const values = [
          0n,
          old + 1n,
          old - 1n,
          old ^ (1n << BigInt(random(8 * width))),
          old ^ (1n << BigInt(random(8 * width))),
          target,
          target | bit(63),
          target | bit(62),
          (old & 0xff00000000000000n) | target,
          old + BigInt(clusterSize),
          -1n,
          BigInt(`0x${noise(8, random(2 ** 31)).toString('hex')}`),
        ];
        const value = BigInt.asUintN(8 * width, values[random(values.length)] ?? 0n);
        image.write(value.toString(16).padStart(2 * width, '0'), at, 'hex');
        if (unit === 16 && random(2) === 0) image.writeUInt8(random(256), at + 8 + random(8));
        told.push(`${kind} at ${at}: ${old.toString(16)} is ${value.toString(16)}`);
      }
      writeFileSync(path, image);
      const ours = await expectSameVerdict(path, undefined, told.join(', '));
      seen.add(ours.status);
    }
    expect(seen.size).toBeGreaterThan(2);
  }
});

describeWith(['qemu-img'], 'the fixtures', () => {
  /** qemu-img wants more than the image: a file that is not there, or a key. */
  const needsMore = ['REFERENCE.backing-file', 'UNSUPPORTED.encrypted-aes'];
  /** We read less of it than qemu-img does. */
  const hasTooMuch = ['LIMIT.257-header-extensions'];
  const paths = (['good', 'bad'] as const).flatMap((kind) =>
    fixtures(kind).map((name) => [name, fixturePath(kind, name)] as const),
  );

  test.each(paths)('%s', async (name, path) => {
    if (needsMore.includes(name)) {
      expect(qemuVerdict('-f', 'qcow2', path).status).toBe(1);
      expect((await ownVerdict(path)).status).not.toBe(1);
    } else if (hasTooMuch.includes(name)) {
      expect(qemuVerdict('-f', 'qcow2', path).status).toBe(0);
      expect((await ownVerdict(path)).error).toMatchObject({ code: 'LIMIT' });
    } else {
      await expectSameVerdict(path);
    }
  });
});
