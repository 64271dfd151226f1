/** The snapshot table: what qemu-img writes into it and says of it, and tables that no writer makes. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseHeader, type Header } from '../src/format/qcow2/header.ts';
import {
  findSnapshot,
  readSnapshots,
  readSnapshotTable,
  type Snapshot,
} from '../src/format/qcow2/snapshots.ts';
import { defaultLimits, type Limits } from '../src/limits.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const NAME = 'disk.qcow2';

function headerOf(image: Uint8Array): Header {
  return parseHeader(image.subarray(0, defaultLimits.probeHead), NAME, defaultLimits);
}

function read(image: Uint8Array, limits: Partial<Limits> = {}): Promise<readonly Snapshot[]> {
  return readSnapshots(bufferSource(image, NAME), headerOf(image), { ...defaultLimits, ...limits });
}

/** One entry as the specification has it. */
interface Entry {
  readonly l1Offset?: bigint;
  readonly l1Size?: number;
  readonly id?: string;
  readonly name?: string;
  readonly date?: number;
  readonly vmState32?: number;
  readonly extra?: Uint8Array;
}

function entryBytes(entry: Entry): Buffer {
  const { l1Offset = 0x10000n, l1Size = 1, id = '1', name = 'one' } = entry;
  const extra = entry.extra ?? extraBytes(0n, 1048576n);
  const fixed = Buffer.alloc(40);
  fixed.writeBigUInt64BE(l1Offset, 0);
  fixed.writeUInt32BE(l1Size, 8);
  fixed.writeUInt16BE(Buffer.byteLength(id), 12);
  fixed.writeUInt16BE(Buffer.byteLength(name), 14);
  fixed.writeUInt32BE(entry.date ?? 0, 16);
  fixed.writeUInt32BE(entry.vmState32 ?? 0, 32);
  fixed.writeUInt32BE(extra.length, 36);
  const bytes = Buffer.concat([fixed, extra, Buffer.from(id), Buffer.from(name)]);
  return Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]);
}

function extraBytes(vmState: bigint, virtualSize: bigint, more = 0): Buffer {
  const bytes = Buffer.alloc(16 + more);
  bytes.writeBigUInt64BE(vmState, 0);
  bytes.writeBigUInt64BE(virtualSize, 8);
  return bytes;
}

const CLUSTER = 65536;

/** A file of a header and, in its fifth cluster, a snapshot table; nothing else of it is whole. */
function imageWith(table: Uint8Array, count: number, version: 2 | 3 = 3): Buffer {
  const image = Buffer.alloc(4 * CLUSTER + table.length);
  image.write('QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(version, 4);
  image.writeUInt32BE(16, 20);
  image.writeBigUInt64BE(1048576n, 24);
  image.writeUInt32BE(1, 36);
  image.writeBigUInt64BE(BigInt(CLUSTER), 40);
  image.writeBigUInt64BE(BigInt(2 * CLUSTER), 48);
  image.writeUInt32BE(1, 56);
  image.writeUInt32BE(count, 60);
  image.writeBigUInt64BE(BigInt(4 * CLUSTER), 64);
  if (version === 3) {
    image.writeUInt32BE(4, 96);
    image.writeUInt32BE(104, 100);
  }
  image.set(table, 4 * CLUSTER);
  return image;
}

function imageOf(entries: readonly Entry[], version: 2 | 3 = 3): Buffer {
  return imageWith(Buffer.concat(entries.map(entryBytes)), entries.length, version);
}

test('an image without snapshots has none, wherever its table is said to lie', async () => {
  const image = imageWith(Buffer.alloc(0), 0);
  image.writeBigUInt64BE(2n ** 40n, 64);
  expect(await read(image)).toEqual([]);
});

test('the size of the VM state is that of the extra data where there is one', async () => {
  const large = 2n ** 33n;
  const snapshots = await read(
    imageOf([
      { vmState32: 7, extra: extraBytes(large, 5n) },
      { vmState32: 7, extra: extraBytes(large, 5n).subarray(0, 8) },
      { vmState32: 7, extra: Buffer.alloc(0) },
      { vmState32: 7, extra: extraBytes(large, 5n, 1008) },
    ]),
  );
  expect(snapshots.map(({ vmStateSize }) => vmStateSize)).toEqual([2 ** 33, 2 ** 33, 7, 2 ** 33]);
  // Without its own, the size of the disk is the image's.
  expect(snapshots.map(({ virtualSize }) => virtualSize)).toEqual([5, 1048576, 1048576, 5]);
});

test('what version 3 demands and an entry lacks is noted', async () => {
  const entries = [{}, { extra: Buffer.alloc(8) }, {}, { extra: Buffer.alloc(0) }];
  for (const version of [2, 3] as const) {
    const image = imageOf(entries, version);
    const table = await readSnapshotTable(
      bufferSource(image, NAME),
      headerOf(image),
      defaultLimits,
    );
    expect(table.incomplete).toEqual(version === 3 ? [1, 3] : []);
    expect(table.length).toBe(image.length - 4 * CLUSTER - 4);
  }
});

test('names are UTF-8, and entries of any length follow each other at multiples of 8', async () => {
  const names = Array.from({ length: 9 }, (_, index) => 'ü'.repeat(index) + 'x'.repeat(index % 2));
  const long = 'n'.repeat(65535);
  const snapshots = await read(
    imageOf([...names.map((name, index) => ({ name, id: `${index}` })), { name: long, id: long }]),
  );
  expect(snapshots.map(({ name }) => name)).toEqual([...names, long]);
  expect(snapshots.map(({ id }) => id)).toEqual([...names.map((_, index) => `${index}`), long]);
});

test('a table that the file cuts at any byte is an error with its place', async () => {
  const table = Buffer.concat([entryBytes({}), entryBytes({ id: '2', name: 'two' })]);
  for (let length = 0; length < 128 - 4; length++) {
    const error = await rejection(read(imageWith(table.subarray(0, length), 2)));
    expect(error, `${length}`).toMatchObject({
      code: 'TRUNCATED',
      offset: 4 * CLUSTER + length,
      found: 4 * CLUSTER + length,
    });
  }
  // padding at the end is nobody's
  expect(await read(imageWith(table.subarray(0, 128 - 4), 2))).toHaveLength(2);
  expect(table).toHaveLength(128);
});

test('a table past the end of the file, or at the header', async () => {
  const image = imageOf([{}]);
  image.writeBigUInt64BE(2n ** 40n, 64);
  await expect(read(image)).rejects.toMatchObject({ code: 'TRUNCATED', offset: 2 ** 40 });
  image.writeBigUInt64BE(0n, 64);
  await expect(read(image)).rejects.toMatchObject({ code: 'CORRUPT', offset: 64 });
});

test('a table larger than the limit is refused before it is read', async () => {
  const image = imageOf(Array.from({ length: 10 }, () => ({})));
  expect(await read(image, { qcow2SnapshotTableSize: 640 })).toHaveLength(10);
  await expect(read(image, { qcow2SnapshotTableSize: 600 })).rejects.toMatchObject({
    code: 'LIMIT',
    limit: 'qcow2SnapshotTableSize',
  });
  const reads: number[] = [];
  const hole = {
    ...bufferSource(Buffer.alloc(0), NAME),
    size: 2 ** 50,
    read(into: Uint8Array): Promise<void> {
      reads.push(into.length);
      into.fill(0);
      return Promise.resolve();
    },
  };
  const header = { ...headerOf(image), snapshotCount: 65536 };
  await readSnapshots(hole, header, defaultLimits);
  expect(reads).toEqual([8 * 1024 * 1024]);
});

test('more extra data than qemu takes', async () => {
  const error = await rejection(read(imageOf([{}, { extra: Buffer.alloc(1025) }])));
  expect(error).toMatchObject({ code: 'LIMIT', offset: 4 * CLUSTER + 64 + 36, found: 1025 });
});

test('a snapshot is found by its id, then by its name', async () => {
  const snapshots = await read(
    imageOf([
      { id: '7', name: '8' },
      { id: '8', name: 'eight' },
      { id: '9', name: '7' },
      { id: '10', name: 'eight' },
    ]),
  );
  const found = (nameOrId: string): string => findSnapshot(snapshots, nameOrId, NAME).id;
  expect(['7', '8', '9', 'eight'].map(found)).toEqual(['7', '8', '9', '8']);
});

test('the error for a name that is not there lists some that are', async () => {
  const entries = Array.from({ length: 7 }, (_, index) => ({
    id: `${index}`,
    name: `n\n${index}`,
  }));
  const snapshots = await read(imageOf(entries));
  expect(() => findSnapshot(snapshots, 'x\x1b', NAME)).toThrow(
    expect.objectContaining({
      code: 'FORMAT',
      message:
        'disk.qcow2: has no snapshot "x\\u001b"; it has "n\\n0" (id "0"), "n\\n1" (id "1"), ' +
        '"n\\n2" (id "2"), "n\\n3" (id "3"), "n\\n4" (id "4"), and 2 more',
    }),
  );
  expect(() => findSnapshot([], 'x', NAME)).toThrow('it has none at all');
});

test.each<[string, Entry, object]>([
  ['an unaligned L1 table', { l1Offset: 0x10200n }, { code: 'CORRUPT', offset: 4 * CLUSTER }],
  ['an L1 table at 0', { l1Offset: 0n }, { code: 'CORRUPT', offset: 4 * CLUSTER }],
  ['an L1 table at 2^63', { l1Offset: 2n ** 63n }, { code: 'CORRUPT', offset: 4 * CLUSTER }],
  [
    'an L1 table of 2^32 - 1',
    { l1Size: 2 ** 32 - 1 },
    { code: 'CORRUPT', offset: 4 * CLUSTER + 8 },
  ],
  [
    'an L1 table that is too short',
    { extra: extraBytes(0n, 2n ** 29n + 1n) },
    { code: 'CORRUPT', offset: 4 * CLUSTER + 8 },
  ],
  [
    'a disk of 2^64 - 1 bytes',
    { extra: extraBytes(0n, 2n ** 64n - 1n) },
    { code: 'LIMIT', offset: 4 * CLUSTER + 48, limit: 'virtualSize' },
  ],
])('%s is an error of that snapshot alone', async (_, entry, error) => {
  const snapshots = await read(
    imageOf([
      { ...entry, name: 'bad' },
      { id: '2', name: 'good' },
    ]),
  );
  expect(() => findSnapshot(snapshots, 'bad', NAME)).toThrow(expect.objectContaining(error));
  expect(findSnapshot(snapshots, 'good', NAME).id).toBe('2');
});

test('extended L2 entries need twice the L1 table', async () => {
  const image = imageOf([{ extra: extraBytes(0n, 2n ** 29n) }]);
  expect(findSnapshot(await read(image), 'one', NAME).l1Size).toBe(1);
  image.writeBigUInt64BE(16n, 72);
  const snapshots = await read(image);
  expect(() => findSnapshot(snapshots, 'one', NAME)).toThrow('expected 2 (for 536870912 bytes)');
});

describeWith(['qemu-img', 'qemu-io'], 'snapshots that qemu-img made', () => {
  interface Said {
    readonly id: string;
    readonly name: string;
    readonly 'date-sec': number;
    readonly 'vm-state-size': number;
  }

  function saidOf(path: string): unknown[] {
    const said = JSON.parse(run('qemu-img', ['info', '--output=json', path]).toString()) as {
      readonly snapshots: readonly Said[];
    };
    return said.snapshots.map((one) => [one.id, one.name, one['date-sec'], one['vm-state-size']]);
  }

  test.each(['compat=0.10', 'compat=1.1', 'extended_l2=on', 'cluster_size=512'])(
    'with %s',
    async (option) => {
      const path = join(tempDir(), 'disk.qcow2');
      run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', option, path, '3M']);
      const names = ['first', 'zwölf', '1', 'x'.repeat(200), 'tab\there'];
      names.forEach((name, index) => {
        run('qemu-io', ['-c', `write -P ${index + 1} 1M 64k`, path]);
        run('qemu-img', ['snapshot', '-c', name, path]);
      });
      const snapshots = await read(readFileSync(path));
      expect(snapshots.map((one) => [one.id, one.name, one.date, one.vmStateSize])).toEqual(
        saidOf(path),
      );
      for (const { virtualSize, l1Size, l1Offset } of snapshots) {
        expect(virtualSize).toBe(3 * 1024 * 1024);
        expect(l1Size).toBeGreaterThan(0);
        expect(l1Offset).toBeGreaterThan(0);
      }
      // Which one qemu-img takes shows in the bytes.
      for (const nameOrId of ['first', '2', '1', '3', '5']) {
        const raw = `${path}.raw`;
        run('qemu-img', ['convert', '-l', nameOrId, '-O', 'raw', path, raw]);
        const taken = readFileSync(raw)[1024 * 1024];
        expect(findSnapshot(snapshots, nameOrId, NAME).id, nameOrId).toBe(`${taken ?? -1}`);
      }
    },
  );

  test('of a disk that has grown since', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '3M']);
    run('qemu-img', ['snapshot', '-c', 'small', path]);
    run('qemu-img', ['resize', '-q', path, '1T']);
    run('qemu-img', ['snapshot', '-c', 'large', path]);
    const sizes = (await read(readFileSync(path))).map(({ virtualSize }) => virtualSize);
    expect(sizes).toEqual([3 * 1024 * 1024, 2 ** 40]);
  });

  test('with the state of a machine, as far as qemu-img info tells', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    for (const name of ['a', 'b', 'c']) run('qemu-img', ['snapshot', '-c', name, path]);
    const image = readFileSync(path);
    const table = Number(image.readBigUInt64BE(64));
    // entries of 40 + 24 + 1 + 1 bytes, padded to 72
    image.writeUInt32BE(5, table + 32);
    image.writeBigUInt64BE(2n ** 35n, table + 72 + 40);
    writeFileSync(path, image);
    const sizes = (await read(image)).map((one) => [one.id, one.name, one.date, one.vmStateSize]);
    expect(sizes).toEqual(saidOf(path));
    expect(sizes.map((size) => size[3])).toEqual([0, 2 ** 35, 0]);
  });
});
