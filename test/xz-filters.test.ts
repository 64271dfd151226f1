/** What stands before LZMA2 in a chain of filters, against the xz command, and against vectors where it is too old. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { filterMaker } from '../src/codec/xz-filter.ts';
import type { Filter } from '../src/codec/xz-filter.ts';
import type { Run } from '../src/types.ts';
import { noise } from './helpers.ts';
import { describeWith, run } from './tools.ts';
import { bytesOf, decodeXz, faultOfXz, withBlockHeader } from './xz-helpers.ts';

/** Machine code of this computer, and what looks like machine code of others. */
const code = readFileSync(process.execPath).subarray(20_000_000, 20_300_000);

/** Words in which every instruction that a filter knows is frequent. */
function mixedCode(length: number): Buffer {
  const bytes = noise(length, 77);
  const starts = [
    [0xe8, 0, 0, 0, 0],
    [0xe9, 1, 2, 3, 0xff],
    [0xe8, 0xe8, 0, 0xe9, 0xff],
    [0x48, 1, 2, 1],
    [0x12, 0x34, 0x56, 0xeb],
    [0x12, 0xf0, 0x34, 0xf8],
    [0x40, 1, 2, 3],
    [0x7f, 0xc0, 2, 3],
    [1, 2, 3, 0x94],
    [0x05, 2, 0x10, 0x90],
    [0x05, 2, 0xf0, 0xf0],
    [0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0x50],
    [0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0x50],
  ];
  for (let at = 0; at + 16 <= length; at += 16) {
    const start = starts[(at / 16) % (starts.length + 3)];
    if (start !== undefined)
      for (const [i, byte] of start.entries()) bytes[at + i] = byte || at >> 8;
  }
  return bytes;
}

/** Zeros between code, at places that fit no instruction, and long enough to become runs. */
const sample = Buffer.concat([
  code,
  Buffer.alloc(20_001),
  mixedCode(60_000),
  Buffer.alloc(70_002),
  Buffer.from([0xe8]),
  Buffer.alloc(5003),
  Buffer.from([0xe8, 1, 2]),
]);

const architectures = ['x86', 'powerpc', 'ia64', 'arm', 'armthumb', 'sparc', 'arm64'];

const chains: string[][] = [
  ...architectures.map((name) => [`--${name}`]),
  ...architectures.map((name) => [`--${name}=start=4080`]),
  ['--x86=start=4294967280'],
  ['--arm64=start=4294901760'],
  ...[1, 2, 3, 4, 7, 255, 256].map((distance) => [`--delta=dist=${distance}`]),
  ['--delta=dist=4', '--x86'],
  ['--x86', '--delta=dist=4'],
  ['--arm', '--delta=dist=1', '--powerpc'],
  ['--delta=dist=3', '--delta=dist=1', '--delta=dist=2'],
];

describeWith(['xz'], 'what the xz command writes', () => {
  test.each(chains)('%s %s %s', async (...options) => {
    const filters = options.filter((option) => typeof option === 'string');
    const packed = run('xz', ['-c', ...filters, '--lzma2=preset=0'], sample);
    for (const size of [1009, packed.length]) {
      expect((await bytesOf(decodeXz(packed, size))).equals(sample), `pieces of ${size}`).toBe(
        true,
      );
    }
  });

  test('in several blocks, each begins anew', async () => {
    const packed = run(
      'xz',
      ['-c', '--block-size=70001', '--x86', '--delta=dist=2', '--lzma2=preset=0'],
      sample,
    );
    expect((await bytesOf(decodeXz(packed))).equals(sample)).toBe(true);
  });

  test.each([0, 1, 3, 4, 5, 7, 8, 15, 16, 17])('%i bytes', async (length) => {
    for (const filter of architectures) {
      const short = Buffer.from('e8000000ffe9000000000000000000e800', 'hex').subarray(0, length);
      const packed = run('xz', ['-c', `--${filter}`, '--lzma2=preset=0'], short);
      expect((await bytesOf(decodeXz(packed))).equals(short), filter).toBe(true);
    }
  });

  test('long zeros stay runs that nobody made', async () => {
    for (const filter of architectures) {
      const zeros = Buffer.alloc(2 ** 20);
      const packed = run('xz', ['-c', `--${filter}`, '--lzma2=preset=0'], zeros);
      let found = 0;
      for await (const piece of decodeXz(packed)) if (piece.kind === 'zero') found += piece.length;
      expect(found, filter).toBeGreaterThan(2 ** 20 - 100);
    }
  });

  test.each([
    ['two bytes of delta properties', '--delta=dist=1', 3, 2],
    ['one byte of BCJ properties', '--x86', 3, 1],
    ['properties longer than the header', '--x86', 3, 0x7f],
  ])('%s: CORRUPT', async (_, filter, at, value) => {
    const packed = run('xz', ['-c', filter, '--lzma2=preset=0'], sample);
    expect((await faultOfXz(withBlockHeader(packed, at, value))).code).toBe('CORRUPT');
  });

  test('a start offset between two instructions: CORRUPT', async () => {
    const packed = run('xz', ['-c', '--ia64=start=16', '--lzma2=preset=0'], sample);
    expect((await faultOfXz(withBlockHeader(packed, 4, 8))).code).toBe('CORRUPT');
  });
});

describe('one filter by itself', () => {
  const place = ['block header at 12', { source: 'image.xz', offset: 12 }] as const;
  const make = (id: number, ...properties: number[]): Filter => {
    const found = filterMaker({ id, properties: Uint8Array.from(properties) }, ...place)?.();
    if (found === undefined) throw new Error(`no filter ${id}`);
    return found;
  };
  const through = (filter: Filter, runs: Run[]): Buffer =>
    Buffer.concat(
      [...runs.flatMap((piece) => [...filter.push(piece)]), ...filter.end()].map((piece) =>
        piece.kind === 'zero' ? Buffer.alloc(piece.length) : piece.bytes,
      ),
    );
  const bytes = mixedCode(20_000);

  // ids of section 5.4
  test.each([3, 4, 5, 6, 7, 8, 9, 10, 11])(
    '%i: the same for bytes in any parts, and for zeros',
    (id) => {
      const properties = id === 3 ? [2] : [];
      const input = Buffer.concat([bytes, Buffer.alloc(9001), bytes.subarray(0, 5001)]);
      const whole = through(make(id, ...properties), [{ kind: 'data', bytes: Buffer.from(input) }]);
      expect(whole.length).toBe(input.length);
      expect(whole.equals(input)).toBe(false);
      for (const size of [1, 3, 16, 1000]) {
        const runs: Run[] = [];
        for (let at = 0; at < input.length; at += size) {
          runs.push({ kind: 'data', bytes: Buffer.from(input.subarray(at, at + size)) });
        }
        expect(through(make(id, ...properties), runs).equals(whole), `parts of ${size}`).toBe(true);
      }
      const apart = through(make(id, ...properties), [
        { kind: 'data', bytes: Buffer.from(bytes) },
        { kind: 'zero', length: 9001 },
        { kind: 'data', bytes: Buffer.from(bytes.subarray(0, 5001)) },
      ]);
      expect(apart.equals(whole)).toBe(true);
    },
  );

  test('an id that is not defined', () => {
    expect(filterMaker({ id: 0x0c, properties: new Uint8Array(0) }, ...place)).toBe(undefined);
  });
});

test('RISC-V, as liblzma 5.8 writes it (start offset 4096): xz 5.4 does not know the filter', async () => {
  const packed = [
    '/Td6WFoAAATm1rRGBMGQAYwBCwQAEAAAIQEWANiBH14BAIsX9chbAYChxhcxGVANRk3tF3GWKIsz',
    '68KXIoxHk46xYxdxJgjMEec+F3E2CAB0X4SXsJ4qA4UBipfA4/ATjxFiF/B2XKOCgUNv0SVN7+KR',
    'kllPWk4/0ddQFzEJKHj4T15vhY5bb4AAAG9hAADvMiyVFzEZKPSGr09a8DKDOkB7u/qWvUvvAgfS',
    '78A6VwCxf5v+Gwsj9gABrAGMAQAATE+mNrHEZ/sCAAAAAARZWg==',
  ].join('');
  const content = [
    'F/XIWwGAocYXRUYNkwFV3pfiM4tniSK7lyKMR5OOsWOX0BHMZ4LgcZdQdABng8D1l7CeKgOFAYqX',
    'wOPwE48RYhfwdlyjgoFDb9ElTe8Sja1ZT1pOP9HXUJdC+HiTgGLwb4WOW2+AAABvYQAA70L2C5ei',
    'hvSTgfLtWvAygzpAe7v6lr1L7/If8u/AOlc=',
  ].join('');
  const decoded = await bytesOf(decodeXz(Buffer.from(packed, 'base64')));
  expect(decoded.toString('base64')).toBe(content);
});
