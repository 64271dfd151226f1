/** The lz4 codec against the lz4 command, and frame by frame against the rules of the specification. */

import { describe, expect, test } from 'vitest';
import { runLength } from '../src/codec/lz4-block.ts';
import { lz4 } from '../src/codec/lz4.ts';
import { makeXxh32 } from '../src/codec/xxh32.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import type { Limits } from '../src/limits.ts';
import type { ByteStream, Run } from '../src/types.ts';
import { inPieces, noise, rejection } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

async function runsOf(bytes: ByteStream, limits: Limits = defaultLimits): Promise<Run[]> {
  const runs: Run[] = [];
  for await (const part of lz4.decode(bytes, { name: 'image.lz4', limits })) runs.push(part);
  return runs;
}

async function decode(bytes: ByteStream, limits?: Limits): Promise<Buffer> {
  const runs = await runsOf(bytes, limits);
  return Buffer.concat(
    runs.map((part) => (part.kind === 'zero' ? new Uint8Array(part.length) : part.bytes)),
  );
}

/** Decodes `bytes` in pieces of `size`, by default in one. */
function decodeBytes(bytes: Uint8Array, size: number = bytes.length): Promise<Buffer> {
  return decode(inPieces(bytes, Math.max(1, size)));
}

function xxh32(bytes: Uint8Array): number {
  const hash = makeXxh32();
  hash.update(bytes);
  return hash.digest();
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

/** A frame header with a right header checksum; `flags` and `descriptor` are the FLG and BD bytes. */
function header(flags: number, descriptor: number, ...more: Uint8Array[]): Buffer {
  const fields = Buffer.concat([Buffer.from([flags, descriptor]), ...more]);
  const checksum = Buffer.from([(xxh32(fields) >>> 8) & 0xff]);
  return Buffer.concat([uint32(0x184d2204), fields, checksum]);
}

/** A compressed block with its size before it. */
function block(bytes: string | Uint8Array): Buffer {
  const content = typeof bytes === 'string' ? Buffer.from(bytes, 'hex') : bytes;
  return Buffer.concat([uint32(content.length), content]);
}

const END = uint32(0);
/** FLG: version 1, independent blocks, nothing else. BD: blocks of 64 KiB. */
const INDEPENDENT = 0x60;
const LINKED = 0x40;
const B4 = 0x40;

/** A frame of independent blocks of 64 KiB. */
function frame(...blocks: Uint8Array[]): Buffer {
  return Buffer.concat([header(INDEPENDENT, B4), ...blocks, END]);
}

const hello = Buffer.from('hello, hello, hello, hello, hello, hello!');
/** `hello` as one block: "hello, ", a match of 29 bytes 7 back, 5 literals. */
const helloBlock = block(
  `7f${Buffer.from('hello, ').toString('hex')}07000a50${Buffer.from('ello!').toString('hex')}`,
);

const mixed = Buffer.concat([
  noise(150_000, 3),
  Buffer.alloc(700_000),
  Buffer.from('header '.repeat(20_000)),
  Buffer.alloc(65_536),
  Buffer.from(Array.from({ length: 70_000 }, (_, at) => (at * at) >>> 9)),
  noise(1, 4),
]);

test('the magic numbers are found, behind skippable frames too', () => {
  const skippable = Buffer.concat([uint32(0x184d2a53), uint32(5), noise(5)]);
  expect(lz4.matches(frame(helloBlock))).toBe(true);
  expect(lz4.matches(uint32(0x184c2102))).toBe(true);
  expect(lz4.matches(Buffer.concat([skippable, skippable, frame(helloBlock)]))).toBe(true);
  // What zstd writes can begin so too.
  expect(lz4.matches(Buffer.concat([skippable, uint32(0xfd2fb528)]))).toBe(false);
  expect(lz4.matches(skippable)).toBe(false);
  expect(lz4.matches(uint32(0xfd2fb528))).toBe(false);
  expect(lz4.matches(Buffer.from('0422', 'hex'))).toBe(false);
  expect(lz4.matches(Buffer.alloc(0))).toBe(false);
});

describe('streams', () => {
  describeWith(['lz4'], 'what the lz4 command writes', () => {
    const options = [
      '-1',
      '-9',
      '-12',
      '-B4',
      '-B5',
      '-B6',
      '-B7',
      '-BD',
      '-B4 -BD',
      '-B4 -BD -9',
      '-BX',
      '-B4 -BD -BX',
      '--no-frame-crc',
      '-B4 --sparse -BX --no-frame-crc',
      '-l',
      '-l -9',
    ];
    const samples: Record<string, Buffer> = {
      nothing: Buffer.alloc(0),
      'one byte': noise(1),
      'twelve bytes': noise(12),
      '65535 zeros': Buffer.alloc(65_535),
      '65536 bytes': noise(65_536),
      '65537 bytes': noise(65_537),
      zeros: Buffer.alloc(9 * MiB + 5),
      'data and zeros': mixed,
    };
    test.each(options)('lz4 %s', async (option) => {
      for (const [name, sample] of Object.entries(samples)) {
        // lz4 1.9.4 itself fails on a block one byte below its maximum: ERROR_dstMaxSize_tooSmall.
        if (sample.length === 65_535 && option.includes('-B4')) continue;
        const packed = run('lz4', ['-qc', ...option.split(' ')], sample);
        for (const size of [97, 65_536, packed.length]) {
          const decoded = await decodeBytes(packed, size);
          expect(decoded.equals(sample), `${name} in pieces of ${size}`).toBe(true);
        }
      }
    });

    test.each(['-B4', '-B4 -BD -BX', '-l'])('lz4 %s byte by byte', async (option) => {
      const sample = Buffer.concat([mixed.subarray(800_000), noise(20_000)]);
      const packed = run('lz4', ['-qc', ...option.split(' ')], sample);
      expect((await decodeBytes(packed, 1)).equals(sample)).toBe(true);
    });

    test('lz4 --content-size', async () => {
      const packed = run(
        'sh',
        ['-c', 'f=$(mktemp) && cat >$f && lz4 -qc --content-size $f; rm $f'],
        mixed,
      );
      expect((packed[4] ?? 0) & 0x08).toBe(0x08);
      expect((await decodeBytes(packed)).equals(mixed)).toBe(true);
    });

    test('lz4 -B7 with data between zeros: the zeros in a block come out as zero runs', async () => {
      const sample = Buffer.concat([
        noise(100_000, 2),
        Buffer.alloc(MiB),
        noise(3 * MiB, 3),
        Buffer.alloc(300_000),
      ]);
      for (const option of ['-B7', '-B7 -BD', '-l']) {
        const packed = run('lz4', ['-qc', ...option.split(' ')], sample);
        const runs = await runsOf(inPieces(packed, 100_000));
        const zeros = runs.reduce((sum, part) => sum + (part.kind === 'zero' ? part.length : 0), 0);
        expect(zeros, option).toBeGreaterThan(MiB - 2 * 65_536);
        expect((await decodeBytes(packed)).equals(sample), option).toBe(true);
      }
    });

    test('streams of all kinds one after another, one decoder for all', async () => {
      const skippable = Buffer.concat([uint32(0x184d2a5a), uint32(70_000), noise(70_000)]);
      const parts: Buffer[] = [];
      for (const option of [
        '-B7',
        '-B4 -BD',
        '-B5 -BX',
        '-B4 -BD -BX --no-frame-crc',
        '-l',
        '-9',
      ]) {
        parts.push(run('lz4', ['-qc', ...option.split(' ')], mixed), skippable);
      }
      const all = Buffer.concat(parts);
      const expected = Buffer.concat(Array.from({ length: parts.length / 2 }, () => mixed));
      for (const size of [1013, 65_536, all.length]) {
        expect((await decodeBytes(all, size)).equals(expected), `pieces of ${size}`).toBe(true);
      }
    });

    test('linked blocks of zeros among data', async () => {
      // Stretches of every kind, some of which begin and end inside blocks.
      const stretches = Array.from({ length: 60 }, (_, at) =>
        at % 2 === 0
          ? Buffer.alloc(1 + ((at * 37_633) % 400_000))
          : noise(1 + ((at * 9973) % 90_000), at),
      );
      const sample = Buffer.concat(stretches);
      for (const option of ['-B4 -BD', '-B4 -BD -9', '-B5 -BD -BX', '-B6 -BD', '-B4']) {
        const packed = run('lz4', ['-qc', ...option.split(' ')], sample);
        expect((await decodeBytes(packed, 50_021)).equals(sample), option).toBe(true);
      }
    });

    test('cut at every byte of a small stream', async () => {
      const packed = run('lz4', ['-qc', '-BX'], hello);
      for (let length = 0; length < packed.length; length++) {
        const error = await rejection(decodeBytes(packed.subarray(0, length), 1 + (length % 5)));
        expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED' });
      }
    });

    test.each(['-B4', '-B4 -BX', '-B4 -BD', '-B4 --no-frame-crc'])(
      'lz4 %s cut before, in and behind each block',
      async (option) => {
        const packed = run('lz4', ['-qc', ...option.split(' ')], mixed);
        const trailer = option.includes('BX') ? 4 : 0;
        let blocks = 0;
        for (let at = 7; packed.readUInt32LE(at) !== 0; blocks++) {
          const length = packed.readUInt32LE(at) & 0x7fffffff;
          for (const cut of [at, at + 3, at + 4, at + 4 + (length >> 1), at + 4 + length]) {
            const error = await rejection(decodeBytes(packed.subarray(0, cut), 10_007));
            expect(error, `${cut} bytes`).toMatchObject({ code: 'TRUNCATED', source: 'image.lz4' });
          }
          at += 4 + length + trailer;
        }
        expect(blocks).toBeGreaterThan(15);
      },
    );

    test.each(['-1', '-BX', '-BD', '-l'])('lz4 %s with every byte flipped', async (option) => {
      const sample = Buffer.concat([hello, noise(30), Buffer.alloc(300), hello]);
      const packed = run('lz4', ['-qc', option], sample);
      for (let at = 0; at < packed.length; at++) {
        for (const mask of [0x01, 0x10, 0x80, 0xff]) {
          const damaged = Buffer.from(packed);
          damaged[at] = (damaged[at] ?? 0) ^ mask;
          try {
            const decoded = await decodeBytes(damaged);
            // A legacy frame has no checksum, so only its structure can show damage.
            if (option !== '-l') expect(decoded.equals(sample), `byte ${at}`).toBe(true);
          } catch (error) {
            if (!(error instanceof SparsecopyError)) throw error;
            expect(['CORRUPT', 'TRUNCATED', 'UNSUPPORTED']).toContain(error.code);
          }
        }
      }
    });

    test('the end of a legacy frame', async () => {
      const packed = run('lz4', ['-qcl'], hello);
      for (let length = 5; length < packed.length; length++) {
        const error = await rejection(decodeBytes(packed.subarray(0, length)));
        expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED' });
      }
      const both = Buffer.concat([packed, packed, frame(helloBlock), packed]);
      expect((await decodeBytes(both, 3)).toString()).toBe(hello.toString().repeat(4));
      const garbage = Buffer.concat([packed, Buffer.from('garbage!')]);
      expect(await rejection(decodeBytes(garbage))).toMatchObject({ code: 'CORRUPT' });
    });

    test('zeros come out as zero runs, and their blocks are not decoded again', async () => {
      const sample = Buffer.concat([noise(65_536), Buffer.alloc(10 * 65_536), noise(65_536)]);
      for (const option of ['-B4', '-B4 -BD', '-B4 -BX']) {
        const runs = await runsOf(
          inPieces(run('lz4', ['-qc', ...option.split(' ')], sample), 5000),
        );
        expect(runs.map((part) => part.kind)).toEqual([
          'data',
          ...Array<string>(10).fill('zero'),
          'data',
        ]);
        expect(runs.map(runLength)).toEqual(Array(12).fill(65_536));
      }
    });
  });

  test('a frame made by hand', async () => {
    expect((await decodeBytes(frame(helloBlock))).toString()).toBe(hello.toString());
    expect((await decodeBytes(frame(helloBlock, helloBlock), 1)).length).toBe(2 * hello.length);
  });

  describe('a block that breaks the rules is CORRUPT', () => {
    const cases: Record<string, [string, RegExp]> = {
      'offset 0': ['1041000050' + '4141414141', /offset 0/],
      'an offset before the first byte': ['1041020050' + '4141414141', /offset 2 after 1 bytes/],
      'literals beyond the input': ['504141', /past its end/],
      'a literal length beyond the input': ['f0ffff', /inside a length/],
      'a match length beyond the input': ['1f410100ffffffffffffff', /inside a length/],
      'more than the block maximum': [
        `1f410100${'ff'.repeat(300)}00504141414141`,
        /more than 65536 bytes/,
      ],
      'literals beyond the block maximum': [
        `f0${'ff'.repeat(300)}00${'41'.repeat(20)}`,
        /more than 65536/,
      ],
      'a match at the end': ['10410100', /does not end with 5 literals/],
      'too few last literals': ['1041010040' + '41414141', /does not end with 5 literals/],
      nothing: ['', /token/],
    };
    test.each(Object.entries(cases))('%s', async (_name, [bytes, message]) => {
      // An empty block has size 0, which is the end mark; so it is tried in a legacy frame.
      const input =
        bytes === ''
          ? Buffer.concat([uint32(0x184c2102), uint32(0)])
          : frame(helloBlock, block(bytes));
      const error = await rejection(decodeBytes(input));
      expect(error).toMatchObject({ code: 'CORRUPT', source: 'image.lz4' });
      expect(error.message).toMatch(message);
    });

    test('the same, linked', async () => {
      for (const [name, [bytes]] of Object.entries(cases)) {
        if (bytes === '') continue;
        const input = Buffer.concat([header(LINKED, B4), block(bytes), END]);
        expect(await rejection(decodeBytes(input)), name).toMatchObject({ code: 'CORRUPT' });
      }
    });
  });

  test('a linked block reaches into the blocks before, not before its frame', async () => {
    // 1 literal, then a match of 4 bytes at the offset of the whole of `hello` and that literal.
    const reaching = block(`1040${(hello.length + 1).toString(16)}0050${'41'.repeat(5)}`);
    const linked = Buffer.concat([header(LINKED, B4), helloBlock, reaching, END]);
    expect((await decodeBytes(linked)).toString()).toBe(`${hello.toString()}@hellAAAAA`);
    const stored = Buffer.concat([uint32(0x80000000 + hello.length), hello]);
    const behindStored = Buffer.concat([header(LINKED, B4), stored, reaching, END]);
    expect((await decodeBytes(behindStored)).toString()).toBe(`${hello.toString()}@hellAAAAA`);
    const independent = frame(helloBlock, reaching);
    expect(await rejection(decodeBytes(independent))).toMatchObject({ code: 'CORRUPT' });
    const nextFrame = Buffer.concat([frame(helloBlock), header(LINKED, B4), reaching, END]);
    expect(await rejection(decodeBytes(nextFrame))).toMatchObject({ code: 'CORRUPT' });
  });

  test('a block size beyond the block maximum is CORRUPT, before any of it is read', async () => {
    for (const word of [65_537, 0x7fffffff, 0x80010001, 0xffffffff]) {
      const error = await rejection(
        decodeBytes(Buffer.concat([header(INDEPENDENT, B4), uint32(word)])),
      );
      expect(error).toMatchObject({ code: 'CORRUPT', offset: 7, expected: 65_536 });
    }
  });

  test('the consumer may write to what it gets', async () => {
    const reaching = block(`1040${(hello.length + 1).toString(16)}0050${'41'.repeat(5)}`);
    const linked = Buffer.concat([header(LINKED, B4), helloBlock, reaching, END]);
    const parts: Buffer[] = [];
    for await (const part of lz4.decode(inPieces(linked, 10), {
      name: 'x',
      limits: defaultLimits,
    })) {
      if (part.kind !== 'data') continue;
      parts.push(Buffer.from(part.bytes));
      part.bytes.fill(0);
    }
    expect(Buffer.concat(parts).toString()).toBe(`${hello.toString()}@hellAAAAA`);
  });
});

describe('frame header', () => {
  const content = (value: bigint): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    return bytes;
  };
  const rest = Buffer.concat([helloBlock, END]);
  const whole = (head: Buffer): Buffer => Buffer.concat([head, rest]);
  const withSize = (value: bigint): Buffer => header(INDEPENDENT | 0x08, B4, content(value));

  test('content size is verified', async () => {
    const size = BigInt(hello.length);
    expect((await decodeBytes(whole(withSize(size)))).equals(hello)).toBe(true);
    for (const wrong of [size - 1n, size + 1n, 0n]) {
      const error = await rejection(decodeBytes(whole(withSize(wrong))));
      expect(error).toMatchObject({
        code: 'CORRUPT',
        expected: Number(wrong),
        found: hello.length,
      });
    }
  });

  test('a content size beyond the largest disk is a LIMIT at once', async () => {
    for (const size of [2n ** 63n, 2n ** 64n - 1n, BigInt(defaultLimits.virtualSize) + 1n]) {
      const error = await rejection(decodeBytes(withSize(size)));
      expect(error).toMatchObject({ code: 'LIMIT', limit: 'virtualSize' });
    }
  });

  const refused: [string, Buffer, string][] = [
    ['a dictionary', header(INDEPENDENT | 0x01, B4, uint32(0x1234)), 'UNSUPPORTED'],
    ['version 2', header(0xa0, B4), 'UNSUPPORTED'],
    ['version 0', header(0x20, B4), 'UNSUPPORTED'],
    ['the reserved bit of FLG', header(INDEPENDENT | 0x02, B4), 'CORRUPT'],
    ['bit 7 of BD', header(INDEPENDENT, B4 | 0x80), 'CORRUPT'],
    ['a low bit of BD', header(INDEPENDENT, B4 | 0x01), 'CORRUPT'],
    ['a reserved block maximum size', header(INDEPENDENT, 0x30), 'CORRUPT'],
  ];
  test.each(refused)('%s is refused', async (_name, head, code) => {
    expect(await rejection(decodeBytes(whole(head)))).toMatchObject({
      code,
      offset: expect.any(Number) as number,
    });
  });

  test('its checksum is verified', async () => {
    const bytes = whole(header(INDEPENDENT, B4));
    bytes[6] = (bytes[6] ?? 0) ^ 1;
    expect(await rejection(decodeBytes(bytes))).toMatchObject({ code: 'CORRUPT', offset: 6 });
  });
});

describe('checksums', () => {
  test('of a block', async () => {
    const packed = helloBlock.subarray(4);
    const head = header(INDEPENDENT | 0x10, B4);
    const good = Buffer.concat([head, helloBlock, uint32(xxh32(packed)), END]);
    expect((await decodeBytes(good)).equals(hello)).toBe(true);
    const bad = Buffer.concat([head, helloBlock, uint32(xxh32(packed) ^ 1), END]);
    const error = await rejection(decodeBytes(bad));
    expect(error).toMatchObject({ code: 'CORRUPT', offset: head.length + helloBlock.length });
  });

  test('of the content, zeros included', async () => {
    const head = header(INDEPENDENT | 0x04, B4);
    const zeros = Buffer.concat([uint32(0x80000000 + 1000), Buffer.alloc(1000)]);
    const sum = xxh32(Buffer.concat([hello, Buffer.alloc(1000), hello]));
    const body = Buffer.concat([head, helloBlock, zeros, helloBlock, END]);
    const good = Buffer.concat([body, uint32(sum)]);
    expect((await decodeBytes(good)).length).toBe(2 * hello.length + 1000);
    const bad = Buffer.concat([body, uint32(sum ^ 0x80)]);
    expect(await rejection(decodeBytes(bad))).toMatchObject({
      code: 'CORRUPT',
      offset: body.length,
    });
    expect(await rejection(decodeBytes(body))).toMatchObject({ code: 'TRUNCATED' });
  });
});

describe('between and behind frames', () => {
  const one = frame(helloBlock);
  const skippable = Buffer.concat([uint32(0x184d2a5f), uint32(300), noise(300)]);

  test('frames follow one another, skippable ones are skipped', async () => {
    const bytes = Buffer.concat([skippable, one, skippable, skippable, one, skippable]);
    for (const size of [1, 97, bytes.length]) {
      expect((await decodeBytes(bytes, size)).toString()).toBe(hello.toString().repeat(2));
    }
  });

  test.each(['A', 'AB', 'ABC', 'ABCD', 'garbage behind the frame', '\0', '\0\0\0\0'])(
    'garbage %j is CORRUPT',
    async (garbage) => {
      const bytes = Buffer.concat([one, Buffer.from(garbage)]);
      for (const size of [1, bytes.length]) {
        const error = await rejection(decodeBytes(bytes, size));
        expect(error).toMatchObject({ code: 'CORRUPT', offset: one.length });
        expect(error.message).toMatch(/garbage/);
      }
    },
  );

  test('a second frame that is cut is TRUNCATED, in its magic number too', async () => {
    const legacy = Buffer.concat([uint32(0x184c2102), helloBlock]);
    for (const next of [one, skippable, legacy]) {
      for (let length = 1; length < Math.min(next.length, 40); length++) {
        // Nothing follows: as a legacy frame that is whole.
        if (next === legacy && length === 4) continue;
        const error = await rejection(decodeBytes(Buffer.concat([one, next.subarray(0, length)])));
        expect(error, `${length} bytes`).toMatchObject({ code: 'TRUNCATED' });
      }
    }
  });

  test('input that is no LZ4 is CORRUPT', async () => {
    expect(await rejection(decodeBytes(noise(100)))).toMatchObject({ code: 'CORRUPT', offset: 0 });
  });
});

describe('what holds nothing', () => {
  const limits = { ...defaultLimits, emptyMembers: 100 };
  const times = (count: number, bytes: Uint8Array): Buffer =>
    Buffer.concat(Array.from({ length: count }, () => bytes));
  const skippable = Buffer.concat([uint32(0x184d2a50), uint32(0)]);
  const emptyBlock = block('00');
  const emptyStored = uint32(0x80000000);

  test.each([
    ['frames', times(101, frame())],
    ['skippable frames', times(101, skippable)],
    ['blocks', frame(times(101, emptyBlock))],
    ['uncompressed blocks', frame(times(101, emptyStored))],
  ])('too many %s in a row are a LIMIT', async (_name, bytes) => {
    const error = await rejection(decode(inPieces(bytes, bytes.length), limits));
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'emptyMembers' });
  });

  test('content counts anew', async () => {
    const some = [
      times(60, skippable),
      frame(times(30, emptyBlock), helloBlock, times(60, emptyStored)),
    ];
    const bytes = Buffer.concat([...some, times(30, frame())]);
    expect((await decode(inPieces(bytes, 1000), limits)).equals(hello)).toBe(true);
  });
});

describe('source and consumer', () => {
  const packed = frame(...Array.from({ length: 30 }, () => helloBlock));

  test('an error of the source passes as it came', async () => {
    const failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    for (const length of [0, 3, 9, 40, packed.length]) {
      const failing = async function* (): AsyncGenerator<Uint8Array> {
        yield* inPieces(packed.subarray(0, length), 16);
        throw failure;
      };
      expect(await rejection(decode(failing()))).toBe(failure);
    }
  });

  test.each([1, 3])('a consumer that stops after run %i closes the source', async (count) => {
    let closed = false;
    const source = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* inPieces(packed, 16);
      } finally {
        closed = true;
      }
    };
    let runs = 0;
    for await (const part of lz4.decode(source(), { name: 'x', limits: defaultLimits })) {
      expect(runLength(part)).toBe(hello.length);
      if (++runs === count) break;
    }
    expect(closed).toBe(true);
  });

  test('an error closes the source', async () => {
    let closed = false;
    const source = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* inPieces(Buffer.concat([frame(helloBlock), noise(1000)]), 16);
      } finally {
        closed = true;
      }
    };
    expect(await rejection(decode(source()))).toMatchObject({ code: 'CORRUPT' });
    expect(closed).toBe(true);
  });
});
