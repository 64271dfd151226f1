import { createReadStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CopyOptions } from '../src/index.ts';
import { sha256 } from './helpers.ts';
import { makeRandom, type Random } from './mutations.ts';
import { describeWith, run } from './tools.ts';
import { copyToFile, disagreements, fastTempDir, tell, type Outcome } from './ways.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** What qemu-img is asked for: each value of one is combined with each value of every other, where both may be. */
const FACTORS = {
  clusterSize: [512, 4 * KiB, 16 * KiB, 64 * KiB, 512 * KiB, 2 * MiB],
  compat: ['0.10', '1.1'],
  extendedL2: ['off', 'on'],
  compression: ['none', 'zlib', 'zstd'],
  refcountBits: [1, 4, 16, 64],
  preallocation: ['off', 'metadata', 'full'],
  dataFile: ['none', 'cooked', 'raw'],
  encryption: ['none', 'luks', 'aes'],
  snapshots: [0, 1, 2],
  backing: ['none', 'raw', 'qcow2', 'raw qcow2 qcow2'],
  size: [512, 777 * 512, 1_234_567, 2 * MiB],
  resize: ['none', 'up', 'down'],
  zeros: ['none', 'write -z', 'write -z -u', 'discard'],
} as const;

type Factor = keyof typeof FACTORS;
type Combination = { readonly [Name in Factor]: (typeof FACTORS)[Name][number] };

const NAMES = Object.keys(FACTORS) as Factor[];

/** What qemu-img 7.2 creates: the rest it refuses itself. */
function canBe(it: Combination): boolean {
  const isOld = it.compat === '0.10';
  return (
    !(isOld && (it.extendedL2 === 'on' || it.refcountBits !== 16 || it.dataFile !== 'none')) &&
    !(isOld && it.compression === 'zstd') &&
    // subclusters have 512 bytes at least
    !(it.extendedL2 === 'on' && it.clusterSize < 16 * KiB) &&
    // compressed clusters are written where there is nothing yet, as they are, and in the image itself
    !(it.compression !== 'none' && it.preallocation !== 'off') &&
    !(it.compression !== 'none' && it.dataFile !== 'none') &&
    !(it.compression !== 'none' && it.encryption !== 'none') &&
    // a snapshot shares clusters: their count is 2, or 3
    !(it.snapshots > 0 && (it.refcountBits === 1 || it.dataFile !== 'none')) &&
    !(isOld && it.snapshots > 0 && it.resize !== 'none') &&
    !(it.backing !== 'none' && (it.dataFile === 'raw' || it.preallocation !== 'off')) &&
    !(it.dataFile === 'raw' && it.preallocation === 'off' && it.encryption !== 'none') &&
    !(isOld && (it.zeros === 'write -z -u' || it.encryption === 'luks'))
  );
}

/** The values of two factors in `it`, for each two factors. */
function pairsOf(it: Combination): string[] {
  return NAMES.flatMap((first, index) =>
    NAMES.slice(index + 1).map((second) => `${first}=${it[first]} ${second}=${it[second]}`),
  );
}

function anyCombination(random: Random): Combination {
  for (;;) {
    const it = Object.fromEntries(
      NAMES.map((name) => [name, random.pick<unknown>(FACTORS[name])]),
    ) as Combination;
    if (canBe(it)) return it;
  }
}

/** qemu-img looks for seconds how often it can hash before it makes a LUKS image: so few of them as will do. */
const LUKS_COST = 4;

/** Combinations in which each possible pair of values occurs: always that with the most new pairs of those in a pool. */
function coveringCombinations(seed: number): Combination[] {
  const random = makeRandom(seed);
  const pool = Array.from({ length: 1500 }, () => anyCombination(random)).map((it) => ({
    it,
    pairs: pairsOf(it),
  }));
  const open = new Set(pool.flatMap(({ pairs }) => pairs));
  const chosen: Combination[] = [];
  while (open.size > 0) {
    let most = 0;
    let best = pool[0];
    for (const candidate of pool) {
      const count = candidate.pairs.reduce((sum, pair) => sum + Number(open.has(pair)), 0);
      const worth = candidate.it.encryption === 'luks' ? count / LUKS_COST : count;
      if (worth > most) [best, most] = [candidate, worth];
    }
    if (best === undefined) break;
    for (const pair of best.pairs) open.delete(pair);
    chosen.push(best.it);
  }
  return chosen;
}

/** Of three values, that went wrong once: holes of a data file are not zeros where it is encrypted. */
const MORE: readonly Combination[] = (['cooked', 'raw'] as const).map((dataFile) => ({
  ...{ clusterSize: 4 * KiB, compat: '1.1', extendedL2: 'off', compression: 'none' },
  ...{ refcountBits: 16, preallocation: 'metadata', dataFile, encryption: 'aes' },
  ...{ snapshots: 0, backing: 'none', size: 2 * MiB, resize: 'up', zeros: 'discard' },
}));

/** Calls to the tools in a folder of their own, for an image that may need a key. */
interface Workshop {
  readonly folder: string;
  /** Runs `qemu-img` or `qemu-io` there. */
  readonly call: (tool: 'qemu-img' | 'qemu-io', args: readonly string[]) => void;
  /** How `disk.qcow2` is named to a tool. */
  readonly disk: readonly string[];
}

function makeWorkshop(folder: string, encryption: Combination['encryption']): Workshop {
  const image = 'driver=qcow2,file.filename=disk.qcow2,encrypt.key-secret=key';
  return {
    folder,
    call: (tool, args) => {
      run(tool, args, undefined, folder);
    },
    disk:
      encryption === 'none' ? ['-f', 'qcow2', 'disk.qcow2'] : [...SECRET, '--image-opts', image],
  };
}

const PASSPHRASE = 'sesame';
const SECRET = ['--object', `secret,id=key,data=${PASSPHRASE}`];

/** Commands for qemu-io that touch a disk of `size` bytes here and there. */
function commands(
  random: Random,
  size: number,
  zeros: Combination['zeros'],
  count: number,
): string[] {
  return Array.from({ length: count }, (_, index) => {
    // sectors mostly, and any bytes sometimes
    const unit = random.once(4) ? 1 : 512;
    const offset = random.below(size / unit) * unit;
    const most = Math.min(size - offset, random.pick([512, 5000, 70_000, 300_000]));
    const length = Math.max(1, Math.floor(most / unit)) * unit;
    if (length > size - offset) return `write -P 9 0 ${Math.min(size, 512)}`;
    const command =
      zeros === 'none' || index % 2 === 0 ? `write -P ${1 + random.below(255)}` : zeros;
    return `${command} ${offset} ${length}`;
  });
}

function write(shop: Workshop, list: readonly string[]): void {
  const args = list.flatMap((command) => ['-c', command]);
  const [last = '', ...before] = [...shop.disk].reverse();
  shop.call('qemu-io', [...before.reverse(), '-d', 'unmap', ...args, last]);
}

/** The chain of backing files that `it` asks for; the name and format of its top. */
function makeBacking(
  shop: Workshop,
  it: Combination,
  random: Random,
): readonly [string, string] | undefined {
  let top: readonly [string, string] | undefined;
  for (const [depth, format] of (it.backing === 'none' ? [] : it.backing.split(' ')).entries()) {
    const name = `base${depth}.${format}`;
    // shorter than the overlay, or longer
    const size = 512 * Math.ceil((it.size * random.pick([0.5, 1, 1.5])) / 512);
    const chain = top === undefined ? [] : ['-b', top[0], '-F', top[1]];
    shop.call('qemu-img', ['create', '-q', '-f', format, ...chain, name, `${size}`]);
    const list = commands(random, size, 'write -z', 4);
    shop.call('qemu-io', ['-f', format, ...list.flatMap((command) => ['-c', command]), name]);
    top = [name, format];
  }
  return top;
}

/** Makes `disk.qcow2` as `it` says. */
function makeImage(shop: Workshop, it: Combination, seed: number): void {
  const random = makeRandom(seed);
  const backing = makeBacking(shop, it, random);
  const options = [
    `cluster_size=${it.clusterSize}`,
    `compat=${it.compat}`,
    ...(it.extendedL2 === 'on' ? ['extended_l2=on'] : []),
    ...(it.compression === 'none' ? [] : [`compression_type=${it.compression}`]),
    ...(it.refcountBits === 16 ? [] : [`refcount_bits=${it.refcountBits}`]),
    ...(it.preallocation === 'off' ? [] : [`preallocation=${it.preallocation}`]),
    ...(it.dataFile === 'none' ? [] : ['data_file=disk.data']),
    ...(it.dataFile === 'raw' ? ['data_file_raw=on'] : []),
    ...(it.encryption === 'none' ? [] : [`encrypt.format=${it.encryption},encrypt.key-secret=key`]),
    ...(it.encryption === 'luks' ? ['encrypt.iter-time=1'] : []),
  ];
  const create = ['create', '-q', '-f', 'qcow2', ...(it.encryption === 'none' ? [] : SECRET)];
  const below = backing === undefined ? [] : ['-b', backing[0], '-F', backing[1]];
  shop.call('qemu-img', [...create, ...below, '-o', options.join(), 'disk.qcow2', `${it.size}`]);

  let size = 512 * Math.ceil(it.size / 512);
  if (it.compression !== 'none') {
    const clusters = [0, 1, 3, 4].map((cluster) => cluster * it.clusterSize);
    const whole = clusters.filter((offset) => offset + it.clusterSize <= size);
    write(shop, [
      'aio_flush',
      ...whole.map((offset, index) => `write -c -P ${index + 1} ${offset} ${it.clusterSize}`),
    ]);
  }
  write(shop, commands(random, size, it.zeros, 6));
  for (let snapshot = 0; snapshot < it.snapshots; snapshot++) {
    // qemu-img probes the format here, and has no option for it
    const disk = it.encryption === 'none' ? ['disk.qcow2'] : shop.disk;
    shop.call('qemu-img', ['snapshot', '-c', `snapshot${snapshot}`, ...disk]);
    write(shop, commands(random, size, it.zeros, 3));
  }
  if (it.resize !== 'none') {
    size = it.resize === 'up' ? size + MiB + 1536 : Math.max(512, 512 * Math.floor(size / 1024));
    shop.call('qemu-img', [
      'resize',
      '-q',
      ...(it.resize === 'up' ? [] : ['--shrink']),
      ...shop.disk,
      `${size}`,
    ]);
    write(shop, commands(random, size, it.zeros, 3));
  }
}

const COMPRESSORS = [
  ['gz', 'gzip -c1'],
  ['xz', 'xz -c0'],
  ['lz4', 'lz4 -qc'],
  ['zst', 'zstd -qc1'],
] as const;

/** The disk as qemu-img reads it, and the options with which we read it. */
async function expectSame(shop: Workshop, it: Combination, snapshot?: string): Promise<void> {
  const { folder } = shop;
  const path = join(folder, 'disk.qcow2');
  const raw = join(folder, 'wanted.raw');
  const from = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
  shop.call('qemu-img', ['convert', ...from, '-O', 'raw', ...shop.disk, raw]);
  const wanted = readFileSync(raw);

  const options: CopyOptions = {
    allowReferences: folder,
    ...(it.encryption === 'none' ? {} : { passphrase: PASSPHRASE }),
    ...(snapshot === undefined ? {} : { snapshot }),
  };
  // what comes from a pipe has no folder in which relative names start
  const piped: CopyOptions = { ...options, resolveReference: (name) => join(folder, name) };
  const copies = mkdtempSync(join(folder, 'copies-'));
  const outcomes = new Map<string, Outcome>([
    ['seeking', await copyToFile(path, { folder: copies, options, whole: true })],
    ['piped', await copyToFile(createReadStream(path), { folder: copies, options: piped })],
  ]);
  for (const [ending, command] of snapshot === undefined ? COMPRESSORS : []) {
    const packed = `${path}.${ending}`;
    run('sh', ['-c', `exec ${command} < "$1" > "$2"`, 'sh', path, packed]);
    const stream = createReadStream(packed);
    outcomes.set(ending, await copyToFile(stream, { folder: copies, options: piped }));
    rmSync(packed);
  }
  rmSync(copies, { recursive: true });
  const first = outcomes.get('seeking') as Outcome;
  expect(first.kind === 'ok' ? 'ok' : tell(first, true)).toBe('ok');
  expect(first).toMatchObject({
    size: wanted.length,
    sha256: sha256(wanted),
    diskSize: dataIn(wanted),
  });
  expect(disagreements(outcomes)).toEqual([]);
}

/** Bytes in blocks of 512 that are not all zero. */
function dataIn(disk: Buffer): number {
  const zeros = Buffer.alloc(512);
  let data = 0;
  for (let at = 0; at < disk.length; at += 512) {
    const block = disk.subarray(at, at + 512);
    if (!block.equals(zeros.subarray(0, block.length))) data += block.length;
  }
  return data;
}

describeWith(
  ['qemu-img', 'qemu-io', 'gzip', 'xz', 'lz4', 'zstd'],
  'as qemu-img reads it, each pair of',
  () => {
    const combinations = [...coveringCombinations(2), ...MORE];

    test('values that can be together occurs', () => {
      const pairs = new Set(combinations.flatMap(pairsOf));
      for (const name of NAMES) {
        for (const value of FACTORS[name]) {
          expect([...pairs].some((pair) => pair.includes(`${name}=${value}`))).toBe(true);
        }
      }
      expect(combinations.length).toBeLessThan(80);
    });

    test.each(
      combinations.map(
        (it, index) => [NAMES.map((name) => `${it[name]}`).join(' '), it, index] as const,
      ),
    )('%s', async (_, it, index) => {
      const folder = mkdtempSync(join(fastTempDir(), 'sparsecopy-matrix-'));
      try {
        const shop = makeWorkshop(folder, it.encryption);
        makeImage(shop, it, index);
        await expectSame(shop, it);
        // qemu-img gives a snapshot the size that the disk has now
        if (it.snapshots > 0 && it.resize === 'none') await expectSame(shop, it, 'snapshot0');
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  },
);
