import { expect, test } from 'vitest';
import type { Layout } from '../src/format/qcow2/layout.ts';
import { runsOf, type L2Table, type Run } from '../src/format/qcow2/runs.ts';

const K64 = 65_536;
const G4 = 2 ** 32;
const COPIED = 1n << 63n;

/** Version 3, 64 KiB clusters, the L1 table at 0x30000, a file of 5 GiB; `table` describes the second 512 MiB. */
const layout: Layout = {
  name: 'disk.qcow2',
  fileSize: 5 * 2 ** 30,
  hasDataFile: false,
  dataName: 'disk.qcow2',
  dataSize: 5 * 2 ** 30,
  version: 3,
  clusterBits: 16,
  clusterSize: K64,
  virtualSize: 2 ** 40,
  l1Offset: 0x30000,
  l1End: 0x40000,
  l1Needed: 2048,
  entrySize: 8,
  l2Coverage: 2 ** 29,
  metadata: [],
};
const guestOffset = 2 ** 29;

function tableOf(entries: readonly bigint[]): L2Table {
  const view = new DataView(new ArrayBuffer(entries.length * 8));
  entries.forEach((entry, index) => view.setBigUint64(index * 8, entry));
  return { hostOffset: 0x50000, guestOffset, view };
}

/** The runs of `entries`, or of a part of them; offsets relative to the table. */
function runs(entries: readonly bigint[], start = 0, end = entries.length * K64): Run[] {
  const part = {
    kind: 'table',
    offset: guestOffset + start,
    length: end - start,
    table: tableOf(entries),
  } as const;
  return [...runsOf(layout, part)].map((run) => ({ ...run, offset: run.offset - guestOffset }));
}

test('neighbours in the file are one run, also across 4 GiB, and whatever their bit 63', () => {
  const start = BigInt(G4 - 2 * K64);
  const entries = [0n, 1n, 2n, 3n].map((at) => COPIED | (start + at * 0x10000n));
  expect(runs(entries)).toEqual([
    { kind: 'plain', offset: 0, length: 4 * K64, hostOffset: G4 - 2 * K64 },
  ]);
  const mixed = entries.map((entry, at) => (at % 2 === 0 ? entry : entry - COPIED));
  expect(runs(mixed)).toEqual(runs(entries));
});

test('clusters that lie apart, or backwards, are runs of their own', () => {
  expect(runs([0x100000n, 0x120000n, 0x110000n, 0x100000n])).toEqual([
    { kind: 'plain', offset: 0, length: K64, hostOffset: 0x100000 },
    { kind: 'plain', offset: K64, length: K64, hostOffset: 0x120000 },
    { kind: 'plain', offset: 2 * K64, length: K64, hostOffset: 0x110000 },
    { kind: 'plain', offset: 3 * K64, length: K64, hostOffset: 0x100000 },
  ]);
});

test('zeros are one run, whether there are clusters for them or not; unallocated is another', () => {
  expect(runs([0n, 0n, 1n, 1n, 0x100001n, COPIED | 0x110001n, 0n])).toEqual([
    { kind: 'unallocated', offset: 0, length: 2 * K64 },
    { kind: 'zero', offset: 2 * K64, length: 4 * K64 },
    { kind: 'unallocated', offset: 6 * K64, length: K64 },
  ]);
});

test('each kind next to each other', () => {
  const compressed = (1n << 62n) | (3n << 54n) | 0x200010n;
  expect(runs([0n, 0x100000n, compressed, compressed, 0x110000n, 0x120000n, 1n])).toEqual([
    { kind: 'unallocated', offset: 0, length: K64 },
    { kind: 'plain', offset: K64, length: K64, hostOffset: 0x100000 },
    { kind: 'compressed', offset: 2 * K64, length: K64, hostOffset: 0x200010, hostLength: 2032 },
    { kind: 'compressed', offset: 3 * K64, length: K64, hostOffset: 0x200010, hostLength: 2032 },
    { kind: 'plain', offset: 4 * K64, length: 2 * K64, hostOffset: 0x110000 },
    { kind: 'zero', offset: 6 * K64, length: K64 },
  ]);
});

test('a range that cuts clusters', () => {
  const entries = [0x100000n, 0x110000n, 0x120000n, 0n, 0n];
  expect(runs(entries, 100, 2 * K64 + 7)).toEqual([
    { kind: 'plain', offset: 100, length: 2 * K64 - 93, hostOffset: 0x100064 },
  ]);
  expect(runs(entries, K64 + 1, K64 + 2)).toEqual([
    { kind: 'plain', offset: K64 + 1, length: 1, hostOffset: 0x110001 },
  ]);
  expect(runs(entries, 3 * K64 - 1, 5 * K64 - 1)).toEqual([
    { kind: 'plain', offset: 3 * K64 - 1, length: 1, hostOffset: 0x12ffff },
    { kind: 'unallocated', offset: 3 * K64, length: 2 * K64 - 1 },
  ]);
});

test.each<[string, bigint[], string, string]>([
  [
    'into the L1 table',
    [0x20000n, 0x30000n],
    'CORRUPT',
    'entries 0 to 1 of the L2 table at 327680 needs 131072 bytes at 131072, in the header or the L1 table',
  ],
  [
    'past the end',
    [0n, 0x14fff0000n],
    'TRUNCATED',
    'entry 1 of the L2 table at 327680 needs 65536 bytes at 5637079040, file ends at 5368709120',
  ],
  [
    'not a multiple',
    [0n, 0n, 0n, 0x108000n],
    'CORRUPT',
    'entry 3 of the L2 table at 327680 has offset 1081344, not a multiple of the cluster size 65536',
  ],
])('an entry %s', (_what, entries, code, message) => {
  expect(() => runs(entries)).toThrow(
    expect.objectContaining({ code, message: `disk.qcow2: ${message}` }) as Error,
  );
});

test('the last cluster need be there only as far as the disk goes', () => {
  const entries = [BigInt(layout.fileSize - (layout.fileSize % K64) - K64)];
  const inFile = { ...layout, fileSize: Number(entries[0]) + 100 };
  const part = {
    kind: 'table',
    offset: guestOffset,
    length: 100,
    table: tableOf(entries),
  } as const;
  expect([...runsOf(inFile, part)]).toHaveLength(1);
  expect(() => [...runsOf({ ...inFile, fileSize: inFile.fileSize - 1 }, part)]).toThrow(
    expect.objectContaining({ code: 'TRUNCATED' }) as Error,
  );
});
