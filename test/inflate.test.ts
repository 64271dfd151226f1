/** The deflate decoder against node:zlib: the same bytes, and an error where zlib has one. */

import { readFileSync } from 'node:fs';
import {
  constants,
  createInflateRaw,
  deflateRawSync,
  inflateRawSync,
  type ZlibOptions,
} from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { makeInflater } from '../src/codec/inflate.ts';
import { isSparsecopyError } from '../src/errors.ts';
import { noise } from './helpers.ts';

const inflater = makeInflater();

/** Numbers from 0 to `below`, the same on each run (mulberry32). */
function makeRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** `size` bytes, or why there are none: the stream is `broken`, or `ends` after so many bytes. */
type Verdict = Buffer | 'broken' | `ends ${number}`;

function ours(input: Uint8Array, size: number): Verdict {
  const output = Buffer.alloc(size, 0x5a);
  try {
    inflater.inflate(input, output);
    return output;
  } catch (error) {
    if (!isSparsecopyError(error, 'CORRUPT')) throw error;
    if (!output.equals(Buffer.alloc(size, 0x5a))) expect.fail('an error, and bytes');
    if (error.message.startsWith('deflate stream is broken: ')) return 'broken';
    expect(error.message).toBe(
      `deflate stream ends after ${error.found as number} bytes, expected ${size}`,
    );
    expect(error).toMatchObject({ expected: size });
    return `ends ${error.found as number}`;
  }
}

/** What a zlib stream of Node is underneath. */
interface Stream {
  readonly _handle: { writeSync(...call: unknown[]): void; onerror(): void };
  readonly _writeState: Uint32Array;
  close(): void;
}

/**
 * What zlib itself says when it has room for `size` bytes and no more. When there is no room any more it goes on to what puts out nothing,
 * and what is wrong there does not count: all of the bytes are there when they do not depend on what was there before.
 */
function theirs(input: Uint8Array, size: number): Verdict {
  const once = attempt(input, size, 0);
  if (!once.failed) return once.left === 0 ? once.output : `ends ${size - once.left}`;
  return once.output.equals(attempt(input, size, 0xff).output) ? once.output : 'broken';
}

function attempt(
  input: Uint8Array,
  size: number,
  before: number,
): { output: Buffer; left: number; failed: boolean } {
  const stream = createInflateRaw() as unknown as Stream;
  const output = Buffer.alloc(size, before);
  let failed = false;
  stream._handle.onerror = (): void => {
    failed = true;
  };
  stream._handle.writeSync(constants.Z_SYNC_FLUSH, input, 0, input.length, output, 0, size);
  const left = stream._writeState[0] ?? size;
  stream.close();
  return { output, left, failed };
}

function expectSame(input: Uint8Array, size: number): void {
  const wanted = theirs(input, size);
  const found = ours(input, size);
  if (typeof wanted === 'string' || typeof found === 'string') {
    if (found !== wanted) expect(found).toBe(wanted);
  } else if (!found.equals(wanted))
    expect.fail(`other bytes than zlib: ${Buffer.from(input).toString('hex').slice(0, 4000)}`);
}

const program = readFileSync(process.execPath).subarray(0, 4 * 1024 * 1024);
const text = readFileSync(new URL('../ARCHITECTURE.md', import.meta.url));

function periodic(size: number, period: number): Buffer {
  const pattern = noise(period, period);
  return Buffer.alloc(size, pattern);
}

const samples: [string, Buffer][] = [
  ['zeros', Buffer.alloc(65_536)],
  ['noise', noise(65_536)],
  ['text', Buffer.alloc(65_536, text)],
  ['a program', program.subarray(1024 * 1024, 1024 * 1024 + 65_536)],
  ['the start of a program', program.subarray(0, 65_536)],
  [
    'half zeros',
    Buffer.concat([noise(100), Buffer.alloc(30_000), noise(3000), Buffer.alloc(32_436)]),
  ],
  ['far matches', Buffer.concat([noise(32_768), noise(32_768)])],
  ['few symbols', Buffer.from(noise(65_536).map((byte) => byte & 3))],
  [
    'skewed symbols',
    Buffer.from(noise(65_536).map((byte, at) => (at % 7 === 0 ? byte : Math.clz32(byte << 20)))),
  ],
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 31, 33, 300].map(
    (period): [string, Buffer] => [
      `period ${period}`,
      Buffer.concat([periodic(5000, period), noise(20), periodic(3000, period)]),
    ],
  ),
];

const ways: [string, ZlibOptions][] = [
  ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((level): [string, ZlibOptions] => [
    `level ${level}`,
    { level },
  ]),
  ['fixed', { strategy: constants.Z_FIXED }],
  ['Huffman only', { strategy: constants.Z_HUFFMAN_ONLY }],
  ['rle', { strategy: constants.Z_RLE }],
  ['filtered', { strategy: constants.Z_FILTERED }],
  ['a window of 9 bits', { windowBits: 9 }],
  ['a window of 12 bits, as in qcow2', { windowBits: 12, memLevel: 9 }],
  ['little memory, so many blocks', { memLevel: 1 }],
];

describe.each(ways)('%s', (_way, options) => {
  test.each(samples)('%s', (_what, data) => {
    const packed = deflateRawSync(data, options);
    for (const size of [data.length, data.length + 1, data.length - 1, data.length >> 1, 1, 0])
      expectSame(packed, size);
    expectSame(Buffer.concat([packed, noise(100)]), data.length);
    const open = deflateRawSync(data, { ...options, finishFlush: constants.Z_SYNC_FLUSH });
    expectSame(open, data.length);
    expectSame(Buffer.concat([open, open]), data.length + 4000);
  });
});

/** Small streams of all kinds. */
function smallStreams(): Buffer[] {
  const streams: Buffer[] = [];
  for (const [, options] of ways) {
    streams.push(deflateRawSync(program.subarray(700_000, 700_700), options));
    streams.push(
      deflateRawSync(
        Buffer.concat([text.subarray(0, 400), Buffer.alloc(300), periodic(200, 3)]),
        options,
      ),
    );
  }
  streams.push(
    deflateRawSync(noise(300)),
    deflateRawSync(Buffer.alloc(0)),
    deflateRawSync(Buffer.alloc(2000)),
  );
  return streams;
}

describe('small streams', () => {
  test('every length of the output, and more', () => {
    for (const packed of smallStreams()) {
      const { length } = inflateRawSync(packed);
      for (let size = 0; size <= length + 5; size++) expectSame(packed, size);
    }
  });

  test('the input cut at each byte', () => {
    for (const packed of smallStreams()) {
      const { length } = inflateRawSync(packed);
      for (let end = 0; end <= packed.length; end++) expectSame(packed.subarray(0, end), length);
    }
  });

  test('one bit is other', () => {
    for (const packed of smallStreams()) {
      const { length } = inflateRawSync(packed);
      for (let bit = 0; bit < 8 * Math.min(packed.length, 80); bit++) {
        const mutant = Buffer.from(packed);
        mutant[bit >> 3] = (mutant[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        expectSame(mutant, length);
      }
    }
  });
});

test('mutants of larger streams', () => {
  const random = makeRandom(1);
  const bases = ways.flatMap(([, options]) =>
    [program.subarray(2_000_000, 2_008_000), text.subarray(0, 8000)].map((data) =>
      deflateRawSync(data, options),
    ),
  );
  for (let turn = 0; turn < 5000; turn++) {
    const mutant = Buffer.from(bases[turn % bases.length] ?? []);
    for (let changes = 1 + random(3); changes > 0; changes--) {
      // what is at the start matters most
      const at = random(random(2) === 0 ? 100 : mutant.length);
      mutant[at] = random(3) === 0 ? random(256) : (mutant[at] ?? 0) ^ (1 << random(8));
    }
    expectSame(
      random(4) === 0 ? mutant.subarray(0, random(mutant.length)) : mutant,
      1 + random(10_000),
    );
  }
});

test('noise as a stream', () => {
  const random = makeRandom(2);
  for (let turn = 0; turn < 6000; turn++) {
    const input = noise(1 + random(300), turn + 1);
    // noise has no zero bytes
    for (let zeros = random(4); zeros > 0; zeros--) input[random(input.length)] = 0;
    // mostly a block with codes of its own
    if (random(4) !== 0) input[0] = ((input[0] ?? 0) & ~6) | 4;
    expectSame(input, 1 + random(2000));
  }
});

/** `value` in `length` bits, the lowest first. */
function number(value: number, length: number): string {
  return Array.from({ length }, (_, at) => (value >>> at) & 1).join('');
}

/** Bits, lowest first, of `[value, length]`; codes come as strings, first bit first. */
function bits(...parts: (readonly [value: number, length: number] | string)[]): Buffer {
  const text = parts
    .map((part) => (typeof part === 'string' ? part : number(part[0], part[1])))
    .join('');
  const bytes = Buffer.alloc(Math.ceil(text.length / 8));
  for (let at = 0; at < text.length; at++)
    if (text[at] === '1') bytes[at >> 3] = (bytes[at >> 3] ?? 0) | (1 << (at & 7));
  return bytes;
}

/** The header of a block with codes of these lengths: all of them written as they are, in codes of 4 bits (5 for repetitions). */
function header(literals: readonly number[], distances: readonly number[]): string {
  const order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
  const lengths = [...literals, ...distances];
  return [
    number(5, 3), // the last block, dynamic
    number(literals.length - 257, 5),
    number(distances.length - 1, 5),
    number(15, 4),
    ...order.map((symbol) => number(symbol < 16 ? 4 : 0, 3)),
    ...lengths.map((length) => length.toString(2).padStart(4, '0')),
  ].join('');
}

/** Code lengths of `count` symbols, 0 but for some. */
function lengthsOf(count: number, some: Readonly<Record<number, number>>): number[] {
  return Array.from({ length: count }, (_, symbol) => some[symbol] ?? 0);
}

describe('codes of a block', () => {
  const ends = { 0x41: 1, 256: 2, 257: 2 };
  test.each<[string, Buffer, 'broken' | 'fine']>([
    [
      'one distance of 1 bit',
      bits(header(lengthsOf(258, ends), [1]), '0', '11', '0', '10'),
      'fine',
    ],
    [
      'one distance of 1 bit, and the other one',
      bits(header(lengthsOf(258, ends), [1]), '0', '11', '1', '10', [0, 32]),
      'broken',
    ],
    [
      'one distance of 2 bits',
      bits(header(lengthsOf(258, ends), [2]), '0', '11', '00', '10'),
      'broken',
    ],
    [
      'three distances of 2 bits',
      bits(header(lengthsOf(258, ends), [2, 2, 2]), '0', '11', '00', '10'),
      'broken',
    ],
    [
      'three distances of 1 bit',
      bits(header(lengthsOf(258, ends), [1, 1, 1]), '0', '11', '0', '10'),
      'broken',
    ],
    [
      'no distances, and none asked for',
      bits(header(lengthsOf(258, ends), [0]), '0', '0', '0', '0', '10'),
      'fine',
    ],
    [
      'no distances, and one asked for',
      bits(header(lengthsOf(258, ends), [0]), '0', '11', '0', '10', [0, 32]),
      'broken',
    ],
    [
      'too few literals',
      bits(header(lengthsOf(257, { 0x41: 2, 256: 2 }), [1]), '00', '01', [0, 32]),
      'broken',
    ],
    [
      'too many literals',
      bits(header(lengthsOf(257, { 1: 1, 2: 1, 256: 1 }), [1]), '0', [0, 32]),
      'broken',
    ],
    ['no end', bits(header(lengthsOf(257, { 1: 1, 2: 1 }), [1]), '0', '1', [0, 32]), 'broken'],
    [
      'nothing but an end of 1 bit',
      bits(header(lengthsOf(257, { 256: 1 }), [0]), '1', [0, 32]),
      'broken',
    ],
    [
      '30 distances',
      bits(header(lengthsOf(258, ends), lengthsOf(30, { 0: 1, 29: 1 })), '0', '11', '0', '10'),
      'fine',
    ],
    [
      '31 distances',
      bits(header(lengthsOf(258, ends), lengthsOf(31, { 0: 1, 29: 1 })), '0', '11', '0', '10'),
      'broken',
    ],
    ['287 literals', bits(header(lengthsOf(287, ends), [1]), '0', '11', '0', '10'), 'broken'],
    [
      'distance 30 of the fixed code',
      bits('110', '01110001', '0000001', '01111', [0, 32]),
      'broken',
    ],
    ['length 286 of the fixed code', bits('110', '01110001', '11000110', [0, 32]), 'broken'],
    ['a type of block that is none', bits('111', [0, 32]), 'broken'],
    ['a stored block with other lengths', Buffer.from([1, 4, 0, 0xfb, 0xfe, 1, 2, 3, 4]), 'broken'],
    ['a stored block', Buffer.from([1, 4, 0, 0xfb, 0xff, 1, 2, 3, 4]), 'fine'],
  ])('%s', (_what, input, wanted) => {
    expect(theirs(input, 4) === 'broken' ? 'broken' : 'fine').toBe(wanted);
    expectSame(input, 4);
    // far from its end, too
    expectSame(Buffer.concat([input, Buffer.alloc(100)]), 4);
  });

  test('codes of 15 bits', () => {
    const literals: Record<number, number> = { 256: 15, 257: 15 };
    for (let length = 1; length < 15; length++) literals[0x40 + length] = length;
    const distances = lengthsOf(16, {});
    for (let at = 0; at < 16; at++) distances[at] = Math.min(at + 1, 15);
    const code = (length: number): string => '1'.repeat(length - 1) + '0';
    const all = Array.from({ length: 14 }, (_, at) => code(at + 1)).join('');
    const end = '1'.repeat(14) + '0';
    const match = '1'.repeat(15);
    const far = '1'.repeat(15) + '000000'; // distance 193
    const head = header(lengthsOf(258, literals), distances);
    const input = bits(head, all.repeat(15), match, far, match, code(14) + '000000', all, end);
    expect(theirs(input, 15 * 14 + 3 + 3 + 14)).toBeInstanceOf(Buffer);
    for (let size = 1; size < 240; size++) expectSame(input, size);
    for (let cut = 0; cut < input.length; cut++) expectSame(input.subarray(0, cut), 230);
  });
});

test('empty stored blocks end with the input', () => {
  const empty = Buffer.alloc(5 * 20_000, Buffer.from([0, 0, 0, 0xff, 0xff]));
  expectSame(empty, 10);
  expectSame(Buffer.concat([empty, deflateRawSync(Buffer.from('at last'))]), 7);
});

test('large and small in turns', () => {
  for (const size of [512, 2 * 1024 * 1024, 4096, 3 * 1024 * 1024, 1]) {
    const data = program.subarray(0, size);
    const packed = deflateRawSync(data, { level: 1 });
    const found = ours(packed, size);
    expect(data.equals(found as Buffer)).toBe(true);
    expect(ours(packed.subarray(0, packed.length >> 1), size)).toMatch(/^ends /);
    expect(ours(noise(2 * size, 3), size + 300)).toBeTypeOf('string');
  }
});
