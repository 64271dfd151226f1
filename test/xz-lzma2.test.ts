/** LZMA2 against the xz command: options of its encoder, chunks made by hand, damage, and a block by itself. */

import { spawnSync } from 'node:child_process';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { makeBlockDecoder } from '../src/codec/xz-block.ts';
import { decodeBlock, decodeXzBlock } from '../src/codec/xz-blocks.ts';
import { checkMaker } from '../src/codec/xz-check.ts';
import { makeLzma2Decoder, parseChunk } from '../src/codec/xz-decoder.ts';
import { parseBlockHeader } from '../src/codec/xz-header.ts';
import { makeReader } from '../src/codec/reader.ts';
import { SparsecopyError } from '../src/errors.ts';
import type { Run } from '../src/types.ts';
import { inPieces, noise, rejection } from './helpers.ts';
import { describeWith, run } from './tools.ts';
import { HEADER, bytesOf, decodeXz, faultOfXz } from './xz-helpers.ts';

const pack = (bytes: Uint8Array, ...options: string[]): Buffer =>
  run('xz', ['-c', ...options], bytes);

/** Something of all: text, short periods, noise, zeros. */
const sample = Buffer.concat([
  Buffer.from('a sentence that comes again and again, number 0123456789; '.repeat(300)),
  ...Array.from({ length: 20 }, (_, at) => Buffer.alloc(700, noise(at + 1, at + 1))),
  noise(70_000, 8),
  Buffer.alloc(6000),
  Buffer.from(Array.from({ length: 40_000 }, (_, at) => (at * at) >> 7)),
]);

describeWith(['xz'], 'options of the encoder', () => {
  const properties: string[] = [];
  for (let lc = 0; lc <= 4; lc++) {
    for (let lp = 0; lc + lp <= 4; lp++)
      properties.push(`lc=${lc},lp=${lp},pb=${(lc + lp * 2) % 5}`);
  }
  test.each(properties)('%s', async (option) => {
    const packed = pack(sample, `--lzma2=preset=1,${option}`);
    expect((await bytesOf(decodeXz(packed, 5000))).equals(sample)).toBe(true);
  });

  test.each(['hc3', 'hc4', 'bt2', 'bt3', 'bt4'])('mf=%s', async (finder) => {
    for (const more of [
      'mode=fast,nice=32',
      'mode=normal,nice=273',
      'mode=normal,nice=5,depth=1',
    ]) {
      const packed = pack(sample, `--lzma2=preset=0,mf=${finder},${more}`);
      expect((await bytesOf(decodeXz(packed))).equals(sample), more).toBe(true);
    }
  });

  test.each(['4KiB', '5000', '64KiB', '96KiB', '1MiB', '1536KiB', '3MiB'])(
    'dict=%s',
    async (size) => {
      const long = Buffer.concat(Array.from({ length: 25 }, () => sample));
      const packed = pack(long, `--lzma2=preset=0,dict=${size}`);
      expect((await bytesOf(decodeXz(packed, 10_001))).equals(long)).toBe(true);
    },
  );

  test('other properties in the middle of a block', async () => {
    // 7z and pxz do so; here out of chunks of two files of one kind
    const chunksOf = (option: string): Buffer => {
      const packed = pack(sample, '--check=none', `--lzma2=preset=0,${option}`);
      let end = 24;
      for (
        let chunk = parseChunk(packed.subarray(end));
        chunk !== undefined && chunk.control > 0;
      ) {
        end += chunk.headerLength + chunk.length;
        chunk = parseChunk(packed.subarray(end));
      }
      return packed.subarray(24, end);
    };
    const bytes = Buffer.concat([chunksOf('lc=0,lp=2'), chunksOf('lc=4'), Buffer.alloc(1)]);
    const decoder = makeLzma2Decoder();
    const block = {
      compressedSize: undefined,
      uncompressedSize: undefined,
      dictionarySize: 2 ** 18,
      filters: [],
    };
    const check = checkMaker(0)?.();
    if (check === undefined) throw new Error('no check');
    const place = { name: 'image.xz', start: 0, data: 12 };
    const reader = makeReader(inPieces(bytes, 1000), 'image.xz', place.data);
    const runs = decodeBlock(reader, makeBlockDecoder(block, check, decoder, place));
    expect((await bytesOfRuns(runs)).equals(Buffer.concat([sample, sample]))).toBe(true);
  });
});

async function bytesOfRuns(runs: AsyncIterable<Run>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const run of runs) {
    parts.push(run.kind === 'zero' ? new Uint8Array(run.length) : Uint8Array.from(run.bytes));
  }
  return Buffer.concat(parts);
}

/** A stream of one block out of `chunks`, without a check; the index is what it should be when `uncompressed` is. */
function streamOf(chunks: Buffer, uncompressed: number): Buffer {
  const withCrc = (bytes: Buffer, summed = bytes): Buffer => {
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(crc32(summed));
    return Buffer.concat([bytes, crc]);
  };
  const integer = (value: number): number[] =>
    value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...integer(value >> 7)];
  const magic = Buffer.from('fd377a585a000000', 'hex');
  const header = withCrc(Buffer.from([2, 0, 0x21, 1, 0, 0, 0, 0]));
  const records = Buffer.from([
    0,
    1,
    ...integer(header.length + chunks.length),
    ...integer(uncompressed),
  ]);
  const index = withCrc(Buffer.concat([records, Buffer.alloc(-records.length & 3)]));
  const fields = Buffer.from([index.length / 4 - 1, 0, 0, 0, 0, 0]);
  const crc = withCrc(Buffer.alloc(0), fields);
  return Buffer.concat([
    withCrc(magic, magic.subarray(6)),
    header,
    chunks,
    Buffer.alloc(-chunks.length & 3),
    index,
    crc,
    fields,
    Buffer.from('YZ'),
  ]);
}

describeWith(['xz'], 'chunks made by hand', () => {
  const stored = (control: number, text: string): Buffer =>
    Buffer.concat([Buffer.from([control, 0, text.length - 1]), Buffer.from(text)]);
  // 3000 bytes of 'a', as one LZMA chunk with its header of six bytes
  const packed = pack(Buffer.alloc(3000, 'a'), '--check=none', '--lzma2=preset=0');
  const length = packed.readUInt16BE(24 + 3) + 1;
  const chunk = packed.subarray(24, 24 + 6 + length);
  const like = (control: number): Buffer => {
    const kept = Buffer.concat([Buffer.from([control]), chunk.subarray(1)]);
    return control >= 0xc0 ? kept : Buffer.concat([kept.subarray(0, 5), kept.subarray(6)]);
  };
  const end = Buffer.alloc(1);

  test.each<[string, Buffer[], number]>([
    ['stored chunks', [stored(1, 'abc'), stored(2, 'def')], 6],
    ['a stored one that resets the dictionary once more', [stored(1, 'abc'), stored(1, 'd')], 4],
    ['stored, then LZMA with all resets', [stored(1, 'abc'), chunk], 3003],
    ['stored, then LZMA with new properties', [stored(1, 'abc'), like(0xc0)], 3003],
    ['LZMA, then stored', [chunk, stored(2, 'abc')], 3003],
    ['LZMA, and again with a reset of its state', [chunk, like(0xa0)], 6000],
    [
      'LZMA, stored with a new dictionary, LZMA with properties',
      [chunk, stored(1, 'b'), like(0xc0)],
      6001,
    ],
    ['nothing', [], 0],
  ])('%s', async (_, chunks, size) => {
    const file = streamOf(Buffer.concat([...chunks, end]), size);
    const expected = run('xz', ['-dc'], file);
    expect(expected.length).toBe(size);
    for (const piece of [1, 100, file.length]) {
      expect((await bytesOf(decodeXz(file, piece))).equals(expected)).toBe(true);
    }
  });

  test.each<[string, Buffer[]]>([
    ['stored, without a dictionary', [stored(2, 'abc')]],
    ['LZMA, without a dictionary', [like(0xc0)]],
    ['LZMA, without properties', [stored(1, 'abc'), like(0xa0)]],
    ['LZMA, without a reset', [stored(1, 'abc'), like(0x80)]],
    ['LZMA after a new dictionary, without properties', [chunk, stored(1, 'b'), like(0xa0)]],
    ['LZMA that goes on with a state that fits no data', [chunk, like(0x80)]],
    ['undefined control', [stored(3, 'abc')]],
  ])('%s: CORRUPT', async (_, chunks) => {
    const file = streamOf(Buffer.concat([...chunks, end]), 6000);
    expect(spawnSync('xz', ['-t'], { input: file }).status).toBe(1);
    expect((await faultOfXz(file)).code).toBe('CORRUPT');
  });

  test.each([224, 225, 255, 4 * 45 + 9 * 3 + 4])('properties %i', async (value) => {
    const edited = Buffer.from(chunk);
    edited[5] = value;
    const file = streamOf(Buffer.concat([edited, end]), 3000);
    expect(spawnSync('xz', ['-t'], { input: file }).status).toBe(1);
    expect((await faultOfXz(file)).code).toBe('CORRUPT');
  });
});

describeWith(['xz'], 'damage', () => {
  const small = Buffer.concat([
    sample.subarray(0, 3000),
    Buffer.alloc(5000),
    sample.subarray(15_000, 20_000),
  ]);
  // where no check tells, LZMA2 itself has to find what xz finds
  test.each([
    ['--check=none', '--lzma2=preset=6'],
    ['--check=none', '--lzma2=preset=0,dict=4KiB,lc=0,lp=4'],
    ['--check=none', '--block-size=3000'],
    ['--check=crc64', '--x86', '--lzma2=preset=1'],
    ['--check=sha256', '--delta=dist=2', '--lzma2=preset=1'],
  ])('with %s %s %s the verdict is that of the xz command', async (...options) => {
    const packed = pack(small, ...options.filter((option) => typeof option === 'string'));
    let state = packed.length;
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    const wrong: string[] = [];
    for (let at = 0; at < 80; at++) {
      const mutant = Buffer.from(packed);
      const place = random(mutant.length);
      const kind = at % 4;
      const cut = kind === 3 ? random(mutant.length) : mutant.length;
      if (kind === 0) mutant[place] = (mutant[place] ?? 0) ^ (1 << random(8));
      else if (kind === 1) mutant[place] = random(256);
      else if (kind === 2) mutant.copy(mutant, place, random(mutant.length));
      const bytes = mutant.subarray(0, cut);
      const peer = spawnSync('xz', ['-dc'], { input: bytes, maxBuffer: 2 ** 28 });
      const [ours] = await Promise.allSettled([bytesOf(decodeXz(bytes, 1000))]);
      if (ours.status === 'rejected' && !(ours.reason instanceof SparsecopyError))
        throw ours.reason;
      const same =
        ours.status === 'fulfilled'
          ? peer.status === 0 && ours.value.equals(peer.stdout)
          : peer.status !== 0;
      if (!same)
        wrong.push(
          `mutant ${at} (${kind}, ${place}): ours ${ours.status}, xz ${peer.status ?? -1} ${peer.stderr.toString()}`,
        );
    }
    expect(wrong).toEqual([]);
  });

  test('shows even where a damaged length leads beyond the end', async () => {
    const packed = pack(small, '-0');
    // the compressed size of the first chunk, and a byte in the middle of it
    const longer = Buffer.from(packed);
    longer.writeUInt16BE(0xffff, 24 + 3);
    expect((await faultOfXz(longer)).code).toBe('CORRUPT');
    expect((await faultOfXz(packed.subarray(0, packed.length >> 1))).code).toBe('TRUNCATED');
  });
});

describeWith(['xz'], 'a block by itself', () => {
  const packed = pack(
    sample,
    '-T2',
    '--block-size=100000',
    '--check=crc32',
    '--x86',
    '--lzma2=preset=0',
  );
  const size = ((packed[HEADER] ?? 0) + 1) * 4;
  const header = parseBlockHeader(packed.subarray(HEADER, HEADER + size), HEADER, 'image.xz');
  const place = { name: 'image.xz', start: HEADER, data: HEADER + size };
  const length = (header.compressedSize ?? 0) + 3 - (((header.compressedSize ?? 0) + 3) % 4) + 4;
  const bytes = packed.subarray(place.data, place.data + length);

  function decode(block: Uint8Array): Promise<Buffer> {
    const headers = {
      streamHeader: packed.subarray(0, HEADER),
      header: packed.subarray(HEADER, HEADER + size),
    };
    return bytesOfRuns(decodeXzBlock({ ...headers, place }, inPieces(block, block.length || 1)));
  }

  test('is decoded', async () => {
    expect((await decode(bytes)).equals(sample.subarray(0, 100_000))).toBe(true);
  });

  test('cut anywhere: TRUNCATED', async () => {
    for (let end = 0; end < bytes.length; end += end < bytes.length - 40 ? 501 : 1) {
      const error = await rejection(decode(bytes.subarray(0, end)));
      expect(error.code, `cut at ${end}`).toBe('TRUNCATED');
    }
  });

  test('with another check, or other padding: CORRUPT', async () => {
    for (let at = 1; at <= 7; at++) {
      const copy = Buffer.from(bytes);
      copy[copy.length - at] = (copy[copy.length - at] ?? 0) ^ 1;
      expect((await rejection(decode(copy))).code).toBe('CORRUPT');
    }
  });
});

describe('memory', () => {
  test('is no more than what a block can use', () => {
    const decoder = makeLzma2Decoder();
    const before = process.memoryUsage().arrayBuffers + process.memoryUsage().external;
    expect(decoder.startBlock(2 ** 32 - 1)).toBe(undefined);
    const after = process.memoryUsage().arrayBuffers + process.memoryUsage().external;
    expect(after - before).toBeLessThan(4 * 2 ** 20);
  });
});
