/** The inside of LZ4 blocks: our decoder against the plain one, on blocks that are right and on blocks that are not. */

import { describe, expect, test } from 'vitest';
import { makeBlockDecoder } from '../src/codec/lz4-block.ts';
import type { Lz4BlockDecoder, Lz4BlockFault } from '../src/codec/lz4-block.ts';
import { makeLz4Module, PAGE } from '../src/codec/lz4-module.ts';
import { noise } from './helpers.ts';
import { referenceDecode } from './lz4-reference.ts';
import { describeWith, run } from './tools.ts';

const hello = Buffer.from('hello, hello, hello, hello, hello, hello!');

/** The content of the last block of `decoder`. */
function contentOf(decoder: Lz4BlockDecoder): Buffer {
  const parts = decoder
    .runs()
    .map((part) => (part.kind === 'zero' ? new Uint8Array(part.length) : part.bytes));
  return Buffer.concat(parts);
}

function decodeWith(decoder: Lz4BlockDecoder, block: Uint8Array): Buffer | Lz4BlockFault {
  decoder.input(block.length).set(block);
  return decoder.decode() ?? contentOf(decoder);
}

function rules(maximum: number, linked = false): Parameters<Lz4BlockDecoder['begin']>[0] {
  return { maximum, stored: 65_536, linked, checksum: false };
}

/** A length behind its four bits in the token. */
function extra(value: number): number[] {
  if (value < 15) return [];
  return [...Array<number>(Math.floor((value - 15) / 255)).fill(255), (value - 15) % 255];
}

/** One sequence: `literals`, then a match. */
function sequence(literals: Uint8Array, offset: number, length: number): number[] {
  return [
    (Math.min(15, literals.length) << 4) | Math.min(15, length - 4),
    ...extra(literals.length),
    ...literals,
    offset & 255,
    offset >> 8,
    ...extra(length - 4),
  ];
}

/** The last sequence: literals alone. */
function last(literals: Uint8Array): number[] {
  return [Math.min(15, literals.length) << 4, ...extra(literals.length), ...literals];
}

/** Numbers that look random and are the same on each run. */
function makeRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A block of sequences of all kinds that is right, for `history` bytes before it. */
function makeBlock(random: (below: number) => number, history: number): Buffer {
  const bytes: number[] = [];
  const lengths = [0, 0, 1, 3, 8, 14, 15, 16, 31, 33, 100, 269, 270, 300, 700];
  const matches = [4, 5, 8, 17, 18, 19, 20, 35, 64, 200, 273, 274, 280, 600, 2000];
  let content = 0;
  for (let count = random(12); count > 0; count--) {
    const literals = noise(lengths[random(lengths.length)] ?? 0, 1 + random(1000));
    content += literals.length;
    if (content + history === 0) continue;
    const reach = Math.min(65_535, content + history);
    const offset = 1 + random(random(2) === 0 ? Math.min(20, reach) : reach);
    const length = matches[random(matches.length)] ?? 4;
    bytes.push(...sequence(literals, offset, length));
    content += length;
  }
  return Buffer.from([...bytes, ...last(noise(5 + random(30), 1 + random(1000)))]);
}

test('every offset and length of a match, far from the end of the block and near it', () => {
  const decoder = makeBlockDecoder();
  for (const tail of [5, 80]) {
    for (let offset = 1; offset <= 70; offset++) {
      for (const length of [4, 5, 8, 9, 17, 18, 19, 20, 33, 51, 52, 53, 130, 300, 511, 516, 900]) {
        const literals = noise(offset, offset);
        const end = noise(tail, 99);
        const block = Buffer.from([...sequence(literals, offset, length), ...last(end)]);
        const expected = [...literals];
        for (let at = 0; at < length; at++) expected.push(expected[at] ?? 0);
        expected.push(...end);
        decoder.begin(rules(65_536));
        const decoded = decodeWith(decoder, block);
        expect(decoded, `offset ${offset}, length ${length}`).toEqual(Buffer.from(expected));
      }
    }
  }
});

test('a block that holds its maximum exactly, and one byte less room', () => {
  const random = makeRandom(11);
  const decoder = makeBlockDecoder();
  for (let round = 0; round < 400; round++) {
    const block = makeBlock(random, 0);
    const expected = referenceDecode(block, Buffer.alloc(0), 1 << 20);
    if ('fault' in expected) throw new Error(expected.fault);
    const length = expected.bytes.length;
    decoder.begin(rules(length));
    expect(decodeWith(decoder, block)).toEqual(expected.bytes);
    decoder.begin(rules(length - 1));
    expect(decodeWith(decoder, block)).toEqual(referenceDecode(block, Buffer.alloc(0), length - 1));
  }
});

test('a maximum that ends in any place of short sequences', () => {
  const decoder = makeBlockDecoder();
  const longest = sequence(noise(14, 3), 8, 18);
  const block = Buffer.from([...longest, ...longest, ...longest, ...last(noise(40, 4))]);
  for (let maximum = 1; maximum <= 140; maximum++) {
    const expected = referenceDecode(block, Buffer.alloc(0), maximum);
    decoder.begin(rules(maximum));
    expect(decodeWith(decoder, block), `maximum ${maximum}`).toEqual(
      'fault' in expected ? expected : expected.bytes,
    );
  }
});

describe('mutants of blocks', () => {
  /** Decodes `block` behind `history` by the module, in memory that must stay as it is around what it may use. */
  function makeGuarded(): (block: Buffer, history: Buffer, maximum: number) => void {
    const module = makeLz4Module(8 * PAGE);
    const memory = Buffer.from(module.memory.buffer);
    const own = Buffer.from(memory.subarray(0, PAGE));
    return (block, history, maximum) => {
      memory.fill(0xa5, PAGE);
      const output = 4 * PAGE;
      block.copy(memory, PAGE);
      history.copy(memory, output - history.length);
      const length = module.decode(PAGE, block.length, output, history.length, maximum);
      const expected = referenceDecode(block, history, maximum);
      if ('fault' in expected) expect(length).toBe(-1);
      else expect(memory.subarray(output, output + length).equals(expected.bytes)).toBe(true);
      const behind = output + maximum + 64;
      expect(memory.subarray(PAGE, PAGE + block.length).equals(block)).toBe(true);
      expect(memory.subarray(output - history.length, output).equals(history)).toBe(true);
      for (const [from, to] of [
        [PAGE + block.length, output - history.length],
        [behind, memory.length],
      ] as const) {
        expect(memory.subarray(from, to).equals(Buffer.alloc(to - from, 0xa5))).toBe(true);
      }
      // The numbers of a fault lie outside of the memory.
      expect(memory.subarray(0, PAGE).equals(own)).toBe(true);
    };
  }

  test.each([1, 2, 3, 4])('seed %i: the same bytes, or the same fault', (seed) => {
    const random = makeRandom(seed);
    const guarded = makeGuarded();
    const decoder = makeBlockDecoder();
    let passed = 0;
    const rounds = 1500;
    for (let round = 0; round < rounds; round++) {
      const history = noise([0, 0, 7, 300, 5000][random(5)] ?? 0, 1 + random(9));
      const intact = makeBlock(random, history.length);
      const block = Buffer.from(
        intact.subarray(0, random(3) === 0 ? random(intact.length + 1) : intact.length),
      );
      for (let change = random(4); change > 0 && block.length > 0; change--) {
        const value = [0, 0x0f, 0xf0, 0xff, 1, random(256)][random(6)] ?? 0;
        block[random(block.length)] = value;
      }
      const maximum = [100, 1000, 20_000][random(3)] ?? 100;
      guarded(block, history, maximum);
      const expected = referenceDecode(block, history, maximum);
      decoder.begin({
        maximum: Math.max(maximum, history.length),
        stored: 65_536,
        linked: true,
        checksum: false,
      });
      decoder.input(history.length).set(history);
      decoder.store();
      const decoded = decodeWith(decoder, block);
      if (maximum >= history.length) {
        expect(decoded, `round ${round}`).toEqual('fault' in expected ? expected : expected.bytes);
      }
      if (!('fault' in expected)) passed++;
    }
    // Both outcomes must have been tried often.
    expect(passed).toBeGreaterThan(rounds / 10);
    expect(passed).toBeLessThan(rounds - rounds / 10);
  });

  describeWith(['lz4'], 'of what lz4 -9 writes', () => {
    test('the same bytes, or the same fault', () => {
      const original = Buffer.concat([hello, hello, noise(40), Buffer.alloc(400), hello]);
      const packed = run('lz4', ['-qc', '-9', '--no-frame-crc'], original);
      const intact = packed.subarray(11, 11 + packed.readUInt32LE(7));
      const random = makeRandom(9);
      const guarded = makeGuarded();
      for (let round = 0; round < 1500; round++) {
        const block = Buffer.from(
          intact.subarray(0, intact.length - (round % 3 === 0 ? random(20) : 0)),
        );
        for (let change = 0; change < 1 + (round % 4); change++) {
          block[random(block.length)] = random(256);
        }
        guarded(block, Buffer.alloc(0), 4096);
      }
    });
  });
});

test('lengths that go beyond 32 bits are refused', () => {
  const decoder = makeBlockDecoder();
  const maximum = 8 * 2 ** 20;
  const long = Buffer.alloc(maximum, 255);
  long[0] = 0xf0;
  for (const match of [false, true]) {
    const block = match ? Buffer.concat([Buffer.from([0x1f, 65, 1, 0]), long.subarray(1)]) : long;
    block[block.length - 7] = 3;
    decoder.begin({ maximum, stored: block.length, linked: false, checksum: false });
    expect(decodeWith(decoder, block)).toMatchObject({
      fault: `decodes to more than ${maximum} bytes`,
    });
  }
});

test('64 KiB of history are kept over many linked blocks', () => {
  const decoder = makeBlockDecoder();
  decoder.begin(rules(65_536, true));
  const content: Buffer[] = [];
  for (let round = 0; round < 60; round++) {
    const stored = noise(5000 + 317 * round, round + 1);
    decoder.input(stored.length).set(stored);
    decoder.store();
    expect(contentOf(decoder).equals(stored)).toBe(true);
    content.push(stored);
    const all = Buffer.concat(content);
    const offset = Math.min(65_535, all.length);
    const from = all.length - offset;
    // A match of 4 bytes at the largest offset, without a literal before it; 5 literals.
    const packed = Buffer.from([0x00, offset & 255, offset >> 8, 0x50, 1, 2, 3, 4, 5]);
    const expected = Buffer.concat([all.subarray(from, from + 4), Buffer.from([1, 2, 3, 4, 5])]);
    expect(decodeWith(decoder, packed)).toEqual(expected);
    content.push(expected);
  }
});

describe('a block that equals one of zeros', () => {
  /** 65,536 zeros, all of them out of the history; as zeros only when that holds zeros. */
  const reaching = Buffer.from([...sequence(Buffer.alloc(0), 1, 65_531), ...last(Buffer.alloc(5))]);
  const one = Buffer.from([...sequence(Buffer.from([0]), 1, 65_530), ...last(Buffer.alloc(5))]);

  function feed(decoder: Lz4BlockDecoder, block: Buffer): string {
    const decoded = decodeWith(decoder, block);
    if (!Buffer.isBuffer(decoded)) return decoded.fault;
    expect(decoded.length).toBe(65_536);
    return decoded.every((byte) => byte === 0) ? 'zeros' : 'data';
  }

  test('is zeros again where blocks are independent', () => {
    const decoder = makeBlockDecoder();
    decoder.begin(rules(65_536));
    expect(feed(decoder, one)).toBe('zeros');
    decoder.input(3).set([1, 2, 3]);
    decoder.store();
    expect(feed(decoder, one)).toBe('zeros');
    expect(decoder.runs()).toEqual([{ kind: 'zero', length: 65_536 }]);
  });

  test('is not where the bytes it repeats are others now', () => {
    const decoder = makeBlockDecoder();
    decoder.begin(rules(65_536, true));
    expect(feed(decoder, one)).toBe('zeros');
    for (let count = 0; count < 4; count++) expect(feed(decoder, reaching)).toBe('zeros');
    decoder.input(3).set([1, 2, 3]);
    decoder.store();
    // It repeats the 3.
    expect(feed(decoder, reaching)).toBe('data');
    expect(feed(decoder, one)).toBe('zeros');
    for (let count = 0; count < 20; count++) expect(feed(decoder, reaching)).toBe('zeros');
    decoder.input(1).set([9]);
    decoder.store();
    expect(feed(decoder, reaching)).toBe('data');
  });

  test('is not in the next frame, which has no history', () => {
    const decoder = makeBlockDecoder();
    decoder.begin(rules(65_536, true));
    feed(decoder, one);
    for (let count = 0; count < 4; count++) expect(feed(decoder, reaching)).toBe('zeros');
    decoder.begin(rules(65_536, true));
    expect(feed(decoder, reaching)).toMatch(/offset 1 after 0 bytes/);
  });
});
