import fc from 'fast-check';
import { expect, test } from 'vitest';
import { alignDown, alignUp, isZero } from '../src/bytes.ts';

test('isZero sees a single set byte anywhere, and only within its range', () => {
  for (const length of [0, 1, 15, 16, 17, 31, 32, 33, 511, 512, 4096]) {
    const bytes = Buffer.alloc(length + 2, 1).fill(0, 1, length + 1);
    expect(isZero(bytes, 1, length + 1)).toBe(true);
    for (let at = 1; at <= length; at++) {
      bytes[at] = 1;
      expect(isZero(bytes, 1, length + 1)).toBe(false);
      bytes[at] = 0;
    }
  }
});

test('isZero agrees with a plain loop on random mixtures', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 1), { maxLength: 80 }), (values) => {
      expect(isZero(Uint8Array.from(values))).toBe(values.every((value) => value === 0));
    }),
  );
});

test('alignment is exact beyond 2^32', () => {
  expect(alignDown(2 ** 44 + 5, 4096)).toBe(2 ** 44);
  expect(alignUp(2 ** 44 + 5, 4096)).toBe(2 ** 44 + 4096);
  expect(alignUp(2 ** 44, 4096)).toBe(2 ** 44);
  expect(alignUp(0, 512)).toBe(0);
});
