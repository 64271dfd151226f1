/** The gzip codec against the gzip command, and against streams that are cut, damaged, padded or endless. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32, gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { gzip } from '../src/codec/gzip.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import type { Limits } from '../src/limits.ts';
import type { ByteStream } from '../src/types.ts';
import { inPieces, noise, rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

async function decode(bytes: ByteStream, limits: Limits = defaultLimits): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of gzip.decode(bytes, { name: 'image.gz', limits })) {
    parts.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
  }
  return Buffer.concat(parts);
}

/** Decodes `bytes` in pieces of `size`, by default in one. */
function decodeBytes(bytes: Uint8Array, size: number = bytes.length): Promise<Buffer> {
  return decode(inPieces(bytes, Math.max(1, size)));
}

/** Each of `parts` as one piece of a stream. */
async function* asPieces(...parts: Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    await Promise.resolve();
    yield part;
  }
}

const text = Buffer.from('sparse images are mostly zeros; '.repeat(20));
const small = gzipSync(text);
const mixed = Buffer.concat([
  noise(200_000, 3),
  Buffer.alloc(700_000),
  Buffer.from('header '.repeat(9000)),
  Buffer.alloc(65_536),
  noise(1, 4),
]);

test('the magic number is found, and nothing else', () => {
  expect(gzip.matches(small)).toBe(true);
  expect(gzip.matches(Buffer.from('1f', 'hex'))).toBe(false);
  expect(gzip.matches(Buffer.alloc(0))).toBe(false);
  expect(gzip.matches(Buffer.from('fd377a585a00', 'hex'))).toBe(false);
});

describeWith(['gzip'], 'what the gzip command writes', () => {
  const samples: Record<string, Buffer> = {
    nothing: Buffer.alloc(0),
    'one byte': noise(1),
    '65535 bytes': noise(65_535),
    '65536 bytes': noise(65_536),
    '65537 bytes': noise(65_537),
    '3 MiB of zeros': Buffer.alloc(3 * 2 ** 20),
    'an output buffer exactly': noise(256 * 1024, 7),
    'data and zeros': mixed,
  };
  for (const [name, sample] of Object.entries(samples)) {
    test.each([1, 6, 9])(`${name}, level %i`, async (level) => {
      const packed = run('gzip', ['-nc', `-${level}`], sample);
      for (const size of [97, 65_536, packed.length]) {
        expect((await decodeBytes(packed, size)).equals(sample)).toBe(true);
      }
    });
  }

  test('byte by byte', async () => {
    const packed = run('gzip', ['-nc'], Buffer.concat([text, Buffer.alloc(100_000), noise(3000)]));
    expect((await decodeBytes(packed, 1)).equals(run('gzip', ['-dc'], packed))).toBe(true);
  });

  test('with a file name, as the command stores it', async () => {
    const path = join(tempDir(), 'disk.raw');
    writeFileSync(path, mixed);
    const packed = run('gzip', ['-Nc', path]);
    expect(packed.includes('disk.raw')).toBe(true);
    expect((await decodeBytes(packed)).equals(mixed)).toBe(true);
  });
});

describe('several members', () => {
  const members = [
    gzipSync(text),
    gzipSync(''),
    gzipSync(noise(5000)),
    gzipSync(Buffer.alloc(70_000)),
  ];
  const all = Buffer.concat(members);
  const content = Buffer.concat([text, noise(5000), Buffer.alloc(70_000)]);

  test('are one content', async () => {
    for (const size of [1, 97, all.length]) {
      expect((await decodeBytes(all, size)).equals(content)).toBe(true);
    }
  });

  test('whose boundaries are boundaries of pieces', async () => {
    expect((await decode(asPieces(...members))).equals(content)).toBe(true);
  });

  test('cut into two pieces at every place around a boundary', async () => {
    const first = members[0]?.length ?? 0;
    for (let at = first - 10; at <= first + 12; at++) {
      const decoded = await decode(asPieces(all.subarray(0, at), all.subarray(at)));
      expect(decoded.equals(content)).toBe(true);
    }
  });

  test('in pieces larger than what is read at once, ending at the boundary of a piece', async () => {
    const large = gzipSync(noise(65_536 * 3), { level: 0 });
    const twice = Buffer.concat([large, large]);
    expect((await decodeBytes(twice, large.length)).length).toBe(65_536 * 6);
  });
});

describe('after the last member', () => {
  test.each([1, 3, 512, 65_536, 300_000])('%i zeros are padding', async (count) => {
    const padding = Buffer.alloc(count);
    expect((await decode(asPieces(small, padding))).equals(text)).toBe(true);
    for (const size of [97, small.length + count]) {
      expect((await decodeBytes(Buffer.concat([small, padding]), size)).equals(text)).toBe(true);
    }
  });

  const trailing: Record<string, Buffer> = {
    'one byte of garbage': Buffer.from('A'),
    'two bytes of garbage': Buffer.from('AB'),
    garbage: noise(5000),
    'garbage after zeros': Buffer.concat([Buffer.alloc(700), noise(1)]),
    'garbage after many zeros': Buffer.concat([Buffer.alloc(200_000), noise(9)]),
    'a member after zeros': Buffer.concat([Buffer.alloc(5), small]),
    'the xz magic number': Buffer.from('fd377a585a00', 'hex'),
  };
  test.each(Object.entries(trailing))('%s is CORRUPT', async (_name, garbage) => {
    const bytes = Buffer.concat([small, garbage]);
    for (const size of [1, 97, bytes.length]) {
      const error = await rejection(decodeBytes(bytes, size));
      expect(error).toMatchObject({ code: 'CORRUPT', source: 'image.gz' });
      expect(error.message).toMatch(/garbage/);
    }
    expect(await rejection(decode(asPieces(small, garbage)))).toMatchObject({ code: 'CORRUPT' });
  });
});

describe('truncation', () => {
  test('at every byte of a small stream', async () => {
    for (let length = 0; length < small.length; length++) {
      const error = await rejection(decodeBytes(small.subarray(0, length), 1 + (length % 7)));
      expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED', offset: length });
    }
  });

  test('inside the second member', async () => {
    const twice = Buffer.concat([small, small]);
    for (let length = small.length + 1; length < twice.length; length++) {
      const error = await rejection(decodeBytes(twice.subarray(0, length)));
      expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED' });
    }
  });

  test('of a larger stream, at piece boundaries and anywhere', async () => {
    const packed = gzipSync(mixed);
    for (const length of [65_536, 131_072, 199_999, packed.length - 9, packed.length - 1]) {
      const error = await rejection(decodeBytes(packed.subarray(0, length), 65_536));
      expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED' });
    }
  });

  test('puts out nothing that is not in the content', async () => {
    const packed = gzipSync(mixed);
    for (let length = 60_000; length < 60_016; length++) {
      const parts: Uint8Array[] = [];
      const decoding = (async (): Promise<void> => {
        const stream = inPieces(packed.subarray(0, length), 4096);
        for await (const piece of gzip.decode(stream, { name: 'x', limits: defaultLimits })) {
          if (piece.kind === 'data') parts.push(piece.bytes);
        }
      })();
      expect(await rejection(decoding)).toMatchObject({ code: 'TRUNCATED' });
      const found = Buffer.concat(parts);
      expect(found.equals(mixed.subarray(0, found.length))).toBe(true);
    }
  });
});

describe('damage', () => {
  test('every flipped byte is refused, or does not matter', async () => {
    let harmless = 0;
    for (let at = 0; at < small.length; at++) {
      for (const mask of [0x01, 0x80, 0xff]) {
        const damaged = Buffer.from(small);
        damaged[at] = (damaged[at] ?? 0) ^ mask;
        try {
          expect((await decodeBytes(damaged)).equals(text)).toBe(true);
          harmless++;
        } catch (error) {
          if (!(error instanceof SparsecopyError)) throw error;
          expect(['CORRUPT', 'TRUNCATED']).toContain(error.code);
        }
      }
    }
    // MTIME, XFL and OS are covered by no checksum
    expect(harmless).toBeGreaterThanOrEqual(3 * 6);
  });

  /** `small` with `bytes` at `at`, from its end when negative. */
  function patched(at: number, ...bytes: number[]): Buffer {
    const copy = Buffer.from(small);
    copy.set(bytes, at < 0 ? copy.length + at : at);
    return copy;
  }
  const cases: Record<string, Buffer> = {
    CRC32: patched(-8, 1, 2, 3, 4),
    ISIZE: patched(-4, 1, 2, 3, 4),
    'compression method': patched(2, 7),
    'reserved flags': patched(3, 0x80),
    'magic number': patched(0, 0x50, 0x4b),
    'block type': patched(10, 0x07),
  };
  test.each(Object.entries(cases))('wrong %s is CORRUPT', async (_name, bytes) => {
    const error = await rejection(decodeBytes(bytes));
    expect(error).toMatchObject({ code: 'CORRUPT', source: 'image.gz' });
    expect(error.message.startsWith('image.gz: ')).toBe(true);
  });

  test('a header checksum is verified', async () => {
    const header = Buffer.from([0x1f, 0x8b, 8, 0x02, 0, 0, 0, 0, 0, 3]);
    const hash = crc32(header) & 0xffff;
    const withHash = (value: number): Buffer =>
      Buffer.concat([header, Buffer.from([value & 0xff, value >>> 8]), small.subarray(10)]);
    expect((await decodeBytes(withHash(hash))).equals(text)).toBe(true);
    expect(await rejection(decodeBytes(withHash(hash ^ 0x100)))).toMatchObject({ code: 'CORRUPT' });
  });
});

describe('members that hold nothing', () => {
  const empty = gzipSync('');

  test('too many in a row are a LIMIT', async () => {
    const many = Buffer.concat(Array.from({ length: 70_000 }, () => empty));
    expect(await rejection(decodeBytes(many, 65_536))).toMatchObject({
      code: 'LIMIT',
      limit: 'emptyMembers',
    });
  });

  test('the limit is that of the caller, and content counts anew', async () => {
    const limits = { ...defaultLimits, emptyMembers: 10_000 };
    const some = Buffer.concat(Array.from({ length: 9000 }, () => empty));
    const bytes = Buffer.concat([some, small, some, small]);
    expect(
      (await decode(inPieces(bytes, 65_536), limits)).equals(Buffer.concat([text, text])),
    ).toBe(true);
    const error = await rejection(decode(inPieces(Buffer.concat([some, some]), 65_536), limits));
    expect(error).toMatchObject({ code: 'LIMIT' });
  });
});

describe('source and consumer', () => {
  test('an error of the source passes as it came', async () => {
    const failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    for (const length of [0, 5, 40, small.length]) {
      const failing = async function* (): AsyncGenerator<Uint8Array> {
        yield* inPieces(small.subarray(0, length), 16);
        throw failure;
      };
      expect(await rejection(decode(failing()))).toBe(failure);
    }
  });

  test('a consumer that stops early closes the source', async () => {
    const packed = gzipSync(noise(4_000_000), { level: 1 });
    let closed = false;
    const source = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* inPieces(packed, 65_536);
      } finally {
        closed = true;
      }
    };
    let runs = 0;
    for await (const piece of gzip.decode(source(), { name: 'x', limits: defaultLimits })) {
      expect(piece.kind).toBe('data');
      if (++runs === 2) break;
    }
    expect(runs).toBe(2);
    expect(closed).toBe(true);
  });

  test('an error closes the source', async () => {
    let closed = false;
    const source = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* asPieces(small, noise(100_000), noise(100_000));
      } finally {
        closed = true;
      }
    };
    expect(await rejection(decode(source()))).toMatchObject({ code: 'CORRUPT' });
    expect(closed).toBe(true);
  });

  test('zlib runs ahead of a slow consumer, but not far', async () => {
    const packed = gzipSync(noise(8 * 2 ** 20), { level: 0 });
    let pulled = 0;
    const source = async function* (): AsyncGenerator<Uint8Array> {
      for await (const piece of inPieces(packed, 65_536)) {
        pulled++;
        yield piece;
      }
    };
    const runs = gzip.decode(source(), { name: 'x', limits: defaultLimits });
    const decoding = runs[Symbol.asyncIterator]();
    const first = await decoding.next();
    expect(first.done).toBe(false);
    const before = pulled;
    await delay(200);
    // More was inflated while nobody asked: an output buffer takes four pieces of this input.
    expect(pulled).toBeGreaterThan(before);
    expect(pulled).toBeLessThan(12);
    await decoding.return?.();
  });

  test('a run is not written to after it was given out', async () => {
    const runs: { bytes: Uint8Array; copy: Buffer }[] = [];
    for await (const piece of gzip.decode(inPieces(gzipSync(mixed), 5000), {
      name: 'x',
      limits: defaultLimits,
    })) {
      if (piece.kind === 'data') runs.push({ bytes: piece.bytes, copy: Buffer.from(piece.bytes) });
    }
    expect(runs.length).toBeGreaterThan(2);
    for (const { bytes, copy } of runs) expect(copy.equals(bytes)).toBe(true);
  });
});
