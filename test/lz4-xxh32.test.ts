/** XXH32 against the plain algorithm, however the bytes come. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeBlockDecoder } from '../src/codec/lz4-block.ts';
import { makeXxh32 } from '../src/codec/xxh32.ts';
import { noise } from './helpers.ts';
import { referenceXxh32 } from './lz4-reference.ts';

function xxh32(bytes: Uint8Array): number {
  const hash = makeXxh32();
  hash.update(bytes);
  return hash.digest();
}

test('of known inputs', () => {
  // From the xxHash specification's reference implementation, seed 0.
  const known: [string, number][] = [
    ['', 0x02cc5d05],
    ['a', 0x550d7456],
    ['abc', 0x32d153ff],
    ['Nobody inspects the spammish repetition', 0xe2293b2f],
  ];
  for (const [text, hash] of known) {
    expect(xxh32(Buffer.from(text))).toBe(hash);
    expect(referenceXxh32(Buffer.from(text))).toBe(hash);
  }
});

test('of every length up to 300, from any place in memory', () => {
  const bytes = noise(320, 7);
  for (let length = 0; length <= 300; length++) {
    const part = bytes.subarray(length % 17, (length % 17) + length);
    expect(xxh32(part), `${length} bytes`).toBe(referenceXxh32(part));
  }
});

test('in parts, and over zeros that nobody made', () => {
  for (let length = 0; length < 70; length++) {
    for (let zeros = 0; zeros < 70; zeros += 3) {
      const before = noise(length, 5);
      const after = noise(70 - length, 6);
      const parts = makeXxh32();
      parts.update(before.subarray(0, length >> 1));
      parts.update(before.subarray(length >> 1));
      parts.updateZeros(zeros);
      parts.update(after);
      expect(parts.digest()).toBe(xxh32(Buffer.concat([before, Buffer.alloc(zeros), after])));
    }
  }
});

test('any parts, several hashes at a time', () => {
  const part = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    fc.nat({ max: 200 }).map((length) => ({ zeros: length })),
    fc.constantFrom({ zeros: 65_536 }, { zeros: 65_551 }),
  );
  fc.assert(
    fc.property(
      fc.array(part, { maxLength: 12 }),
      fc.uint8Array({ maxLength: 50 }),
      (parts, other) => {
        const hash = makeXxh32();
        const disturbing = makeXxh32();
        for (const one of parts) {
          if ('zeros' in one) hash.updateZeros(one.zeros);
          else hash.update(one);
          disturbing.update(other);
          disturbing.digest();
        }
        const all = Buffer.concat(
          parts.map((one) => ('zeros' in one ? Buffer.alloc(one.zeros) : one)),
        );
        expect(hash.digest()).toBe(xxh32(all));
        // The plain one is slow.
        if (all.length < 5000) expect(hash.digest()).toBe(referenceXxh32(all));
      },
    ),
    { numRuns: 400, seed: 32 },
  );
});

test('parts larger than what goes into the module at a time', () => {
  const bytes = noise(300_001, 8);
  expect(xxh32(bytes)).toBe(referenceXxh32(bytes));
  const hash = makeXxh32();
  for (const [from, to] of [
    [0, 65_537],
    [65_537, 131_072],
    [131_072, 300_001],
  ]) {
    hash.update(bytes.subarray(from, to));
  }
  expect(hash.digest()).toBe(xxh32(bytes));
});

test('more zeros than 32 bits count', () => {
  const [once, twice] = [makeXxh32(), makeXxh32()];
  once.update(Buffer.from('x'));
  once.updateZeros(2 ** 32 + 21);
  twice.update(Buffer.from('x'));
  for (let count = 0; count < 4; count++) twice.updateZeros(2 ** 30);
  twice.updateZeros(21);
  expect(once.digest()).toBe(twice.digest());
});

test('digest does not end it', () => {
  const bytes = noise(41, 3);
  const hash = makeXxh32();
  hash.update(bytes.subarray(0, 20));
  hash.digest();
  hash.update(bytes.subarray(20));
  expect(hash.digest()).toBe(xxh32(bytes));
});

test('the content checksum of a decoder is that of the bytes, zeros or not', () => {
  const decoder = makeBlockDecoder();
  for (const linked of [false, true]) {
    decoder.begin({ maximum: 262_144, stored: 262_144, linked, checksum: true });
    const content: Buffer[] = [];
    for (const length of [5, 65_536, 100_000, 1, 262_144, 0, 77]) {
      for (const bytes of [noise(length, length + 1), Buffer.alloc(length)]) {
        bytes.fill(0, length >> 1, (length >> 1) + (length >> 2));
        decoder.input(length).set(bytes);
        expect(decoder.inputChecksum()).toBe(xxh32(bytes));
        decoder.store();
        decoder.runs();
        content.push(bytes);
      }
    }
    expect(decoder.contentChecksum()).toBe(xxh32(Buffer.concat(content)));
  }
});
