/** Runs of zeros out of LZMA2: nobody makes them, wherever they begin and end, and what follows them is right. */

import { expect, test } from 'vitest';
import { makeCrc64 } from '../src/codec/xz-crc64.ts';
import { checkMaker } from '../src/codec/xz-check.ts';
import { noise } from './helpers.ts';
import { describeWith, run } from './tools.ts';
import { bytesOf, decodeXz } from './xz-helpers.ts';

const MiB = 2 ** 20;

/** How many bytes of `packed` come as zeros that nobody made. */
async function countZeros(packed: Uint8Array): Promise<number> {
  let zeros = 0;
  for await (const piece of decodeXz(packed)) if (piece.kind === 'zero') zeros += piece.length;
  return zeros;
}

const pack = (bytes: Uint8Array, ...options: string[]): Buffer =>
  run('xz', ['-c', ...options], bytes);

describeWith(['xz'], 'zeros', () => {
  const data = noise(3000, 5);
  const dictionaries = [4096, 65_536, MiB];

  test.each(dictionaries)(
    'begin and end everywhere around a dictionary of %i bytes',
    async (size) => {
      const options = [`--lzma2=preset=0,dict=${size}`, '--check=crc32'];
      const parts: Buffer[] = [];
      for (const before of [0, 1, 15, 2999]) {
        for (const shift of [-273, -17, -1, 0, 1, 16, 64, 80, 300]) {
          parts.push(data.subarray(0, before), Buffer.alloc(Math.max(1, size + shift)), data);
        }
      }
      const sample = Buffer.concat(parts);
      const packed = pack(sample, ...options);
      expect((await bytesOf(decodeXz(packed))).equals(sample)).toBe(true);
      if (size > 4096) expect(await countZeros(packed)).toBeGreaterThan(size * 30);
    },
  );

  test('of every length around what makes a run', async () => {
    const parts: Buffer[] = [];
    for (let length = 4000; length < 4500; length += 7) {
      parts.push(data.subarray(0, length % 100), Buffer.alloc(length));
    }
    const sample = Buffer.concat([...parts, data]);
    for (const options of [['-0'], ['-6'], ['-9e'], ['--lzma2=preset=3,nice=8,mf=hc3']]) {
      const packed = pack(sample, ...options);
      expect((await bytesOf(decodeXz(packed, 1000))).equals(sample)).toBe(true);
    }
  });

  test('are known, too, when they are copies of other zeros', async () => {
    // at a distance that is not 1: the encoder goes on with the one it has used before
    const period = Buffer.concat([data, Buffer.alloc(50_000)]);
    const sample = Buffer.concat(Array.from({ length: 20 }, () => period));
    const packed = pack(sample, '-6');
    expect((await bytesOf(decodeXz(packed))).equals(sample)).toBe(true);
    expect(await countZeros(packed)).toBeGreaterThan(20 * 49_000);
  });

  test('nothing but zeros are one run, over many chunks and all of the dictionary', async () => {
    const packed = pack(Buffer.alloc(20 * MiB), '--lzma2=preset=0,dict=4KiB');
    const runs = [];
    for await (const piece of decodeXz(packed)) runs.push(piece);
    expect(runs).toEqual([{ kind: 'zero', length: 20 * MiB }]);
  });

  test('what repeats from before them is still there', async () => {
    const sample = Buffer.concat([data, Buffer.alloc(900_000), data, Buffer.alloc(3 * MiB), data]);
    for (const dictionary of ['dict=1MiB', 'dict=4MiB', 'dict=8MiB']) {
      const packed = pack(sample, `--lzma2=preset=6,${dictionary}`);
      expect((await bytesOf(decodeXz(packed, 777))).equals(sample), dictionary).toBe(true);
    }
  });
});

test.each([
  [0x01, 'CRC32'],
  [0x04, 'CRC64'],
  [0x0a, 'SHA-256'],
])('check %i (%s) is the same for bytes and for zeros that nobody made', (id, name) => {
  const make = checkMaker(id);
  if (make === undefined) throw new Error('no check');
  const before = noise(1001, 3);
  for (const length of [0, 1, 7, 64, 65_535, 65_536, 200_003]) {
    const made = make();
    made.update({ kind: 'data', bytes: Buffer.concat([before, Buffer.alloc(length), before]) });
    const counted = make();
    expect(counted.name).toBe(name);
    counted.update({ kind: 'data', bytes: before });
    if (length > 0) counted.update({ kind: 'zero', length });
    counted.update({ kind: 'data', bytes: before });
    const digest = counted.digest();
    expect(digest.equals(made.digest()), `${length} zeros`).toBe(true);
    expect(digest.length).toBe(counted.length);
  }
});

test('CRC64 of more zeros than 32 bits can count', () => {
  const whole = makeCrc64();
  whole.updateZeros(2 ** 40 + 5);
  const parts = makeCrc64();
  for (let left = 1024; left > 0; left--) parts.updateZeros(2 ** 30);
  parts.update(Buffer.alloc(5));
  expect(parts.digest()).toEqual(whole.digest());
});
