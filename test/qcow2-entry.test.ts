import { expect, test } from 'vitest';
import { decodeL1Entry, decodeL2Entry } from '../src/format/qcow2/entry.ts';

/** The halves of a 64-bit entry. */
function halves(entry: bigint): [high: number, low: number] {
  return [Number(entry >> 32n), Number(entry & 0xffffffffn)];
}

const bit = (number: number): bigint => 1n << BigInt(number);

test.each([
  ['nothing', 0n, { kind: 'unallocated' }],
  ['bit 63 alone', bit(63), { kind: 'unallocated' }],
  ['an offset', 0x50000n, { kind: 'table', hostOffset: 0x50000 }],
  ['an offset with bit 63', bit(63) | 0x50000n, { kind: 'table', hostOffset: 0x50000 }],
  ['an offset beyond 2^32', 0x7_0003_0000n, { kind: 'table', hostOffset: 0x7_0003_0000 }],
  ['the last offset', 0x00ff_ffff_ffff_0000n, { kind: 'table', hostOffset: 2 ** 56 - 65_536 }],
])('L1 entry: %s', (_what, entry, decoded) => {
  expect(decodeL1Entry(...halves(entry), 16)).toEqual(decoded);
});

test.each([0, 1, 8, 56, 60, 62])('L1 entry: reserved bit %i is refused', (number) => {
  expect(decodeL1Entry(...halves(0x50000n | bit(number)), 16)).toMatchObject({ kind: 'invalid' });
});

test.each([
  [9, 0x200n],
  [16, 0x10000n],
  [21, 0x200000n],
])('entries: with %i cluster bits, offsets are multiples of that', (clusterBits, size) => {
  expect(decodeL1Entry(...halves(size), clusterBits).kind).toBe('table');
  expect(decodeL2Entry(...halves(size), clusterBits, 3).kind).toBe('plain');
  if (clusterBits === 9) return; // half of it is a reserved bit
  expect(decodeL1Entry(...halves(size / 2n), clusterBits).kind).toBe('invalid');
  expect(decodeL2Entry(...halves(size / 2n), clusterBits, 3).kind).toBe('invalid');
  expect(decodeL2Entry(...halves((size / 2n) | 1n), clusterBits, 3).kind).toBe('invalid');
});

test.each([
  ['nothing', 0n, { kind: 'unallocated' }],
  ['the zero flag', 1n, { kind: 'zero', hostOffset: 0 }],
  ['the zero flag over a cluster', 0x50001n, { kind: 'zero', hostOffset: 0x50000 }],
  ['the zero flag and bit 63', bit(63) | 0x50001n, { kind: 'zero', hostOffset: 0x50000 }],
  ['a cluster', 0x50000n, { kind: 'plain', hostOffset: 0x50000 }],
  ['a cluster with bit 63', bit(63) | 0x50000n, { kind: 'plain', hostOffset: 0x50000 }],
  ['the last offset', 0x00ff_ffff_ffff_0000n, { kind: 'plain', hostOffset: 2 ** 56 - 65_536 }],
])('L2 entry: %s', (_what, entry, decoded) => {
  expect(decodeL2Entry(...halves(entry), 16, 3)).toEqual(decoded);
});

test.each([1, 2, 8, 56, 61])('L2 entry: reserved bit %i is refused', (number) => {
  expect(decodeL2Entry(...halves(0x50000n | bit(number)), 16, 3)).toMatchObject({
    kind: 'invalid',
    why: 'has reserved bits set',
  });
});

test('L2 entry: version 2 has no zero flag', () => {
  expect(decodeL2Entry(0, 1, 16, 2).kind).toBe('invalid');
  expect(decodeL2Entry(0, 0x50000, 16, 2).kind).toBe('plain');
});

test('L2 entry: only an external data file has a cluster in use at offset 0', () => {
  expect(decodeL2Entry(...halves(bit(63)), 16, 3).kind).toBe('invalid');
  expect(decodeL2Entry(...halves(bit(63)), 16, 3, true)).toEqual({ kind: 'plain', hostOffset: 0 });
  expect(decodeL2Entry(0, 0, 16, 3, true).kind).toBe('unallocated');
  expect(decodeL2Entry(...halves(bit(62) | 0x50000n), 16, 3, true).kind).toBe('invalid');
});

/** A compressed descriptor as the specification puts it together. */
function compressed(clusterBits: number, hostOffset: bigint, furtherSectors: number): bigint {
  const x = BigInt(62 - (clusterBits - 8));
  return bit(62) | (BigInt(furtherSectors) << x) | hostOffset;
}

test.each([
  // cluster bits, offset, further sectors, bytes to the end of the last sector
  [9, 0x600n, 0, 512],
  [9, 0x601n, 1, 1023],
  [9, (1n << 56n) - 512n, 1, 1024],
  [16, 0x5_0000n, 127, 65_536],
  [16, 0x5_0123n, 127, 65_536 - 0x123],
  [16, 0x7_1234_5678n, 3, 2048 - 0x78],
  [21, 0x1_ffff_ffff_fe00n, 8191, 4_194_304],
  [21, 0x20_0001n, 0, 511],
])('L2 entry: compressed, %i cluster bits, at %i, %i sectors more', (bits, at, more, length) => {
  const entry = compressed(bits, at, more);
  const decoded = { kind: 'compressed', hostOffset: Number(at), hostLength: length };
  expect(decodeL2Entry(...halves(entry), bits, 3)).toEqual(decoded);
  expect(decodeL2Entry(...halves(entry), bits, 2)).toEqual(decoded);
  // qemu does not look at bit 63 here
  expect(decodeL2Entry(...halves(entry | bit(63)), bits, 3)).toEqual(decoded);
});

test('L2 entry: a compressed offset has at most 56 bits', () => {
  expect(decodeL2Entry(...halves(compressed(9, 1n << 56n, 0)), 9, 3).kind).toBe('invalid');
});
