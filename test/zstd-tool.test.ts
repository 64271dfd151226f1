/** The zstd codec against the zstd command: what it writes with many options, of many contents, in pieces of many sizes. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { expect, test } from 'vitest';
import { zstd } from '../src/codec/zstd.ts';
import { defaultLimits } from '../src/limits.ts';
import { inPieces, noise, sha256, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const MiB = 2 ** 20;

/** Decodes `packed`, and gives the bytes and how many of them came as zeros that nobody made. */
async function decode(
  packed: Uint8Array,
  size: number = packed.length,
): Promise<{ bytes: Buffer; zeros: number }> {
  const parts: Uint8Array[] = [];
  let zeros = 0;
  const runs = zstd.decode(inPieces(packed, Math.max(1, size)), {
    name: 'image.zst',
    limits: defaultLimits,
  });
  for await (const piece of runs) {
    if (piece.kind === 'zero') zeros += piece.length;
    parts.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
  }
  return { bytes: Buffer.concat(parts), zeros };
}

/** Packs `content` as a file, or with `isPipe` as the command that does not know its size. */
function pack(content: Uint8Array, options: string, isPipe: boolean): Buffer {
  const list = ['-qc', ...options.split(' ').filter((option) => option !== '')];
  if (isPipe) return run('zstd', list, content);
  const path = join(tempDir(), 'image');
  writeFileSync(path, content);
  return run('zstd', [...list, path]);
}

async function check(
  content: Buffer,
  options: string,
  sizes: readonly number[] = [],
): Promise<void> {
  for (const isPipe of [false, true]) {
    const packed = pack(content, options, isPipe);
    for (const size of [packed.length, ...sizes]) {
      const { bytes } = await decode(packed, size);
      expect(bytes.length).toBe(content.length);
      expect(sha256(bytes), `${options}, pieces of ${size}`).toBe(sha256(content));
    }
  }
}

/** Numbers that look random and are the same on each run, from 0 to below `limit`. */
function makeRandom(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

const program = readFileSync(process.execPath).subarray(MiB, 3 * MiB);
const words = Buffer.from(
  Array.from(
    { length: 60_000 },
    (_, at) => `line ${(at * 7919) % 1013} of ${at}: ${at % 7 === 0 ? 'seven' : 'other'}\n`,
  ).join(''),
);
/** Bytes of few values, so that literals are packed well and matches are short. */
const narrow = Buffer.from(noise(400_000, 5).map((byte) => (byte < 200 ? byte & 3 : byte)));
/** Patterns of each length up to 40 bytes, so that matches overlap themselves. */
const patterns = Buffer.concat(
  Array.from({ length: 40 }, (_, at) => Buffer.alloc(977 * (at + 1), noise(at + 1, at + 3))),
);

/** Pieces of `program` with zeros between them, and copies of what lies up to `reach` bytes before. */
function disk(length: number, reach: number, seed: number): Buffer {
  const random = makeRandom(seed);
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length;) {
    const size = Math.min(length - at, 1 + random(random(4) === 0 ? 400_000 : 9000));
    const kind = random(4);
    if (kind === 0) program.copy(bytes, at, random(MiB), 2 * MiB);
    if (kind > 1 && at > 0) {
      const from = at - 1 - random(Math.min(at, reach));
      bytes.copyWithin(at, from, Math.min(from + size, at));
    }
    // what lies after the piece is written again, or stays zero
    bytes.fill(0, at + size, Math.min(length, at + 2 * MiB + size));
    at += size;
  }
  return bytes;
}

const disk4 = disk(4 * MiB, 4 * MiB, 7);

describeWith(['zstd'], 'what the zstd command writes of', () => {
  test.each([0, 1, 2, 3, 5, 6, 7, 31, 32, 33, 255, 256, 257, 1023, 65_791, 65_792])(
    '%i bytes',
    async (length) => {
      for (const content of [noise(length), Buffer.alloc(length), words.subarray(0, length)]) {
        for (const options of ['', '-19 --no-check']) await check(content, options, [1, 7]);
      }
    },
  );

  test.each<[string, Buffer]>([
    ['a program', program],
    ['text', words],
    ['few values', narrow],
    ['patterns', patterns],
    ['noise', noise(MiB, 11)],
    ['a disk', disk4],
  ])('%s, with each level', async (_, content) => {
    const part = content.subarray(0, 1_500_000);
    for (let level = 1; level <= 19; level++) {
      await check(level > 9 ? part.subarray(0, 200_000) : part, `-${level}`);
    }
    await check(part, '--fast=10');
  });

  test.each([
    '--long=24',
    '--long=24 -1 --no-check',
    '--long=27 -T2',
    '-T2 -B600000',
    '-T2 --no-check -5',
    '--no-content-size',
    '--target-compressed-block-size=2000',
    '--zstd=wlog=10',
    '--zstd=wlog=12,clog=12,hlog=12,mml=3,strat=7',
    '--zstd=wlog=17,mml=3,strat=1',
    '--zstd=wlog=18,strat=9',
    '--no-compress-literals',
    '--compress-literals -3',
  ])('a disk, with %s', async (options) => {
    await check(disk4, options, [4093, 131_072]);
  });

  test('a disk with matches over all of a window, its end and zeros', async () => {
    for (const wlog of [10, 15, 17, 19, 20, 21]) {
      const content = disk(9 * MiB, 2 ** wlog, wlog);
      for (const strategy of [1, 5]) {
        const packed = pack(content, `--zstd=wlog=${wlog},strat=${strategy}`, true);
        expect(sha256((await decode(packed, 1_000_000)).bytes)).toBe(sha256(content));
      }
    }
  });

  test('a disk in frames and skippable frames', async () => {
    const parts: Buffer[] = [];
    for (let at = 0, number = 0; at < disk4.length; at += 300_007, number++) {
      parts.push(pack(disk4.subarray(at, at + 300_007), `-${(number % 6) + 1}`, number % 2 === 0));
      const skippable = Buffer.alloc(8 + number);
      skippable.writeUInt32LE(0x184d2a50 + (number % 16), 0);
      skippable.writeUInt32LE(number, 4);
      parts.push(skippable);
    }
    const packed = Buffer.concat(parts);
    for (const size of [1009, 65_536, packed.length]) {
      expect(sha256((await decode(packed, size)).bytes)).toBe(sha256(disk4));
    }
  });

  test('long zeros, which nobody makes: nearly all come as runs, also between data that is found again', async () => {
    const content = Buffer.alloc(48 * MiB);
    for (const at of [0, 5 * MiB + 77, 20 * MiB, 47 * MiB]) program.copy(content, at, 0, 300_000);
    for (const options of ['-1', '-3', '-19 --zstd=wlog=20', '--long=26 -T2']) {
      const { bytes, zeros } = await decode(pack(content, options, false), MiB);
      expect(sha256(bytes)).toBe(sha256(content));
      expect(zeros).toBeGreaterThan(content.length - 4 * 300_000 - 8 * 131_072);
    }
  });
});
