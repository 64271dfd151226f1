/** The zstd codec and cluster decoder against the zstd command, and against frames that are cut, damaged or lie. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { makeZstdDecoder } from '../src/codec/zstd-decoder.ts';
import type { ZstdDecoder } from '../src/codec/zstd-decoder.ts';
import { frameHeaderLength, parseBlockHeader, parseFrameHeader } from '../src/codec/zstd-frame.ts';
import { makeZstdClusterDecoder } from '../src/codec/zstd-cluster.ts';
import { zstd } from '../src/codec/zstd.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import type { Limits } from '../src/limits.ts';
import type { ByteStream, Run } from '../src/types.ts';
import { inPieces, noise, rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

function runsOf(bytes: ByteStream, limits: Limits = defaultLimits): AsyncIterable<Run> {
  return zstd.decode(bytes, { name: 'image.zst', limits });
}

async function decode(bytes: ByteStream, limits: Limits = defaultLimits): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of runsOf(bytes, limits)) {
    parts.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
  }
  return Buffer.concat(parts);
}

/** Decodes `bytes` in pieces of `size`, by default in one. */
function decodeBytes(bytes: Uint8Array, size: number = bytes.length): Promise<Buffer> {
  return decode(inPieces(bytes, Math.max(1, size)));
}

/** Decodes `bytes`, which must fail with an error of this package. */
async function faultOf(bytes: Uint8Array, limits?: Limits): Promise<SparsecopyError> {
  const error = await rejection(decode(inPieces(bytes, 4096), limits));
  if (error instanceof SparsecopyError) return error;
  throw error;
}

/** `bytes` with the byte at `at` replaced. */
function withByte(bytes: Uint8Array, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = value;
  return copy;
}

/** The bytes of a pipe: the command cannot know the content's size, and stores none. */
const pack = (bytes: Uint8Array, ...options: string[]): Buffer =>
  run('zstd', ['-qc', ...options], bytes);

/** Of a file: with its size in the frame header. */
function packFile(bytes: Uint8Array, ...options: string[]): Buffer {
  const path = join(tempDir(), 'image');
  writeFileSync(path, bytes);
  return run('zstd', ['-qc', ...options, path]);
}

const MAGIC = Buffer.from('28b52ffd', 'hex');

/** A block (RFC 8878, section 3.1.1.2): `type` 0 is raw, 1 one byte to be repeated. */
function block(content: Uint8Array, isLast: boolean, type = 0, size = content.length): Buffer {
  const header = Buffer.alloc(3);
  header.writeUIntLE((isLast ? 1 : 0) + type * 2 + size * 8, 0, 3);
  return Buffer.concat([header, content]);
}

/** A frame without checksum: `fields` are what follows the descriptor. */
function frame(descriptor: number, fields: readonly number[], ...blocks: Buffer[]): Buffer {
  return Buffer.concat([MAGIC, Buffer.from([descriptor, ...fields]), ...blocks]);
}

/** A window of 1 MiB: exponent 10, mantissa 0 (section 3.1.1.1.2). */
const WINDOW_1M = 10 << 3;

/** A skippable frame (section 3.1.2). */
function skippable(content: Uint8Array, number = 0): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184d2a50 + number, 0);
  header.writeUInt32LE(content.length, 4);
  return Buffer.concat([header, content]);
}

/** Where the blocks of the frame that `bytes` are start, and where the last one ends. */
function blockOffsets(bytes: Buffer): number[] {
  const offsets = [frameHeaderLength(bytes)];
  for (let at = offsets[0] ?? 0, isLast = false; !isLast; offsets.push(at)) {
    const header = bytes.readUIntLE(at, 3);
    isLast = (header & 1) === 1;
    at += 3 + ((header & 6) === 2 ? 1 : header >> 3);
  }
  return offsets;
}

const text = Buffer.from('sparse images are mostly zeros; '.repeat(20));
const mixed = Buffer.concat([
  noise(200_000, 3),
  Buffer.alloc(2_700_000),
  Buffer.from('header '.repeat(90_000)),
  Buffer.alloc(131_072),
  Buffer.from(noise(400_000, 8).map((byte) => byte & 15)),
  noise(1, 4),
]);

describe('the magic number', () => {
  test('is found, also after skippable frames, and nothing else', () => {
    expect(zstd.matches(frame(0, [WINDOW_1M]))).toBe(true);
    expect(zstd.matches(MAGIC.subarray(0, 3))).toBe(false);
    expect(zstd.matches(Buffer.alloc(0))).toBe(false);
    expect(zstd.matches(noise(100))).toBe(false);
    expect(zstd.matches(Buffer.concat([skippable(noise(10)), MAGIC]))).toBe(true);
    expect(zstd.matches(skippable(noise(100_000)).subarray(0, 1000))).toBe(true);
    // LZ4 has the same skippable frames
    expect(
      zstd.matches(Buffer.concat([skippable(noise(10)), Buffer.from('04224d18', 'hex')])),
    ).toBe(false);
  });
});

describeWith(['zstd'], 'what the zstd command writes', () => {
  async function check(packed: Buffer, sample: Buffer): Promise<void> {
    for (const size of [97, 65_536, packed.length]) {
      expect((await decodeBytes(packed, size)).equals(sample)).toBe(true);
    }
  }

  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['one byte', noise(1)],
    ['one zero', Buffer.alloc(1)],
    ['a block less one', noise(131_071)],
    ['a block', noise(131_072)],
    ['a block and one', noise(131_073)],
    ['a block of zeros', Buffer.alloc(131_072)],
    ['eight blocks', noise(8 * 131_072)],
    ['nine blocks and one byte', Buffer.alloc(9 * 131_072 + 1, text)],
    ['5 MiB of zeros', Buffer.alloc(5 * 2 ** 20)],
  ])('%s', async (_, sample) => {
    await check(pack(sample), sample);
    await check(packFile(sample), sample);
  });

  test.each([
    '-1',
    '-19',
    '--fast=5',
    '--ultra -22',
    '--long=27',
    '--no-check',
    '--no-content-size',
    '--format=zstd',
    '-T2 -B131072',
    '-T2 --rsyncable',
    '--target-compressed-block-size=1500',
  ])('data and zeros with %s', async (options) => {
    await check(pack(mixed, ...options.split(' ')), mixed);
    await check(packFile(mixed, ...options.split(' ')), mixed);
  });

  test('byte by byte', async () => {
    const sample = Buffer.concat([text, Buffer.alloc(300_000), noise(3000)]);
    expect((await decodeBytes(pack(sample), 1)).equals(sample)).toBe(true);
  });

  test('frames that follow each other, as pzstd writes them, and skippable frames', async () => {
    const parts = [
      mixed.subarray(0, 250_000),
      mixed.subarray(250_000, 250_001),
      mixed.subarray(250_001),
    ];
    const packed = parts.map((part, at) => (at === 1 ? packFile(part) : pack(part, '-3')));
    await check(Buffer.concat(packed), mixed);
    const sizes = packed.map(({ length }) =>
      skippable(Buffer.from(new Uint32Array([length]).buffer)),
    );
    await check(Buffer.concat(packed.flatMap((bytes, at) => [sizes[at] ?? bytes, bytes])), mixed);
    const rest = [
      skippable(Buffer.alloc(0), 15),
      pack(Buffer.alloc(0)),
      skippable(noise(200_000), 7),
    ];
    await check(Buffer.concat([...rest, ...packed, ...rest]), mixed);
  });

  test('skippable frames only: nothing', async () => {
    expect(await decodeBytes(skippable(noise(100)))).toHaveLength(0);
  });

  test('zeros come as runs that nobody made', async () => {
    let zeros = 0;
    for await (const piece of runsOf(inPieces(pack(Buffer.alloc(3 * 2 ** 20)), 4096))) {
      expect(piece.kind).toBe('zero');
      if (piece.kind === 'zero') zeros += piece.length;
    }
    expect(zeros).toBe(3 * 2 ** 20);
  });
});

describe('frames that the command does not write', () => {
  const content = noise(1000);
  const raw = block(content, true);

  test.each<[string, Buffer]>([
    ['a dictionary id of 0', frame(0x01, [WINDOW_1M, 0], raw)],
    ['a dictionary id of 0 in four bytes', frame(0x03, [WINDOW_1M, 0, 0, 0, 0], raw)],
    ['the unused bit', frame(0x10, [WINDOW_1M], raw)],
    ['a window of 1 KiB', frame(0, [0], raw)],
    ['a window of 128 MiB', frame(0, [17 << 3], raw)],
    ['a content size in two bytes', frame(0x60, [(1000 - 256) & 255, (1000 - 256) >> 8], raw)],
    ['a content size in eight bytes', frame(0xc0, [WINDOW_1M, 0xe8, 3, 0, 0, 0, 0, 0, 0], raw)],
    [
      'an empty last block',
      frame(0, [WINDOW_1M], block(content, false), block(Buffer.alloc(0), true)),
    ],
    [
      'empty blocks',
      frame(
        0,
        [WINDOW_1M],
        ...Array.from({ length: 30 }, () => block(Buffer.alloc(0), false)),
        raw,
      ),
    ],
  ])('%s', async (_, bytes) => {
    expect((await decodeBytes(bytes, 7)).equals(content)).toBe(true);
  });

  test('a thousand blocks of one repeated byte', async () => {
    const repeated = Array.from({ length: 1000 }, (_, at) =>
      block(Buffer.from([at & 1]), at === 999, 1, 131_072),
    );
    let at = 0;
    for await (const piece of runsOf(inPieces(frame(0, [WINDOW_1M], ...repeated), 1000))) {
      const odd = Math.floor(at / 131_072) & 1;
      expect(piece.kind).toBe(odd === 1 ? 'data' : 'zero');
      at += piece.kind === 'zero' ? piece.length : piece.bytes.length;
    }
    expect(at).toBe(1000 * 131_072);
  });

  test.each<[string, Buffer, string]>([
    ['the reserved bit', frame(0x08, [WINDOW_1M], raw), 'CORRUPT'],
    ['a reserved block type', frame(0, [WINDOW_1M], block(content, true, 3)), 'CORRUPT'],
    ['a raw block larger than its window', frame(0, [0], block(noise(1025), true)), 'CORRUPT'],
    [
      'a repeated byte more often than its window',
      frame(0, [0], block(noise(1), true, 1, 1025)),
      'CORRUPT',
    ],
    ['a block of more than 128 KiB', frame(0, [WINDOW_1M], block(noise(131_073), true)), 'CORRUPT'],
    [
      'a content size too large by one',
      frame(0x60, [(1001 - 256) & 255, (1001 - 256) >> 8], raw),
      'CORRUPT',
    ],
    [
      'a content size too small by one',
      frame(0x60, [(999 - 256) & 255, (999 - 256) >> 8], raw),
      'CORRUPT',
    ],
    [
      'a content size too small, in several blocks',
      frame(0x80, [WINDOW_1M, 0xe8, 3, 0, 0], ...[1, 2, 3].map(() => block(content, false)), raw),
      'CORRUPT',
    ],
    [
      'a content size too large, in several blocks',
      frame(0x80, [WINDOW_1M, 0, 0, 1, 0], ...[1, 2, 3].map(() => block(content, false)), raw),
      'CORRUPT',
    ],
    [
      'compressed data of nothing',
      frame(0, [WINDOW_1M], block(Buffer.alloc(0), true, 2)),
      'CORRUPT',
    ],
    ['compressed data that is noise', frame(0, [WINDOW_1M], block(content, true, 2)), 'CORRUPT'],
    ['a dictionary', frame(0x02, [WINDOW_1M, 0x34, 0x12], raw), 'UNSUPPORTED'],
    ['a window of 144 MiB', frame(0, [(17 << 3) + 1], raw), 'LIMIT'],
    ['a window of 3.75 TiB', frame(0, [255], raw), 'LIMIT'],
    ['one segment of 2^63 bytes', frame(0xe0, [0, 0, 0, 0, 0, 0, 0, 0x80], raw), 'LIMIT'],
    ['content of 2^63 bytes', frame(0xc0, [WINDOW_1M, 0, 0, 0, 0, 0, 0, 0, 0x80], raw), 'LIMIT'],
  ])('%s is refused', async (_, bytes, code) => {
    const error = await faultOf(bytes);
    expect(error).toMatchObject({ code, source: 'image.zst' });
    expect(error.message).toMatch(/^image\.zst: /);
  });

  test('a window above the limit', async () => {
    const error = await faultOf(frame(0, [WINDOW_1M], raw), {
      ...defaultLimits,
      decoderWindow: 2 ** 20 - 1,
    });
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'decoderWindow', found: 2 ** 20 });
  });

  test('too many frames without content: LIMIT', async () => {
    const limits = { ...defaultLimits, emptyMembers: 3 };
    const empty = frame(0x20, [0], block(Buffer.alloc(0), true));
    const three = Buffer.concat([empty, skippable(noise(9)), empty]);
    const full = frame(0, [WINDOW_1M], raw);
    const fine = Buffer.concat([three, full, three, full]);
    expect((await decode(inPieces(fine, 100), limits)).length).toBe(2000);
    const error = await faultOf(Buffer.concat([three, empty]), limits);
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'emptyMembers' });
  });

  test('an empty input, and less than a magic number: TRUNCATED', async () => {
    expect((await faultOf(Buffer.alloc(0))).code).toBe('TRUNCATED');
    expect((await faultOf(MAGIC.subarray(0, 2))).code).toBe('TRUNCATED');
  });

  test.each([Buffer.from('garbage!'), Buffer.from('x'), Buffer.alloc(1), Buffer.alloc(4096)])(
    'garbage after the last frame: CORRUPT (%#)',
    async (garbage) => {
      const bytes = Buffer.concat([frame(0, [WINDOW_1M], raw), garbage]);
      expect((await faultOf(bytes)).code).toBe('CORRUPT');
    },
  );

  test('something else: CORRUPT', async () => {
    expect((await faultOf(noise(1000))).code).toBe('CORRUPT');
  });
});

describeWith(['zstd'], 'cut input: TRUNCATED', () => {
  test('at each byte', async () => {
    for (const packed of [pack(text), packFile(noise(50)), skippable(noise(20))]) {
      for (let end = 0; end < packed.length; end++) {
        expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
      }
    }
  });

  test('in the second of two frames', async () => {
    const first = pack(text);
    const packed = Buffer.concat([first, first]);
    expect((await decodeBytes(packed.subarray(0, first.length))).equals(text)).toBe(true);
    for (let end = first.length + 1; end < packed.length; end++) {
      expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
    }
  });

  test.each([['-3'], ['-3', '--no-check']])(
    'at the ends of all blocks, and near them: %s %s',
    async (...options) => {
      const packed = pack(mixed, ...options);
      const offsets = blockOffsets(packed);
      expect(offsets.length).toBeGreaterThan(20);
      for (const offset of offsets) {
        for (const end of [offset - 1, offset, offset + 1, offset + 3]) {
          if (end >= packed.length) continue;
          expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
        }
      }
    },
  );
});

describeWith(['zstd'], 'damaged input: CORRUPT', () => {
  test.each([0x01, 0x80, 0xff])('any byte, xor %i', async (flip) => {
    const sample = Buffer.concat([text, noise(40)]);
    for (const packed of [pack(sample), packFile(sample, '-19')]) {
      for (let at = 0; at < packed.length; at++) {
        const bytes = withByte(packed, at, (packed[at] ?? 0) ^ flip);
        const [result] = await Promise.allSettled([decodeBytes(bytes)]);
        // a larger window, or the unused bit, changes nothing; a magic number can become that of a skippable frame
        if (result.status === 'fulfilled') {
          expect(result.value.equals(sample), `byte ${at}`).toBe(true);
        } else {
          expect(result.reason, `byte ${at}`).toBeInstanceOf(SparsecopyError);
        }
      }
    }
  });

  test.each<[string, Buffer]>([
    ['of one block', text],
    ['of many blocks', mixed],
    ['of zeros', Buffer.alloc(2 ** 20)],
    ['of nothing', Buffer.alloc(0)],
  ])('the content checksum of a frame %s is verified', async (_, sample) => {
    const packed = pack(sample);
    for (let at = packed.length - 4; at < packed.length; at++) {
      const error = await faultOf(withByte(packed, at, (packed[at] ?? 0) ^ 0x20));
      expect(error.code).toBe('CORRUPT');
      expect(error.message).toContain('checksum');
    }
  });

  test('content that differs from its checksum', async () => {
    // a raw block is copied as it is, so that nothing but the checksum can tell
    const packed = pack(noise(300_000));
    for (const at of [100, 150_000, 299_000]) {
      const error = await faultOf(withByte(packed, at, (packed[at] ?? 0) ^ 4));
      expect(error.message).toContain('checksum');
    }
  });
});

describeWith(['zstd'], 'more than one at a time', () => {
  const samples = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) =>
    Buffer.concat([
      noise(150_000 * seed, seed),
      Buffer.alloc(300_000),
      Buffer.alloc(900_000, text),
    ]),
  );
  const files = samples.map((sample, at) => pack(sample, `-${at + 1}`));

  test('many files at once', async () => {
    const decoded = await Promise.all(
      [...files, ...files, ...files].map((file) => decodeBytes(file, 5000)),
    );
    decoded.forEach((bytes, at) => {
      expect(bytes.equals(samples[at % samples.length] ?? Buffer.alloc(0))).toBe(true);
    });
  });

  test('files that are read in turns, one piece of each', async () => {
    const parts: Uint8Array[][] = files.map(() => []);
    const iterators = files.map((file) => runsOf(inPieces(file, 70_000))[Symbol.asyncIterator]());
    for (let open = iterators.length; open > 0;) {
      open = 0;
      for (const [at, iterator] of iterators.entries()) {
        const next = await iterator.next();
        if (next.done === true) continue;
        open++;
        const piece = next.value;
        parts[at]?.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
      }
    }
    samples.forEach((sample, at) =>
      expect(Buffer.concat(parts[at] ?? []).equals(sample)).toBe(true),
    );
  });

  test('a zstd file in a zstd file', async () => {
    const nested = pack(files[3] ?? Buffer.alloc(0));
    async function* inner(): AsyncGenerator<Uint8Array> {
      for await (const piece of runsOf(inPieces(nested, 1000))) {
        yield piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes;
      }
    }
    expect((await decode(inner())).equals(samples[3] ?? Buffer.alloc(0))).toBe(true);
  });

  test('while others are left half read, or fail', async () => {
    const file = files[5] ?? Buffer.alloc(0);
    const forgotten = runsOf(inPieces(file, 1000))[Symbol.asyncIterator]();
    await forgotten.next();
    const [good, bad] = await Promise.allSettled([
      decodeBytes(file, 1000),
      decodeBytes(withByte(file, 300_000, (file[300_000] ?? 0) ^ 1), 1000),
    ]);
    expect(good.status === 'fulfilled' && good.value.equals(samples[5] ?? Buffer.alloc(0))).toBe(
      true,
    );
    expect(bad.status).toBe('rejected');
  });
});

describeWith(['zstd'], 'manners', () => {
  const packed = pack(mixed, '-1');

  test('a reader that stops early closes the source', async () => {
    let closed = 0;
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        yield* inPieces(packed, 10_000);
      } finally {
        closed++;
      }
    }
    for await (const piece of runsOf(source())) {
      expect(piece.kind).toBe('data');
      break;
    }
    expect(closed).toBe(1);
  });

  test('an error of the source passes unchanged, wherever it comes', async () => {
    const pieces = Math.ceil(packed.length / 10_000);
    for (let fail = 0; fail <= pieces; fail++) {
      const problem = new Error('EIO: i/o error, read');
      async function* source(): AsyncGenerator<Uint8Array> {
        yield* inPieces(packed.subarray(0, fail * 10_000), 10_000);
        throw problem;
      }
      expect(await rejection(decode(source()))).toBe(problem);
    }
  });

  test('the source is not read ahead of what is put out', async () => {
    let read = 0;
    async function* source(): AsyncGenerator<Uint8Array> {
      for await (const piece of inPieces(packed, 1000)) {
        read += piece.length;
        yield piece;
      }
    }
    for await (const piece of runsOf(source())) {
      expect(piece.kind).toBe('data');
      break;
    }
    // eight blocks at most are decoded at once, and the first two of these are noise
    expect(read).toBeLessThan(9 * 131_072);
    expect(read).toBeLessThan(packed.length);
  });

  test('the event loop gets turns while bytes in memory are decoded', async () => {
    const counter = { turns: 0, stop: false };
    const counting = (async (): Promise<void> => {
      for (; !counter.stop; counter.turns++) await turn();
    })();
    let output = 0;
    /** Bytes put out since the last turn, and the most of them. */
    let held = 0;
    let most = 0;
    let before = 0;
    for await (const piece of runsOf(inPieces(packed, packed.length))) {
      if (counter.turns > before) held = 0;
      before = counter.turns;
      const length = piece.kind === 'zero' ? piece.length : piece.bytes.length;
      output += length;
      held += length;
      most = Math.max(most, held);
    }
    counter.stop = true;
    await counting;
    expect(output).toBe(mixed.length);
    expect(most).toBeLessThanOrEqual(2 * 2 ** 20);
  });
});

describeWith(['zstd'], 'clusters', () => {
  const cluster = Buffer.concat([
    noise(20_000, 6),
    Buffer.alloc(25_536),
    Buffer.alloc(20_000, text),
  ]);

  /**
   * What `input` decodes to, in a buffer of `length` that held something else before: a decoder goes through its first frame block by block, and
   * tries to take those after it whole.
   */
  async function decodeCluster(input: Uint8Array, length: number): Promise<Buffer> {
    const decoder = await makeZstdClusterDecoder();
    const [inBlocks, whole] = [Buffer.alloc(length, 0xaa), Buffer.alloc(length, 0xaa)];
    const errors = [inBlocks, whole].map((output) => errorOf(() => decoder(input, output)));
    expect(errors[1]).toEqual(errors[0]);
    if (errors[0] !== undefined) throw errors[0];
    expect(whole.equals(inBlocks)).toBe(true);
    return whole;
  }

  function errorOf(action: () => void): Error | undefined {
    try {
      action();
    } catch (error) {
      if (error instanceof Error) return error;
      throw error;
    }
    return undefined;
  }

  async function clusterFault(input: Uint8Array, length: number): Promise<SparsecopyError> {
    const error = await rejection(decodeCluster(input, length));
    if (error instanceof SparsecopyError) return error;
    throw error;
  }

  test.each<[string, Buffer]>([
    ['64 KiB', cluster],
    ['512 bytes', noise(512)],
    ['2 MiB', Buffer.concat([mixed, mixed]).subarray(0, 2 ** 21)],
    ['zeros', Buffer.alloc(65_536)],
  ])('%s, whatever follows in the last sector', async (_, content) => {
    const { length } = content;
    const kinds = [
      packFile(content),
      pack(content),
      pack(content, '--no-check'),
      packFile(content, '--no-check', '-19'),
    ];
    for (const packed of kinds) {
      for (const tail of [Buffer.alloc(0), Buffer.alloc(300), noise(511), packed, MAGIC]) {
        const decoded = await decodeCluster(Buffer.concat([packed, tail]), length);
        expect(decoded.equals(content)).toBe(true);
      }
    }
  });

  test('several frames, with skippable ones between them', async () => {
    const input = Buffer.concat([
      skippable(noise(5)),
      pack(cluster.subarray(0, 30_000)),
      skippable(noise(5)),
      frame(0x20, [0], block(Buffer.alloc(0), true)),
      pack(cluster.subarray(30_000)),
      noise(100),
    ]);
    expect((await decodeCluster(input, cluster.length)).equals(cluster)).toBe(true);
  });

  test('one decoder, again and again, after errors too', async () => {
    const decoder = await makeZstdClusterDecoder();
    const output = Buffer.alloc(65_536);
    for (let seed = 1; seed < 40; seed++) {
      const content = Buffer.concat([noise(seed * 1000, seed), Buffer.alloc(65_536 - seed * 1000)]);
      const packed = pack(content);
      if (seed % 3 === 0) {
        expect(() => decoder(withByte(packed, packed.length - 1, 0x55 ^ seed), output)).toThrow(
          SparsecopyError,
        );
      }
      decoder(packed, output);
      expect(output.equals(content)).toBe(true);
    }
  });

  test.each<[string, boolean, () => Buffer]>([
    ['with its size and a checksum', true, () => packFile(cluster)],
    ['with its size only', true, () => packFile(cluster, '--no-check', '-19')],
    ['with a checksum only', true, () => pack(cluster)],
    ['with neither', true, () => pack(cluster, '--no-check')],
    ['and something after it', true, () => Buffer.concat([pack(cluster), noise(300)])],
    [
      'of a repeated byte',
      true,
      () => frame(0xa0, [0, 0, 1, 0], block(Buffer.of(7), true, 1, 65_536)),
    ],
    ['of bytes as they are', true, () => frame(0, [WINDOW_1M], block(noise(65_536), true))],
    ['of another size', false, () => packFile(cluster.subarray(1))],
    ['of another size that it does not say', false, () => pack(cluster.subarray(1))],
    ['after one that is skipped', false, () => Buffer.concat([skippable(noise(5)), pack(cluster)])],
    ['that is cut', false, () => pack(cluster).subarray(0, -1)],
    ['that does not match its checksum', false, () => withByte(pack(cluster), 2000, 0x42)],
    ['with a dictionary', false, () => frame(1, [WINDOW_1M, 7], block(noise(65_536), true))],
    ['with the reserved bit', false, () => frame(8, [WINDOW_1M], block(noise(65_536), true))],
    [
      'with the reserved block type',
      false,
      () => frame(0, [WINDOW_1M], block(noise(65_536), true, 3)),
    ],
    [
      'with a block that is cut',
      false,
      () => frame(0, [WINDOW_1M], block(noise(65_535), true, 0, 65_536)),
    ],
    ['with a block larger than its window', false, () => frame(0, [0], block(noise(65_536), true))],
    ['with a window of 4 MiB', false, () => frame(0, [12 << 3], block(noise(65_536), true))],
    ['with a window of 2 TiB', false, () => frame(0, [31 << 3], block(noise(65_536), true))],
    ['that is longer than its area', false, () => Buffer.concat([pack(cluster), noise(131_072)])],
  ])('a frame %s is taken whole: %s', (_, isWhole, makeInput) => {
    const input = makeInput();
    const decoder = makeZstdDecoder();
    const output = Buffer.alloc(65_536);
    const most = 2 ** 21;
    expect(decoder.decodeWhole(input, output, most), 'before its memory is there').toBe(false);
    const place = { offset: 0 };
    decoder.start(parseFrameHeader(pack(cluster), place, defaultLimits), place);
    expect(decoder.decodeWhole(input, output, most)).toBe(isWhole);
  });

  test('cut at any byte: TRUNCATED', async () => {
    const packed = pack(cluster.subarray(45_536));
    const decoder = await makeZstdClusterDecoder();
    for (let end = 0; end < packed.length; end++) {
      let code: string | undefined;
      try {
        decoder(packed.subarray(0, end), Buffer.alloc(20_000));
      } catch (error) {
        if (error instanceof SparsecopyError) code = error.code;
      }
      expect(code, `cut at ${end}`).toBe('TRUNCATED');
    }
  });

  test('less than a cluster, and nothing after it: TRUNCATED', async () => {
    expect((await clusterFault(pack(cluster), 65_537)).code).toBe('TRUNCATED');
  });

  test.each<[string, Buffer, string]>([
    [
      'less than a cluster, and something else after it',
      Buffer.concat([pack(noise(65_535)), noise(9)]),
      'CORRUPT',
    ],
    ['more than a cluster', pack(noise(65_537)), 'CORRUPT'],
    [
      'more than a cluster, of known size',
      frame(0xa0, [1, 0, 1, 0], block(noise(65_537), true)),
      'CORRUPT',
    ],
    ['a wrong checksum', withByte(pack(cluster), pack(cluster).length - 1, 0x42), 'CORRUPT'],
    ['not zstd', noise(1000), 'CORRUPT'],
    ['a window of 2 GiB', frame(0, [21 << 3], block(noise(65_536), true)), 'LIMIT'],
    ['a dictionary', frame(1, [WINDOW_1M, 7], block(noise(65_536), true)), 'UNSUPPORTED'],
  ])('%s: refused without a name', async (_, input, code) => {
    const error = await clusterFault(input, 65_536);
    expect(error.code).toBe(code);
    expect(error.source).toBeUndefined();
    expect(error.offset).toBeTypeOf('number');
  });
});

describeWith(['zstd'], 'the decoder', () => {
  const packed = pack(mixed);
  const place = { name: 'image.zst', offset: 0 };
  const header = parseFrameHeader(packed, place, defaultLimits);
  const offsets = blockOffsets(packed);

  /** Decodes the blocks of `packed` up to number `count`, and takes what comes out in one of two ways. */
  function decodeBlocks(decoder: ZstdDecoder, count = Infinity, isInto = false): Buffer {
    const output = Buffer.alloc(mixed.length);
    let filled = 0;
    decoder.start(header, place);
    for (const [number, at] of offsets.slice(0, -1).entries()) {
      if (number >= count) break;
      const block = parseBlockHeader(packed, at, header, place);
      decoder.decode(block, packed.subarray(at + 3, at + 3 + block.length));
      if (!decoder.isFull && !block.isLast) continue;
      if (isInto) {
        const { pending } = decoder;
        decoder.takeInto(output, filled);
        filled += pending;
        continue;
      }
      for (const piece of decoder.take()) {
        if (piece.kind === 'data') output.set(piece.bytes, filled);
        filled += piece.kind === 'data' ? piece.bytes.length : piece.length;
      }
    }
    return output.subarray(0, filled);
  }

  test('decodes frames one after the other, also after one that was left', () => {
    const decoder = makeZstdDecoder();
    for (const isInto of [false, true, false]) {
      expect(decodeBlocks(decoder, Infinity, isInto).equals(mixed)).toBe(true);
      decoder.finish(packed, packed.length - 4);
      decodeBlocks(decoder, 5);
    }
  });

  test('forgets trees, tables, offsets and bytes of the frame before', async () => {
    const decoder = makeZstdDecoder();
    decodeBlocks(decoder);
    // literals with the tree before; no literals and a sequence with the tables before, or one from before the start
    const hex = ['0f200001c0000000', '0001fc0001', '00015454000001'];
    for (const bytes of hex.map((digits) => Buffer.from(digits, 'hex'))) {
      decoder.start(header, place);
      const { type, size } = { type: 2, size: bytes.length };
      expect(() => decoder.decode({ isLast: true, type, size, length: size }, bytes)).toThrow(
        SparsecopyError,
      );
      const error = await faultOf(frame(0, [WINDOW_1M], block(bytes, true, 2)));
      expect(error.code).toBe('CORRUPT');
    }
  });

  test('its memory is that of the largest window, whatever the frames are', () => {
    const decoder = makeZstdDecoder();
    const huge = { ...header, window: 128 * 2 ** 20 };
    for (let round = 0; round < 200; round++) decoder.start(huge, place);
    expect(decodeBlocks(decoder).equals(mixed)).toBe(true);
  });
});
