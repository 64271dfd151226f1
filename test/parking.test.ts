/** What is kept of a file that passes once comes back as it was, from memory and from the temporary file. */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { makeParking, type Parking } from '../src/parking.ts';
import { noise, rejection, tempDir } from './helpers.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A file with noise and zeros in stretches of `lengths`, in turn. */
function fileOf(lengths: readonly number[]): Buffer {
  return Buffer.concat(
    lengths.map((length, at) => (at % 2 === 0 ? noise(length, at + 1) : Buffer.alloc(length))),
  );
}

/** What is to be kept: ranges of `file`, ascending. */
function rangesOf(file: Buffer, cuts: readonly number[]): { start: number; end: number }[] {
  const places = [...new Set(cuts.map((cut) => cut % (file.length + 1)))].sort((a, b) => a - b);
  const ranges: { start: number; end: number }[] = [];
  for (let at = 0; at + 1 < places.length; at += 2) {
    ranges.push({ start: places[at] ?? 0, end: places[at + 1] ?? 0 });
  }
  return ranges;
}

async function keepAll(
  parking: Parking,
  file: Buffer,
  ranges: readonly { start: number; end: number }[],
  piece: number,
): Promise<void> {
  for (const { start, end } of ranges) {
    for (let at = start; at < end; at += piece) {
      const bytes = Buffer.from(file.subarray(at, Math.min(end, at + piece)));
      await parking.keep(bytes, at);
      bytes.fill(0xa5); // it is the caller's again
    }
  }
}

async function expectKept(
  parking: Parking,
  file: Buffer,
  start: number,
  end: number,
): Promise<void> {
  const bytes = Buffer.alloc(end - start, 0xa5);
  await parking.read(bytes, start);
  expect(bytes.equals(file.subarray(start, end))).toBe(true);
  for (let at = start; at < end;) {
    const kept = parking.at(at);
    expect(kept?.end ?? 0).toBeGreaterThan(at);
    const stop = Math.min(end, kept?.end ?? end);
    if (kept?.isZero === true)
      expect(file.subarray(at, stop).every((byte) => byte === 0)).toBe(true);
    at = stop;
  }
}

describe('parking', () => {
  test('gives back what it was given, whatever the pieces and however little memory there is', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 90_000 }), { minLength: 1, maxLength: 9 }),
        fc.array(fc.nat(600_000), { minLength: 2, maxLength: 24 }),
        fc.constantFrom(511, 4096, 4097, 65_536, MiB),
        fc.constantFrom(0, 16 * KiB, 64 * KiB, 64 * MiB),
        fc.constantFrom(undefined, 2),
        async (lengths, cuts, piece, limit, mostRanges) => {
          const file = fileOf(lengths);
          const ranges = rangesOf(file, cuts);
          await using parking = makeParking({ limit, ...(mostRanges && { mostRanges }) });
          await keepAll(parking, file, ranges, piece);
          for (const { start, end } of ranges) {
            await expectKept(parking, file, start, end);
            await expectKept(parking, file, start + Math.floor((end - start) / 3), end);
          }
          const gaps = ranges.map(({ end }) => end);
          for (const at of gaps) {
            const isKept = ranges.some(({ start, end }) => at >= start && at < end);
            expect(parking.at(at) !== undefined).toBe(isKept);
          }
        },
      ),
      { numRuns: 120 },
    );
  }, 20_000);

  test('is a matter of memory up to the limit, and of the file beyond it', async () => {
    const file = noise(512 * KiB);
    const folder = tempDir();
    await using parking = makeParking({ limit: 256 * KiB, folder });
    await keepAll(parking, file, [{ start: 0, end: 256 * KiB }], 10_000);
    expect(parking.parked).toMatchObject({ peak: 256 * KiB, spooled: 0 });
    await keepAll(parking, file, [{ start: 256 * KiB, end: 512 * KiB }], 10_000);
    expect(parking.parked.peak).toBe(512 * KiB);
    // one page more is written while one is waited for
    expect(parking.parked.spooled).toBeGreaterThanOrEqual(256 * KiB);
    expect(parking.parked.spooled).toBeLessThanOrEqual(320 * KiB);
    await expectKept(parking, file, 0, file.length);
    // the file has no name
    expect(readdirSync(folder)).toEqual([]);
  });

  test('zeros cost nothing, whether somebody made them or not', async () => {
    await using parking = makeParking({ limit: 64 * KiB, folder: '/does/not/exist' });
    await parking.keep(Buffer.alloc(4 * MiB), 0);
    await parking.keepZeros(2 ** 40, 4 * MiB);
    await parking.keep(noise(1000), 2 ** 40 + 4 * MiB);
    expect(parking.parked).toMatchObject({ peak: 1000, spooled: 0 });
    expect(parking.at(5 * MiB)).toEqual({ end: 2 ** 40 + 4 * MiB, isZero: true });
  });

  test('is crowded when there are too many ranges, and not when gaps are kept too', async () => {
    await using parking = makeParking({ limit: MiB, mostRanges: 10 });
    const file = noise(64 * KiB);
    for (let at = 0; at < 9; at++) await parking.keep(file.subarray(0, 100), at * 200);
    expect(parking.isCrowded).toBe(false);
    await parking.keep(file.subarray(0, 100), 9 * 200);
    expect(parking.isCrowded).toBe(true);
    await parking.keep(file.subarray(0, 100), 9 * 200 + 100);
    await parking.keepZeros(64 * KiB, 2000);
    await parking.keep(Buffer.alloc(64 * KiB), 2000 + 64 * KiB);
    expect(parking.at(9 * 200)).toEqual({ end: 2000 + 128 * KiB, isZero: false });
  });

  test('a file that cannot be made is an error of the system, for whoever keeps', async () => {
    await using parking = makeParking({
      limit: 16 * KiB,
      folder: join(tempDir(), 'not', 'there'),
    });
    const error = await rejection(
      Promise.resolve(parking.keep(noise(64 * KiB), 0)).then(() => undefined),
    );
    expect(error.code).toBe('ENOENT');
  });

  test('nothing is kept after clear, and reads that have begun end well', async () => {
    const file = noise(256 * KiB);
    await using parking = makeParking({ limit: 64 * KiB });
    await keepAll(parking, file, [{ start: 0, end: file.length }], 64 * KiB);
    const bytes = Buffer.alloc(file.length);
    const reading = parking.read(bytes, 0);
    expect(reading).toBeInstanceOf(Promise);
    parking.clear();
    expect(parking.at(0)).toBeUndefined();
    await reading;
    expect(bytes.equals(file)).toBe(true);
  });
});
