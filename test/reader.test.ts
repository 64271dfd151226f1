/** The reader that takes exact amounts out of a byte stream, whatever its pieces are. */

import { describe, expect, test } from 'vitest';
import { makeReader } from '../src/codec/reader.ts';
import { inPieces, noise, rejection } from './helpers.ts';

const bytes = noise(50_000, 11);

test('gives the same bytes whatever the pieces and the calls are', async () => {
  for (const size of [1, 3, 97, 4096, 50_000]) {
    const reader = makeReader(inPieces(bytes, size), 'x');
    let at = 0;
    for (let step = 0; !(await reader.atEnd()); step++) {
      const wanted = (step * 7919) % (step % 5 === 0 ? 3000 : 40);
      const expected = bytes.subarray(at, at + wanted);
      const peeked = await reader.peek(wanted);
      expect(expected.equals(peeked)).toBe(true);
      if (step % 3 === 0) {
        const taken = (await reader.take(wanted + 1)) ?? Buffer.alloc(0);
        expect(taken.length).toBeGreaterThan(0);
        expect(taken.length).toBeLessThanOrEqual(wanted + 1);
        expect(bytes.subarray(at, at + taken.length).equals(taken)).toBe(true);
        at += taken.length;
      } else if (step % 3 === 1) {
        await reader.skip(expected.length);
        at += expected.length;
      } else {
        expect(expected.equals(await reader.read(expected.length))).toBe(true);
        at += expected.length;
      }
      expect(reader.offset).toBe(at);
    }
    expect(at).toBe(bytes.length);
    expect(await reader.take()).toBeUndefined();
    expect((await reader.peek(5)).length).toBe(0);
  }
});

test('a read inside one piece does not copy', async () => {
  const reader = makeReader(inPieces(bytes, 10_000), 'x');
  await reader.skip(10);
  const part = await reader.read(9000);
  expect(part.buffer).toBe(bytes.buffer);
  expect(part.byteOffset).toBe(bytes.byteOffset + 10);
});

test('empty pieces are no end', async () => {
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield* [Buffer.alloc(0), Buffer.from('a'), Buffer.alloc(0), Buffer.from('b'), Buffer.alloc(0)];
    await Promise.resolve();
  };
  const reader = makeReader(source(), 'x');
  expect(Buffer.from(await reader.read(2)).toString()).toBe('ab');
  expect(await reader.atEnd()).toBe(true);
});

describe('an end that comes too early', () => {
  test.each([1, 7, 50_000])('in pieces of %i', async (size) => {
    const reader = makeReader(inPieces(bytes.subarray(0, 100), size), 'disk.lz4');
    await reader.read(40);
    const error = await rejection(reader.read(61, 'block header'));
    expect(error).toMatchObject({ code: 'TRUNCATED', offset: 40, expected: 61, found: 60 });
    expect(error.message).toBe('disk.lz4: block header at 40 needs 61 bytes, input ends at 100');
    expect((await reader.read(60)).length).toBe(60);
    expect(await rejection(reader.skip(1))).toMatchObject({ code: 'TRUNCATED', offset: 100 });
  });

  test('a length that lies takes no memory', async () => {
    const reader = makeReader(inPieces(bytes, 5000), 'x');
    const before = process.memoryUsage().arrayBuffers;
    expect(await rejection(reader.read(2 ** 50))).toMatchObject({ code: 'TRUNCATED' });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 * 2 ** 20);
  });
});

test('closing closes the source once, and an error of that is dropped', async () => {
  let closed = 0;
  const source = async function* (): AsyncGenerator<Uint8Array> {
    try {
      yield* inPieces(bytes, 100);
    } finally {
      closed++;
      // eslint-disable-next-line no-unsafe-finally
      throw new Error('close failed');
    }
  };
  const reader = makeReader(source(), 'x');
  await reader.read(10);
  await reader[Symbol.asyncDispose]();
  await reader[Symbol.asyncDispose]();
  expect(closed).toBe(1);
  expect(await reader.atEnd()).toBe(true);
});

test('an error of the source passes as it came, and is not followed by a close', async () => {
  const failure = new Error('EIO');
  let returned = 0;
  const iterator: AsyncIterator<Uint8Array> = {
    next: () => Promise.reject(failure),
    return: () => {
      returned++;
      return Promise.resolve({ done: true, value: undefined });
    },
  };
  const reader = makeReader({ [Symbol.asyncIterator]: () => iterator }, 'x');
  expect(await rejection(reader.read(1))).toBe(failure);
  await reader[Symbol.asyncDispose]();
  expect(returned).toBe(0);
});
