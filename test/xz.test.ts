/** The xz codec against the xz command, and against files that are cut, damaged, padded or read in turns. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { makeCrc64 } from '../src/codec/xz-crc64.ts';
import { xz } from '../src/codec/xz.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import type { Limits } from '../src/limits.ts';
import type { ByteStream, Run } from '../src/types.ts';
import { inPieces, noise, rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

function runsOf(bytes: ByteStream, limits: Limits = defaultLimits): AsyncIterable<Run> {
  return xz.decode(bytes, { name: 'image.xz', limits });
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

/** `bytes` with the CRC32 of the range from `start` to `end` stored at `at`, as the format has it after an edit. */
function withCrc32(bytes: Buffer, start: number, end: number, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt32LE(crc32(copy.subarray(start, end)), at);
  return copy;
}

/** Length of a stream header and of a footer, and where the first block header starts. */
const HEADER = 12;

/** `bytes` with `value` at `at` of the first block header, and a CRC32 to match. */
function withBlockHeaderByte(bytes: Buffer, at: number, value: number): Buffer {
  const end = HEADER + ((bytes[HEADER] ?? 0) + 1) * 4 - 4;
  return withCrc32(withByte(bytes, HEADER + at, value), HEADER, end, end);
}

const pack = (bytes: Uint8Array, ...options: string[]): Buffer =>
  run('xz', ['-c', ...(options.length > 0 ? options : ['-1'])], bytes);

const text = Buffer.from('sparse images are mostly zeros; '.repeat(20));
const mixed = Buffer.concat([
  noise(200_000, 3),
  Buffer.alloc(2_700_000),
  Buffer.from('header '.repeat(90_000)),
  Buffer.alloc(65_536),
  noise(1, 4),
]);

test('the magic bytes are found, and nothing else', () => {
  expect(xz.matches(Buffer.from('fd377a585a000004', 'hex'))).toBe(true);
  expect(xz.matches(Buffer.from('fd377a585a', 'hex'))).toBe(false);
  expect(xz.matches(Buffer.alloc(0))).toBe(false);
  expect(xz.matches(Buffer.from('1f8b08000000', 'hex'))).toBe(false);
});

describe('CRC-64/XZ', () => {
  test('has its published check value', () => {
    const crc = makeCrc64();
    crc.update(Buffer.from('123456789'));
    expect(crc.digest()).toEqual([0xdf1939fa, 0x995dc9bb]);
  });

  test('is the same for bytes in any parts, and for zeros that nobody made', () => {
    const bytes = Buffer.concat([
      noise(1000, 9),
      Buffer.alloc(70_000),
      noise(77, 5),
      Buffer.alloc(3),
    ]);
    const whole = makeCrc64();
    whole.update(bytes);
    for (const size of [1, 7, 8, 9, 64, 4097]) {
      const parts = makeCrc64();
      for (let at = 0; at < bytes.length; at += size) parts.update(bytes.subarray(at, at + size));
      expect(parts.digest()).toEqual(whole.digest());
    }
    const zeros = makeCrc64();
    zeros.update(bytes.subarray(0, 1000));
    zeros.updateZeros(69_999);
    zeros.updateZeros(1);
    zeros.update(bytes.subarray(71_000, 71_077));
    zeros.updateZeros(3);
    expect(zeros.digest()).toEqual(whole.digest());
  });
});

describeWith(['xz'], 'what the xz command writes', () => {
  const samples: Record<string, Buffer> = {
    nothing: Buffer.alloc(0),
    'one byte': noise(1),
    'one zero': Buffer.alloc(1),
    '65535 bytes': noise(65_535),
    '65536 bytes': noise(65_536),
    '65537 bytes': noise(65_537),
    '3 MiB of zeros': Buffer.alloc(3 * 2 ** 20),
    '2 MiB and one byte of text': Buffer.alloc(2 ** 21 + 1, text),
    'data and zeros': mixed,
  };
  async function check(sample: Buffer, ...options: string[]): Promise<void> {
    const packed = pack(sample, ...options);
    for (const size of [97, 65_536, packed.length]) {
      expect((await decodeBytes(packed, size)).equals(sample)).toBe(true);
    }
  }

  test.each(Object.entries(samples))('%s', async (_, sample) => {
    await check(sample, '-1');
    await check(sample, '-0', '--check=crc32', '-T2', '--block-size=65536');
  });

  test.each([
    '-0',
    '-6',
    '-9e',
    '--check=none',
    '--check=crc32',
    '--check=crc64',
    '--check=sha256',
    '-T2 --block-size=100000',
    '--lzma2=preset=1,lc=0,lp=4,pb=4',
    '--lzma2=preset=0,dict=4KiB,mode=fast,nice=273',
  ])('data and zeros with %s', async (options) => {
    await check(mixed, ...options.split(' '));
  });

  test('byte by byte', async () => {
    const sample = Buffer.concat([text, Buffer.alloc(100_000), noise(3000)]);
    const packed = pack(sample, '-1', '-T2', '--block-size=30000');
    expect((await decodeBytes(packed, 1)).equals(sample)).toBe(true);
  });

  test('streams that follow each other, with other checks and dictionaries, and padding', async () => {
    const packed = Buffer.concat([
      pack(text, '-0', '--check=crc32'),
      pack(Buffer.alloc(0)),
      Buffer.alloc(8),
      pack(mixed, '-6', '--check=none'),
      pack(noise(100), '--lzma2=preset=0,dict=4KiB'),
      Buffer.alloc(4000),
    ]);
    const expected = Buffer.concat([text, mixed, noise(100)]);
    for (const size of [1000, packed.length]) {
      expect((await decodeBytes(packed, size)).equals(expected)).toBe(true);
    }
  });

  test('zeros come as runs that nobody made', async () => {
    let zeros = 0;
    for await (const piece of runsOf(inPieces(pack(Buffer.alloc(2 ** 20)), 4096))) {
      expect(piece.kind).toBe('zero');
      if (piece.kind === 'zero') zeros += piece.length;
    }
    expect(zeros).toBe(2 ** 20);
  });
});

describeWith(['xz'], 'what is refused', () => {
  const small = pack(text);

  test.each([
    ['an unknown check', 7, 0x02],
    ['a reserved stream flag', 7, 0x14],
    ['a reserved null byte', 6, 0x01],
  ])('%s: UNSUPPORTED', async (_, at, value) => {
    const error = await faultOf(withCrc32(withByte(small, at, value), 6, 8, 8));
    expect(error.code).toBe('UNSUPPORTED');
  });

  // a block header as xz writes it: size, flags, filter id, length of properties, dictionary, padding of 3, CRC32
  test.each([
    ['a reserved block flag', 1, 0x04, 'UNSUPPORTED'],
    ['an unknown filter', 2, 0x22, 'UNSUPPORTED'],
    ['a filter that is not LZMA2 as the last', 2, 0x03, 'CORRUPT'],
    ['two bytes of properties', 3, 2, 'CORRUPT'],
    ['properties longer than the header', 3, 0x7f, 'CORRUPT'],
    ['an undefined dictionary', 4, 41, 'CORRUPT'],
    ['a dictionary of 192 MiB', 4, 31, 'LIMIT'],
    ['a dictionary of 4 GiB', 4, 40, 'LIMIT'],
    ['padding that is not zero', 7, 1, 'UNSUPPORTED'],
    ['LZMA2 as the first of two filters', 1, 1, 'CORRUPT'],
  ])('%s', async (_, at, value, code) => {
    expect((await faultOf(withBlockHeaderByte(small, at, value))).code).toBe(code);
  });

  test('the limit alone decides how large a dictionary may be', async () => {
    const large = withBlockHeaderByte(small, 4, 30);
    expect((await decodeBytes(large)).equals(text)).toBe(true);
    const error = await faultOf(large, { ...defaultLimits, decoderWindow: 2 ** 27 - 1 });
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'decoderWindow', found: 2 ** 27 });
    const unlimited = { ...defaultLimits, decoderWindow: Infinity };
    const largest = withBlockHeaderByte(small, 4, 40);
    expect((await decode(inPieces(largest, 4096), unlimited)).equals(text)).toBe(true);
  });

  test('an empty input, and less than the magic bytes: TRUNCATED', async () => {
    expect((await faultOf(Buffer.alloc(0))).code).toBe('TRUNCATED');
    expect((await faultOf(small.subarray(0, 3))).code).toBe('TRUNCATED');
  });

  test.each([
    ['garbage', Buffer.from('garbage!')],
    ['one byte', Buffer.from('x')],
    ['3 zeros', Buffer.alloc(3)],
    ['5 zeros', Buffer.alloc(5)],
    ['garbage after padding', Buffer.from('\0\0\0\0x')],
    ['a stream after 2 zeros', Buffer.concat([Buffer.alloc(2), small])],
  ])('%s after the last stream: CORRUPT', async (_, tail) => {
    expect((await faultOf(Buffer.concat([small, tail]))).code).toBe('CORRUPT');
  });

  test('something else: CORRUPT', async () => {
    expect((await faultOf(noise(1000))).code).toBe('CORRUPT');
    expect((await faultOf(Buffer.concat([Buffer.alloc(4), small]))).code).toBe('CORRUPT');
  });

  test('too many empty streams: LIMIT', async () => {
    const limits = { ...defaultLimits, emptyMembers: 3 };
    const empty = pack(Buffer.alloc(0));
    const three = Buffer.concat([empty, empty, empty]);
    const full = Buffer.concat([three, small, three, small]);
    expect((await decode(inPieces(full, 1000), limits)).length).toBe(2 * text.length);
    const error = await faultOf(Buffer.concat([three, empty]), limits);
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'emptyMembers' });
  });
});

describeWith(['xz'], 'cut input: TRUNCATED', () => {
  test('at each byte', async () => {
    const packed = pack(Buffer.concat([text, noise(40)]), '-0', '-T2', '--block-size=400');
    for (let end = 0; end < packed.length; end++) {
      expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
    }
  });

  test('in the second of two streams', async () => {
    const first = pack(text, '-0');
    const packed = Buffer.concat([first, first]);
    expect((await decodeBytes(packed.subarray(0, first.length))).equals(text)).toBe(true);
    for (let end = first.length + 1; end < packed.length; end++) {
      expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
    }
  });

  test('at the ends of all blocks, and near them', async () => {
    const path = join(tempDir(), 'image.xz');
    const packed = pack(mixed, '-0', '-T2', '--block-size=200000');
    writeFileSync(path, packed);
    // columns: "block", stream, block in stream, block in file, offset in compressed file, offset in content, ...
    const blocks = run('xz', ['--robot', '-lvv', path])
      .toString()
      .split('\n')
      .filter((line) => line.startsWith('block\t'))
      .map((line) => Number(line.split('\t')[4]));
    expect(blocks.length).toBeGreaterThan(10);
    for (const offset of blocks) {
      for (const end of [offset - 1, offset, offset + 1]) {
        expect((await faultOf(packed.subarray(0, end))).code, `cut at ${end}`).toBe('TRUNCATED');
      }
    }
  });
});

describeWith(['xz'], 'damaged input: CORRUPT', () => {
  test.each([
    ['crc32', 0x01],
    ['crc64', 0x80],
    ['crc64', 0xff],
    ['sha256', 0x20],
  ])('any byte, with %s, xor %i', async (check, flip) => {
    const sample = Buffer.concat([text, noise(40)]);
    const packed = pack(sample, '-0', `--check=${check}`, '-T2', '--block-size=600');
    for (let at = 0; at < packed.length; at++) {
      const bytes = withByte(packed, at, (packed[at] ?? 0) ^ flip);
      const [result] = await Promise.allSettled([decodeBytes(bytes)]);
      // the first byte of LZMA data has no meaning: then what comes out is what went in
      if (result.status === 'fulfilled')
        expect(result.value.equals(sample), `byte ${at}`).toBe(true);
      else expect(result.reason, `byte ${at}`).toBeInstanceOf(SparsecopyError);
    }
  });

  test.each([
    ['none', 0],
    ['crc32', 4],
    ['crc64', 8],
    ['sha-256', 32],
  ])('the check %s is verified, for data and for zeros', async (check, length) => {
    for (const sample of [noise(70_000), Buffer.alloc(70_000)]) {
      const packed = pack(sample, '-0', `--check=${check.replace('-', '')}`);
      // from the end: footer of 12, index of 12: indicator, count, sizes of 4 and 3 or 1 and 3 bytes, padding, CRC32
      const backward = (packed.readUInt32LE(packed.length - 8) + 1) * 4;
      const end = packed.length - HEADER - backward;
      for (let at = end - length; at < end; at++) {
        const error = await faultOf(withByte(packed, at, (packed[at] ?? 0) ^ 0x10));
        expect(error.code).toBe('CORRUPT');
        expect(error.message).toContain(check.toUpperCase());
      }
    }
  });

  test('an index with other sizes, other padding or another count', async () => {
    const packed = pack(text, '-0', '--check=none');
    const footer = packed.length - HEADER;
    const index = footer - (packed.readUInt32LE(footer + 4) + 1) * 4;
    // indicator, count, unpadded size of one byte, uncompressed size of two
    for (const [at, value] of [
      [index + 1, 2],
      [index + 1, 0],
      [index + 2, (packed[index + 2] ?? 0) + 1],
      [index + 3, (packed[index + 3] ?? 0) ^ 1],
      [footer - 5, 1],
    ] as const) {
      const error = await faultOf(
        withCrc32(withByte(packed, at, value), index, footer - 4, footer - 4),
      );
      expect(error.code, `byte ${at}`).toBe('CORRUPT');
      expect(error.message).toContain('index');
    }
  });

  test('an index of more blocks than there are is not read', async () => {
    const packed = pack(text, '-0', '--check=none');
    const index = packed.length - HEADER - (packed.readUInt32LE(packed.length - 8) + 1) * 4;
    const count = Buffer.from([...Array<number>(7).fill(0xff), 0x7f]);
    const error = await faultOf(
      Buffer.concat([packed.subarray(0, index + 1), count, Buffer.alloc(100_000, 1)]),
    );
    expect(error).toMatchObject({ code: 'CORRUPT', offset: index });
  });

  test('a footer with another index size or other flags', async () => {
    const packed = pack(text, '-0');
    const footer = packed.length - HEADER;
    for (const at of [4, 9]) {
      const edited = withByte(packed, footer + at, (packed[footer + at] ?? 0) ^ 1);
      const error = await faultOf(withCrc32(edited, footer + 4, footer + 10, footer));
      expect(error.code).toBe('CORRUPT');
      expect(error.message).toContain('stream footer');
    }
  });

  test('a block header with other sizes than its block', async () => {
    // xz -T stores both sizes: flags 0xc0, then two integers
    const packed = pack(text, '-0', '-T2', '--block-size=10000');
    expect(packed[HEADER + 1]).toBe(0xc0);
    for (const at of [2, 3, 4]) {
      const edited = withBlockHeaderByte(packed, at, (packed[HEADER + at] ?? 0) ^ 1);
      expect((await faultOf(edited)).code, `byte ${at}`).toBe('CORRUPT');
    }
  });
});

describeWith(['xz'], 'more than one at a time', () => {
  const samples = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) =>
    Buffer.concat([
      noise(150_000 * seed, seed),
      Buffer.alloc(300_000),
      Buffer.alloc(500_000, text),
    ]),
  );
  const files = samples.map((sample, at) => pack(sample, `-${at % 7}`));

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

  test('an xz file in an xz file', async () => {
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

describeWith(['xz'], 'manners', () => {
  const packed = pack(mixed, '-0');

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
      if (piece.kind === 'data') held += length;
      most = Math.max(most, held);
    }
    counter.stop = true;
    await counting;
    expect(output).toBe(mixed.length);
    expect(most).toBeLessThanOrEqual(128 * 1024);
  });
});
