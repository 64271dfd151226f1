/** A qcow2 image that passes once has the disk, the sizes and the errors that it has where it can be read at any offset. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { poke64, pokeEntry, l2EntryAt, u64, OFFSET_BITS } from '../fixtures/image.ts';
import type { Run, Source } from '../src/types.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { noise, rejection, sha256, tempDir } from './helpers.ts';
import {
  expectSamePassing,
  NAME,
  openPassing,
  passAll,
  runsIn,
  seekAll,
  SIZES,
  TIGHT,
  type Context,
} from './pass-helpers.ts';
import { expected, fixture, fixtures } from './qcow2-helpers.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

const codeOf = (error: unknown): unknown => (error as { code?: unknown }).code;

/** What comes of reading: the digest of the disk, or the error. */
async function outcome(reading: Promise<{ content: Buffer }>): Promise<unknown> {
  try {
    return sha256((await reading).content);
  } catch (error) {
    return codeOf(error) ?? error;
  }
}

describe('fixtures', () => {
  test.each(fixtures('good'))('%s: the disk, its sizes', async (name) => {
    const image = fixture('good', name);
    const seeking = await seekAll(image);
    expect(sha256(seeking.content)).toBe(expected(name).sha256);
    const sizes = seeking.content.length > MiB ? SIZES.slice(1) : SIZES;
    await expectSamePassing(image, seeking, sizes);
    await expectSamePassing(image, seeking, sizes.slice(1), { limits: TIGHT });
    await expectSamePassing(image, seeking, [4096], { untrusted: true });
  });

  test('one byte at a time', async () => {
    for (const name of ['mixed', 'deflate', 'resized']) {
      const image = fixture('good', name);
      await expectSamePassing(image, await seekAll(image), [1]);
    }
  });

  test.each(fixtures('bad'))('%s: the same refusal', async (name) => {
    const image = fixture('bad', name);
    const seeking = await rejection(seekAll(image));
    for (const size of SIZES) {
      const error = await rejection(passAll(image, runsIn(image, size)));
      expect(error, `pieces of ${size}`).toMatchObject({
        name: 'SparsecopyError',
        code: seeking.code,
        message: seeking.message,
      });
    }
  });

  test.each(fixtures('good').filter((name) => name !== 'sparse-16m'))(
    '%s, cut anywhere: the same',
    async (name) => {
      const image = fixture('good', name);
      for (let end = 0; end < image.length; end += end < 1024 ? 128 : 512) {
        const cut = image.subarray(0, end);
        const seeking = await outcome(seekAll(cut));
        expect(await outcome(passAll(cut, runsIn(cut, 1000))), `cut at ${end}`).toBe(seeking);
        const tight = passAll(cut, runsIn(cut, 5000), { limits: TIGHT });
        expect(await outcome(tight), `cut at ${end}, tight`).toBe(seeking);
      }
    },
  );
});

/** `image` (512-byte clusters) with its L1 and L2 tables at the end, as legal as before. */
function tablesLast(image: Buffer): Buffer {
  const l1Offset = u64(image, 40);
  const l1 = Buffer.from(image.subarray(l1Offset, l1Offset + 512));
  let moved = Buffer.concat([image, Buffer.alloc((512 - (image.length % 512)) % 512)]);
  for (let at = 0; at < 8 * image.readUInt32BE(36); at += 8) {
    const from = Number(l1.readBigUInt64BE(at) & OFFSET_BITS);
    if (from === 0) continue;
    l1.writeBigUInt64BE(BigInt(moved.length), at);
    moved = Buffer.concat([moved, image.subarray(from, from + 512)]);
    moved.fill(0xee, from, from + 512);
  }
  return Buffer.concat([poke64(moved, 40, BigInt(moved.length)), l1]);
}

describe('images that writers do not make, but may', () => {
  test.each(['plain', 'deflate', 'mixed', 'zeroed', 'reversed'])(
    '%s, tables last',
    async (name) => {
      const image = tablesLast(fixture('good', name));
      const seeking = await seekAll(image);
      expect(sha256(seeking.content)).toBe(expected(name).sha256);
      const { parked } = await expectSamePassing(image, seeking, SIZES);
      expect(parked.peak).toBeGreaterThan(image.length / 4);
      await expectSamePassing(image, seeking, SIZES, { limits: { pendingRuns: 1 } });
    },
  );

  test('zeros that nobody made', async () => {
    for (const name of ['mixed', 'preallocated', 'zeroed', 'sparse-16m']) {
      const image = fixture('good', name);
      const seeking = await seekAll(image);
      for (const size of [512, 4096, 64 * KiB]) {
        const { content, diskSize } = await passAll(image, runsIn(image, size, true));
        expect(content.equals(seeking.content)).toBe(true);
        expect(diskSize).toBe(seeking.diskSize);
      }
    }
  });

  test('two clusters of the disk in one of the file: read, or refused where that is asked for', async () => {
    const image = fixture('good', 'plain');
    const entry = image.readBigUInt64BE(l2EntryAt(image, 1));
    const shared = pokeEntry(pokeEntry(image, 5, entry), 20, entry);
    const seeking = await seekAll(shared);
    await expectSamePassing(shared, seeking, SIZES);
    await expectSamePassing(shared, seeking, SIZES, { limits: TIGHT });
    const error = await rejection(passAll(shared, runsIn(shared, 512), { untrusted: true }));
    const wanted = await rejection(seekAll(shared, { untrusted: true }));
    expect(error).toMatchObject({ code: 'CORRUPT', message: wanted.message });
  });

  test('one table for two ranges of the disk', async () => {
    const image = fixture('good', 'plain');
    const l1Offset = u64(image, 40);
    const l1 = image.readUInt32BE(36);
    expect(l1).toBeGreaterThan(1);
    const shared = poke64(image, l1Offset + 8, image.readBigUInt64BE(l1Offset));
    const seeking = await seekAll(shared);
    await expectSamePassing(shared, seeking, SIZES);
    const error = await rejection(passAll(shared, runsIn(shared, 512), { untrusted: true }));
    expect(error.code).toBe('CORRUPT');
  });

  test('more tables than the file has room for', async () => {
    const image = fixture('good', 'sparse-16m');
    const l1Offset = u64(image, 40);
    const table = image.readBigUInt64BE(l1Offset);
    let many = image;
    for (let at = 0; at < 8 * image.readUInt32BE(36); at += 8) {
      many = poke64(many, l1Offset + at, table);
    }
    const error = await rejection(passAll(many, runsIn(many, 4096)));
    const wanted = await rejection(seekAll(many));
    expect(error).toMatchObject({ code: 'CORRUPT', message: wanted.message });
  });

  test('a second owner that shows when the cluster has passed is refused, not guessed', async () => {
    // The second table, which lies behind the data of the first, names one of its clusters.
    const image = fixture('good', 'plain');
    const first = image.readBigUInt64BE(l2EntryAt(image, 1));
    const late = tablesLast(image);
    const l1Offset = u64(late, 40);
    const early = poke64(late, l1Offset, image.readBigUInt64BE(u64(image, 40)));
    expect(early.length).toBe(late.length);
    const restored = Buffer.from(early);
    const table = Number(image.readBigUInt64BE(u64(image, 40)) & OFFSET_BITS);
    image.copy(restored, table, table, table + 512);
    // L1 back in front: only the second table is last
    const inFront = Buffer.from(restored);
    late.copy(inFront, u64(image, 40), l1Offset, l1Offset + 512);
    inFront.writeBigUInt64BE(image.readBigUInt64BE(u64(image, 40)), u64(image, 40));
    inFront.writeBigUInt64BE(BigInt(u64(image, 40)), 40);
    const shared = pokeEntry(inFront, 64, first);
    expect(sha256((await seekAll(inFront)).content)).toBe(expected('plain').sha256);
    await seekAll(shared);
    for (const size of [512, 4096]) {
      const error = await rejection(passAll(shared, runsIn(shared, size)));
      expect(error).toMatchObject({ code: 'UNSUPPORTED' });
      expect(error.message).toContain('can only be read from an input that can seek');
    }
  });

  test('a table of compressed clusters that comes behind them', async () => {
    // Clusters share sectors with those of another table, which is known when they pass.
    const image = fixture('good', 'deflate');
    const l1Offset = u64(image, 40);
    const moved = tablesLast(image);
    for (let keep = 0; keep < image.readUInt32BE(36); keep++) {
      const mixed = Buffer.from(moved);
      moved.copy(mixed, l1Offset, u64(moved, 40), u64(moved, 40) + 512);
      mixed.writeBigUInt64BE(BigInt(l1Offset), 40);
      const entry = image.readBigUInt64BE(l1Offset + 8 * keep);
      const table = Number(entry & OFFSET_BITS);
      if (table === 0) continue;
      mixed.writeBigUInt64BE(entry, l1Offset + 8 * keep);
      image.copy(mixed, table, table, table + 512);
      const seeking = await seekAll(mixed);
      expect(sha256(seeking.content)).toBe(expected('deflate').sha256);
      await expectSamePassing(mixed, seeking, SIZES);
    }
  });

  test('what needs an input that can seek is left to others, and nothing is taken of it', async () => {
    let asked = 0;
    const untouched = async function* (): AsyncGenerator<Run> {
      asked++;
      yield await Promise.resolve({ kind: 'zero' as const, length: 1 });
    };
    const plain = fixture('good', 'plain');
    const contexts: [Buffer, Context][] = [
      [fixture('good', 'snapshot'), { snapshot: '1' }],
      [plain, { limits: { parkedSize: u64(plain, 40) - 1 } }],
    ];
    for (const [image, context] of contexts) {
      const error = await rejection(openPassing(image, untouched(), context));
      expect(error.message).toBe('cannot be read in one pass');
    }
    expect(asked).toBe(0);
  });
});

/** Descriptors of this process. */
function openFiles(): number {
  return existsSync('/proc/self/fd') ? readdirSync('/proc/self/fd').length : 0;
}

describe('a pass that ends early', () => {
  /** Everything before its tables, so that the temporary file is open. */
  const image = ((): Buffer => {
    const plain = tablesLast(fixture('good', 'mixed'));
    const filler = noise(200 * KiB);
    return Buffer.concat([plain, filler, filler]);
  })();
  const context: Context = { limits: { parkedSize: 64 * KiB } };

  test('lets the input and the temporary file go', async () => {
    const before = openFiles();
    let isClosed = false;
    const runs = async function* (): AsyncGenerator<Run> {
      try {
        yield* runsIn(image, 512);
      } finally {
        isClosed = true;
      }
    };
    const disk = await openPassing(image, runs(), context);
    for await (const chunk of disk.chunks()) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    await disk[Symbol.asyncDispose]();
    expect(isClosed).toBe(true);
    expect(openFiles()).toBe(before);
  });

  test('an error of the input passes through', async () => {
    const failing = async function* (): AsyncGenerator<Run> {
      for await (const piece of runsIn(image.subarray(0, 5000), 512)) yield piece;
      throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    };
    expect((await rejection(passAll(image, failing()))).code).toBe('EIO');
  });

  test('an error of the backing file passes through, wherever it happens', async () => {
    const overlay = fixture('good', 'sparse-16m');
    for (const failAt of [0, 1, 2]) {
      let reads = 0;
      const base: Source = {
        ...bufferSource(noise(4 * MiB), 'base'),
        async read(into: Uint8Array): Promise<void> {
          await new Promise((resolve) => setImmediate(resolve));
          if (reads++ === failAt) throw Object.assign(new Error('EIO'), { code: 'EIO' });
          into.fill(1);
        },
      };
      const opened = { hasOwnBacking: true, openReference: () => Promise.resolve(base) };
      const error = await rejection(passAll(overlay, runsIn(overlay, 512), opened));
      expect(error.code).toBe('EIO');
    }
  });

  test('a temporary file that cannot be made is an error', async () => {
    const folder = join(tempDir(), 'not', 'there');
    const late = Buffer.concat([fixture('good', 'mixed'), noise(200 * KiB)]);
    const l1Offset = u64(late, 40);
    const behind = poke64(late, l1Offset, BigInt(Math.floor(late.length / 512) * 512));
    const whole = Buffer.concat([
      behind.subarray(0, Math.floor(late.length / 512) * 512),
      Buffer.alloc(512),
    ]);
    const error = await rejection(
      passAll(whole, runsIn(whole, 512), { limits: { parkedSize: 64 * KiB }, tempDir: folder }),
    );
    expect(error.code).toBe('ENOENT');
  });
});

test('errors name the input', async () => {
  const image = fixture('bad', 'TRUNCATED.l2-table-past-end');
  const error = await rejection(passAll(image, runsIn(image, 512)));
  expect(error.message.startsWith(`${NAME}: `)).toBe(true);
});
