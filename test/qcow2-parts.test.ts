import { constants, deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { makeBuffers } from '../src/format/qcow2/buffers.ts';
import { makeCache } from '../src/format/qcow2/cache.ts';
import { groupPieces, joinRanges, type Piece } from '../src/format/qcow2/gather.ts';
import { makeDeflateDecoder } from '../src/format/qcow2/inflate.ts';
import { noise, rejection } from './helpers.ts';

describe('cache', () => {
  test('loads once for all who wait, keeps the last used, forgets failures', async () => {
    const loads: number[] = [];
    const cache = makeCache(2, async (key) => {
      loads.push(key);
      await Promise.resolve();
      if (key < 0) throw new Error('no');
      return key * 10;
    });
    expect(await Promise.all([cache.get(1), cache.get(1), cache.get(2)])).toEqual([10, 10, 20]);
    await cache.get(1);
    await cache.get(3); // pushes out 2, which was not used for longer
    expect(await cache.get(1)).toBe(10);
    expect(loads).toEqual([1, 2, 3]);
    await cache.get(2);
    expect(loads).toEqual([1, 2, 3, 2]);
    expect((await rejection(cache.get(-1))).message).toBe('no');
    expect((await rejection(cache.get(-1))).message).toBe('no');
    expect(loads.filter((key) => key === -1)).toHaveLength(2);
  });

  test('drain waits for what is on its way, also for what fails and nobody waits for', async () => {
    let finished = 0;
    const cache = makeCache(1, async (key) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      finished++;
      if (key === 2) throw new Error('nobody hears this');
    });
    void cache.get(1);
    void cache.get(2);
    await cache.drain();
    expect(finished).toBe(2);
  });
});

test('buffers: no more than the count, first come first served', async () => {
  const buffers = makeBuffers(2, 16);
  const first = await buffers.take();
  const second = await buffers.take();
  const order: string[] = [];
  const third = buffers.take().then((buffer) => (order.push('third'), buffer));
  const fourth = buffers.take().then((buffer) => (order.push('fourth'), buffer));
  await new Promise((resolve) => setImmediate(resolve));
  expect(order).toEqual([]);
  buffers.give(second);
  expect(await third).toBe(second);
  buffers.give(first);
  expect(await fourth).toBe(first);
  expect(order).toEqual(['third', 'fourth']);
});

describe('pieces of the file in groups', () => {
  const piece = (hostOffset: number, length: number): Piece => ({
    run: { kind: 'plain', offset: 0, length, hostOffset },
    target: new Uint8Array(0),
  });
  const ranges = (pieces: Piece[], most = 1024 * 1024): [number, number, number][] =>
    groupPieces(pieces, most).map(({ start, end, pieces: { length } }) => [start, end, length]);

  test.each<[string, Piece[], [number, number, number][]]>([
    ['nothing', [], []],
    [
      'neighbours in any order',
      [piece(300, 100), piece(100, 100), piece(200, 100)],
      [[100, 400, 3]],
    ],
    ['overlapping', [piece(100, 600), piece(200, 100)], [[100, 700, 2]]],
    ['a gap that is worth it', [piece(0, 100), piece(65_636, 100)], [[0, 65_736, 2]]],
    [
      'a gap that is not',
      [piece(0, 100), piece(65_637, 100)],
      [
        [0, 100, 1],
        [65_637, 65_737, 1],
      ],
    ],
  ])('%s', (_what, pieces, groups) => {
    expect(ranges(pieces)).toEqual(groups);
  });

  test('no group is longer than allowed', () => {
    const pieces = Array.from({ length: 40 }, (_, at) => piece(at * 100, 100));
    expect(ranges(pieces, 1000)).toEqual(
      [0, 1, 2, 3].map((at) => [at * 1000, at * 1000 + 1000, 10]),
    );
  });
});

test('runs of the disk that lie close to each other are one range', () => {
  const at = (offset: number, length: number): { offset: number; length: number } => ({
    offset,
    length,
  });
  expect(joinRanges([])).toEqual([]);
  expect(joinRanges([at(0, 512), at(512, 512), at(66_560, 1), at(132_098, 9)])).toEqual([
    { start: 0, end: 66_561 },
    { start: 132_098, end: 132_107 },
  ]);
});

describe.each([512, 8192, 16_384, 65_536])('deflate, clusters of %i bytes', (size) => {
  const decode = makeDeflateDecoder(size);
  const cluster = Buffer.concat([noise(size / 2), noise(size / 4), Buffer.alloc(size / 4)]);

  async function expectDecoded(data: Buffer): Promise<void> {
    const output = Buffer.alloc(size);
    await decode(data, output);
    expect(output.equals(cluster)).toBe(true);
  }

  test.each([9, 12, 15])('a window of %i bits', async (windowBits) => {
    await expectDecoded(deflateRawSync(cluster, { windowBits }));
  });

  test('what follows the data is ignored', async () => {
    await expectDecoded(Buffer.concat([deflateRawSync(cluster), Buffer.alloc(500, 0xff)]));
  });

  test('a longer stream is cut, whatever comes after the cluster', async () => {
    const long = deflateRawSync(Buffer.concat([cluster, noise(3 * size)]));
    const cut = long.subarray(0, -size);
    const open = deflateRawSync(cluster, { finishFlush: constants.Z_SYNC_FLUSH });
    const garbage = Buffer.alloc(300, 0xff);
    await expectDecoded(long);
    await expectDecoded(cut);
    await expectDecoded(Buffer.concat([cut, garbage]));
    // all of the cluster, but no end of the stream
    await expectDecoded(open);
    // a few bytes more, then garbage
    const more = deflateRawSync(Buffer.concat([cluster, Buffer.from('more')]), {
      finishFlush: constants.Z_SYNC_FLUSH,
    });
    await expectDecoded(Buffer.concat([more, garbage]));
  });

  test('a stream that would fill the memory is stopped after one cluster', async () => {
    const bomb = deflateRawSync(Buffer.alloc(64 * 1024 * 1024, 0x41));
    const before = process.memoryUsage().arrayBuffers;
    const output = Buffer.alloc(size);
    await decode(bomb, output);
    expect(output.every((byte) => byte === 0x41)).toBe(true);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8 * 1024 * 1024);
  });

  test.each<[string, Buffer]>([
    ['a complete stream of less', deflateRawSync(cluster.subarray(1))],
    ['an empty stream', deflateRawSync(Buffer.alloc(0))],
    ['nothing', Buffer.alloc(0)],
    ['a cut stream', deflateRawSync(cluster).subarray(0, -100)],
    ['an invalid block type', Buffer.alloc(100, 0xff)],
    ['a distance before the start', Buffer.from([0x63, 0x00, 0x42, 0x00])],
  ])('%s is CORRUPT', async (_what, data) => {
    const error = await rejection(decode(data, Buffer.alloc(size)));
    expect(error).toMatchObject({ code: 'CORRUPT' });
  });

  test('many at once', async () => {
    const clusters = Array.from({ length: 50 }, (_, at) => noise(size, at + 1));
    const outputs = await Promise.all(
      clusters.map(async (bytes) => {
        const output = Buffer.alloc(size);
        await decode(deflateRawSync(bytes), output);
        return output;
      }),
    );
    expect(outputs.every((output, at) => output.equals(clusters[at] as Buffer))).toBe(true);
  });
});
