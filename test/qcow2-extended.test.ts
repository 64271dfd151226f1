import fc from 'fast-check';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { decodeExtendedL2Entry } from '../src/format/qcow2/entry.ts';
import type { Layout } from '../src/format/qcow2/layout.ts';
import { runsOf, type Run } from '../src/format/qcow2/runs.ts';
import { noise, rejection, tempDir } from './helpers.ts';
import { openBytes, readAll } from './qcow2-helpers.ts';
import { expectSame } from './qcow2-same.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const ALL = 0xffffffff;

describe('extended L2 entries', () => {
  test.each<[string, [high: number, low: number, zeros: number, allocated: number], object]>([
    ['nothing', [0, 0, 0, 0], { kind: 'unallocated' }],
    ['all allocated', [0, 0x50000, 0, ALL], { kind: 'plain', hostOffset: 0x50000 }],
    ['all allocated, bit 63', [2 ** 31, 0x50000, 0, ALL], { kind: 'plain', hostOffset: 0x50000 }],
    ['all zeros', [0, 0, ALL, 0], { kind: 'zero', hostOffset: 0 }],
    ['all zeros over a cluster', [0, 0x50000, ALL, 0], { kind: 'zero', hostOffset: 0x50000 }],
    ['a cluster of which nothing is in use', [0, 0x50000, 0, 0], { kind: 'unallocated' }],
    [
      'some of each',
      [7, 0x50000, 0xff000000, 0xff],
      {
        kind: 'subclusters',
        hostOffset: 7 * 2 ** 32 + 0x50000,
        allocated: 0xff,
        zeros: 0xff000000,
      },
    ],
    [
      'some zeros without a cluster',
      [0, 0, 1, 0],
      { kind: 'subclusters', hostOffset: 0, allocated: 0, zeros: 1 },
    ],
    [
      'compressed',
      [0x40000000, 0x50123, 0, 0],
      { kind: 'compressed', hostOffset: 0x50123, hostLength: 512 - 0x123 },
    ],
  ])('%s', (_what, entry, decoded) => {
    expect(decodeExtendedL2Entry(...entry, 16)).toEqual(decoded);
  });

  test.each<[string, [high: number, low: number, zeros: number, allocated: number], string]>([
    ['compressed with an allocated subcluster', [0x40000000, 0x50000, 0, 1], 'is compressed'],
    ['compressed with a zero subcluster', [0x40000000, 0x50000, 2 ** 31, 0], 'is compressed'],
    ['the zero flag of a standard entry', [0, 1, 0, 0], 'reserved bits'],
    ['the zero flag over a cluster', [0, 0x50001, 0, ALL], 'reserved bits'],
    ['reserved bit 8', [0, 0x50100, 0, ALL], 'reserved bits'],
    ['reserved bit 61', [0x20000000, 0x50000, 0, ALL], 'reserved bits'],
    ['an offset within a cluster', [0, 0x58000, 0, ALL], 'not a multiple'],
    ['a subcluster allocated and zero', [0, 0x50000, 0x80000000, ALL], 'both allocated and zero'],
    ['a subcluster allocated in no cluster', [0, 0, 0, 0x80000000], 'allocated in no cluster'],
    ['in use at the header', [2 ** 31, 0, 0, ALL], 'the header'],
  ])('%s is refused', (_what, entry, why) => {
    expect(decodeExtendedL2Entry(...entry, 16)).toMatchObject({
      kind: 'invalid',
      why: expect.stringContaining(why) as unknown,
    });
  });

  test('only a data file has a cluster at offset 0, and none of them is compressed', () => {
    expect(decodeExtendedL2Entry(2 ** 31, 0, 0, ALL, 16, true)).toEqual({
      kind: 'plain',
      hostOffset: 0,
    });
    expect(decodeExtendedL2Entry(0, 0, 0, ALL, 16, true).kind).toBe('invalid');
    expect(decodeExtendedL2Entry(0x40000000, 0x50000, 0, 0, 16, true).kind).toBe('invalid');
  });
});

describe('runs of subclusters', () => {
  const clusterSize = 16 * KiB;
  const subclusterSize = clusterSize / 32;
  const layout: Layout = {
    name: 'disk.qcow2',
    fileSize: 2 ** 40,
    hasDataFile: false,
    dataName: 'disk.qcow2',
    dataSize: 2 ** 40,
    version: 3,
    clusterBits: 14,
    clusterSize,
    virtualSize: 16 * MiB,
    l1Offset: clusterSize,
    l1End: 2 * clusterSize,
    l1Needed: 1,
    entrySize: 16,
    l2Coverage: 16 * MiB,
    metadata: [],
  };

  /** One subcluster after the other, with nothing joined. */
  function naive(entries: readonly Entry[]): Run[] {
    return entries.flatMap(({ cluster, zeros, allocated }, index) =>
      Array.from({ length: 32 }, (_, number): Run => {
        const offset = index * clusterSize + number * subclusterSize;
        const length = subclusterSize;
        const hostOffset = cluster * clusterSize + number * subclusterSize;
        if ((allocated & (1 << number)) !== 0) return { kind: 'plain', offset, length, hostOffset };
        return { kind: (zeros & (1 << number)) !== 0 ? 'zero' : 'unallocated', offset, length };
      }),
    );
  }

  interface Entry {
    readonly cluster: number;
    readonly zeros: number;
    readonly allocated: number;
  }

  // all alike is what writers make most, and where entries are looked at several at a time
  const bitmap = fc.oneof(fc.constant(0), fc.constant(ALL), fc.integer({ min: 0, max: ALL }));
  const entry: fc.Arbitrary<Entry> = fc
    .tuple(fc.integer({ min: 4, max: 9 }), bitmap, bitmap)
    .map(([cluster, zeros, allocated]) => ({
      cluster,
      zeros: (zeros & ~allocated) >>> 0,
      allocated,
    }));

  test('are those of each subcluster alone, joined as far as can be', () => {
    fc.assert(
      fc.property(
        fc.array(entry, { minLength: 1, maxLength: 6 }),
        fc.boolean(),
        fc.nat(),
        fc.nat(),
        (entries, isAscending, from, to) => {
          if (isAscending) entries = entries.map((each, at) => ({ ...each, cluster: 4 + at }));
          const view = new DataView(new ArrayBuffer(16 * entries.length));
          entries.forEach(({ cluster, zeros, allocated }, index) => {
            view.setUint32(16 * index + 4, cluster * clusterSize);
            view.setUint32(16 * index + 8, zeros);
            view.setUint32(16 * index + 12, allocated);
          });
          const size = entries.length * clusterSize;
          const start = from % size;
          const end = start + 1 + (to % (size - start));
          const table = { hostOffset: 0x8000, guestOffset: 0, view };
          const part = { kind: 'table', offset: start, length: end - start, table } as const;
          const runs = [...runsOf(layout, part)];
          const expected = naive(entries)
            .map((each) => clip(each, start, end))
            .filter(({ length }) => length > 0);
          expect(runs).toEqual(joined(expected));
        },
      ),
      { numRuns: 300 },
    );
  });

  function clip(each: Run, start: number, end: number): Run {
    const offset = Math.max(each.offset, start);
    const length = Math.min(each.offset + each.length, end) - offset;
    if (each.kind !== 'plain') return { ...each, offset, length };
    return { ...each, offset, length, hostOffset: each.hostOffset + offset - each.offset };
  }

  function joined(runs: readonly Run[]): Run[] {
    const all: Run[] = [];
    for (const next of runs) {
      const last = all.at(-1);
      const isNext =
        last?.kind === next.kind &&
        (last.kind !== 'plain' ||
          (next.kind === 'plain' && last.hostOffset + last.length === next.hostOffset));
      if (isNext) all.splice(-1, 1, { ...last, length: last.length + next.length });
      else all.push(next);
    }
    return all;
  }
});

/** Where the L2 table of an image with one lies. */
function l2TableAt(image: Buffer): number {
  const l1 = Number(image.readBigUInt64BE(40));
  return Number(image.readBigUInt64BE(l1) & 0x00fffffffffffe00n);
}

/** Numbers from 0 to below a limit, the same on each run. */
function randomFrom(seed: number): (limit: number) => number {
  const random = noise(20_000, seed);
  let at = 0;
  return (limit) => {
    at = (at + 3) % 19_998;
    return random.readUIntBE(at, 3) % limit;
  };
}

function io(path: string, commands: readonly string[]): void {
  run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

describeWith(['qemu-img', 'qemu-io'], 'extended L2 entries as qemu-img reads them', () => {
  test.each(['16k', '32k', '64k', '2M'])('convert to clusters of %s', async (size) => {
    const folder = tempDir();
    const input = join(folder, 'in.raw');
    const content = Buffer.alloc(3 * MiB + 12_345);
    noise(300_000).copy(content, 100_000);
    content.fill('all work and no play makes a dull disk. ', 1_200_000, 2_000_000);
    writeFileSync(input, content);
    const path = join(folder, 'disk.qcow2');
    for (const options of [
      ['-o', `cluster_size=${size},extended_l2=on`],
      ['-c', '-o', `cluster_size=${size},extended_l2=on`],
      ['-c', '-o', `cluster_size=${size},extended_l2=on,compression_type=zstd`],
    ]) {
      run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...options, input, path]);
      const details = await expectSame(path);
      expect(details.features).toContain('extended L2 entries');
    }
  });

  test.each([1, 2, 3, 4, 5, 6])('an image that was lived in (%i)', async (seed) => {
    const below = randomFrom(seed);
    const folder = tempDir();
    const base = join(folder, 'base.raw');
    writeFileSync(base, noise(MiB + 700, seed + 100));
    const path = join(folder, 'disk.qcow2');
    const clusterSize = [16 * KiB, 64 * KiB, 2 * MiB][seed % 3] ?? 0;
    const options = `cluster_size=${clusterSize},extended_l2=on`;
    const backing = seed % 2 === 0 ? ['-b', base, '-F', 'raw'] : [];
    run('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, '-o', options, path, '2M']);
    io(path, [`write -c -P ${1 + below(255)} 0 ${clusterSize}`]);
    for (let round = 0; round < 5; round++) {
      const commands = Array.from({ length: 10 }, () => {
        const start = below(4000) * 512;
        const length = (1 + below(round === 0 ? 10 : 96)) * 512;
        const kinds = [
          `write -P ${1 + below(255)} ${start} ${length}`,
          `write -P ${1 + below(255)} ${start} ${length}`,
          `write -z ${start} ${length}`,
          `write -z -u ${start} ${length}`,
          `discard ${start} ${length}`,
        ];
        return kinds[below(kinds.length)] ?? '';
      });
      io(path, commands);
      if (round === 2) run('qemu-img', ['snapshot', '-c', 'one', path]);
      await expectSame(path);
    }
  });

  test.each([true, false])('any bitmaps, with a backing file: %s', async (hasBacking) => {
    const folder = tempDir();
    const base = join(folder, 'base.raw');
    writeFileSync(base, noise(700 * KiB + 512, 9));
    const path = join(folder, 'disk.qcow2');
    const backing = hasBacking ? ['-b', base, '-F', 'raw'] : [];
    const options = 'cluster_size=16k,extended_l2=on';
    run('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, '-o', options, path, '1M']);
    io(
      path,
      Array.from({ length: 64 }, (_, at) => `write -P ${at + 1} ${at * 16}k 16k`),
    );
    const image = readFileSync(path);
    const below = randomFrom(7);
    const bits = (): number => below(2 ** 16) * 2 ** 16 + below(2 ** 16);
    for (let cluster = 0; cluster < 64; cluster++) {
      const allocated = cluster % 5 === 4 ? 0 : bits();
      const zeros = cluster % 5 === 3 ? 0 : (bits() & ~allocated) >>> 0;
      const at = l2TableAt(image) + 16 * cluster;
      image.writeUInt32BE(zeros, at + 8);
      image.writeUInt32BE(allocated, at + 12);
      // and no cluster at all
      if (cluster % 10 === 4) image.writeBigUInt64BE(0n, at);
    }
    writeFileSync(path, image);
    await expectSame(path);
    expect(run('qemu-img', ['map', path]).toString().split('\n').length).toBeGreaterThan(300);
  });

  test('what the specification forbids is CORRUPT, and says where', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    const options = 'cluster_size=64k,extended_l2=on';
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, '1M']);
    io(path, ['write -P 1 0 128k', 'write -c -P 2 128k 64k']);
    const good = readFileSync(path);
    await using disk = await openBytes(good);
    const content = await readAll(disk);
    expect(content[0]).toBe(1);
    expect(content[128 * KiB]).toBe(2);
    const l2 = l2TableAt(good);
    for (const [at, value, message] of [
      [l2 + 16 + 8, 1, 'entry 1 of the L2 table at 262144 has subclusters both allocated and zero'],
      [l2 + 32 + 8, 1, 'entry 2 of the L2 table at 262144 is compressed, but has subclusters'],
      [
        l2 + 48 + 12,
        1,
        'entry 3 of the L2 table at 262144 has subclusters allocated in no cluster',
      ],
      [20, 13, 'header field cluster_bits is 13, expected 14 to 21 with extended L2 entries'],
    ] as const) {
      const bad = Buffer.from(good);
      bad.writeUInt32BE(value, at);
      const error = await rejection(openBytes(bad));
      expect(error).toMatchObject({ code: 'CORRUPT', message: `disk.qcow2: ${message}` });
    }
  });

  test('a last subcluster that the disk cuts, at the end of the file', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const options = 'cluster_size=16k,extended_l2=on';
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, `${100 * KiB + 512}`]);
    io(path, [`write -P 7 ${100 * KiB} 512`]);
    await expectSame(path);
    const image = readFileSync(path);
    // the seventh cluster, of which the ninth subcluster has the sector, with which qemu ends the file
    const entry = image.readBigUInt64BE(l2TableAt(image) + 16 * 6);
    expect(Number(entry & 0x00fffffffffffe00n) + 4 * KiB + 512).toBe(image.length);
    const error = await rejection(openBytes(image.subarray(0, -1)));
    expect(error).toMatchObject({ code: 'TRUNCATED' });
  });
});
