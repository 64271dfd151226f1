/** Damaged Zstandard frames, by chance but the same on each run: nothing but our errors, and never wrong bytes past a checksum. */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { expect, test } from 'vitest';
import { makeZstdDecoder } from '../src/codec/zstd-decoder.ts';
import { parseFrameHeader } from '../src/codec/zstd-frame.ts';
import { makeZstdClusterDecoder } from '../src/codec/zstd-cluster.ts';
import type { ZstdClusterDecoder } from '../src/codec/zstd-cluster.ts';
import { zstd } from '../src/codec/zstd.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import { inPieces, noise, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const program = readFileSync(process.execPath).subarray(2 ** 20, 2 ** 20 + 300_000);
const text = Buffer.from(
  Array.from({ length: 3000 }, (_, at) => `line ${(at * 7919) % 1013} of ${at}\n`).join(''),
);
const contents = [
  text.subarray(0, 300),
  text,
  program.subarray(0, 65_536),
  program,
  Buffer.concat([program.subarray(0, 9000), Buffer.alloc(9000), program.subarray(0, 9000)]),
  Buffer.from(noise(40_000).map((byte) => byte & 7)),
];

/** What `packed` decodes to, or the error; anything else is thrown. */
async function decode(packed: Uint8Array): Promise<Buffer | SparsecopyError> {
  const parts: Uint8Array[] = [];
  try {
    const context = { name: 'image.zst', limits: defaultLimits };
    for await (const piece of zstd.decode(inPieces(packed, 50_000), context)) {
      parts.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
    }
  } catch (error) {
    if (error instanceof SparsecopyError) return error;
    throw error;
  }
  return Buffer.concat(parts);
}

/** What the zstd command makes of it, or undefined when it refuses. */
function decodeByTool(packed: Uint8Array, path: string): Buffer | undefined {
  writeFileSync(path, packed);
  const { status, stdout } = spawnSync('zstd', ['-dcq', path], { maxBuffer: 2 ** 30 });
  return status === 0 ? stdout : undefined;
}

/** What `mutant` decodes to as a cluster, as a digest, or what is wrong with it; anything else is thrown. */
function decodeCluster(decoder: ZstdClusterDecoder, mutant: Buffer, length: number): string {
  const output = Buffer.alloc(length);
  try {
    decoder(mutant, output);
  } catch (error) {
    if (error instanceof SparsecopyError) return `${error.code} ${error.message}`;
    throw error;
  }
  return createHash('sha256').update(output).digest('hex');
}

/** Numbers from 0 to below `limit`, the same on each run. */
function makeRandom(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.floor(((state >>> 0) / 2 ** 32) * limit);
  };
}

/** A copy of `bytes` with one to three things changed: a bit, a byte, a few bytes from elsewhere, or the end. */
function mutate(bytes: Buffer, random: (limit: number) => number): Buffer {
  let copy = Buffer.from(bytes);
  for (let count = 1 + random(3); count > 0; count--) {
    const at = random(random(3) === 0 ? Math.min(copy.length, 60) : copy.length);
    const kind = random(9);
    if (kind < 3) copy[at] = (copy[at] ?? 0) ^ (1 << random(8));
    else if (kind < 5) copy[at] = random(256);
    else if (kind < 6) copy[at] = [0, 1, 128, 255][random(4)] ?? 0;
    else if (kind < 8)
      copy.copyWithin(at, random(copy.length), Math.min(copy.length, at + random(20)));
    else if (at > 0) copy = copy.subarray(0, at);
  }
  return copy;
}

describeWith(['zstd'], 'mutants', () => {
  test.each(['-1', '-3', '-19', '--fast=3', '-3 --no-check', '-19 --no-check'])(
    'of what %s writes',
    async (options) => {
      const random = makeRandom(options.length * 7919 + 1);
      const path = join(tempDir(), 'mutant.zst');
      const cluster = await makeZstdClusterDecoder();
      decodeCluster(cluster, run('zstd', ['-qc'], text), text.length);
      for (const content of contents) {
        const packed = run('zstd', ['-qc', ...options.split(' ')], content);
        for (let count = 0; count < 10; count++) {
          const mutant = mutate(packed, random);
          const ours = await decode(mutant);
          const theirs = decodeByTool(mutant, path);
          // the command does not verify that all bits of literals are used up, and we do: what we refuse it may take
          if (Buffer.isBuffer(ours)) {
            expect(theirs, `${options}, ${content.length} bytes, mutant ${count}`).toBeDefined();
            expect(theirs?.equals(ours)).toBe(true);
            if (!options.includes('--no-check') && ours.length > 0) {
              expect(ours.equals(content) || (mutant[4] ?? 0) !== (packed[4] ?? 0)).toBe(true);
            }
          } else {
            expect(['CORRUPT', 'TRUNCATED', 'LIMIT', 'UNSUPPORTED']).toContain(ours.code);
          }
          // A decoder goes through its first frame block by block, and tries to take those after it whole.
          const inBlocks = decodeCluster(await makeZstdClusterDecoder(), mutant, content.length);
          expect(decodeCluster(cluster, mutant, content.length)).toEqual(inBlocks);
        }
      }
    },
  );

  test('of blocks of noise with headers that fit, after a block that matches can reach', async () => {
    const random = makeRandom(99);
    const path = join(tempDir(), 'noise.zst');
    const decoder = makeZstdDecoder();
    const start = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0, 0, 0]);
    start.writeUIntLE(100_000 * 8, 6, 3);
    const before = noise(100_000, 2);
    const place = { offset: 0 };
    const frame = parseFrameHeader(start, place, defaultLimits);
    const accepted: Buffer[] = [];
    for (let count = 0; count < 60_000 && accepted.length < 60; count++) {
      // raw literals, some sequences, predefined tables or single codes: bits are used up by chance only
      const literals = random(31);
      const size = literals + 4 + random(7);
      const block = Buffer.from(noise(size, count + 1));
      const modes = [0, 0, 0x54, 0x10, 0x04, 0x40][random(6)] ?? 0;
      block.set([literals << 3], 0);
      block.set([1 + random(2), modes].slice(0, size - literals - 1), literals + 1);
      decoder.start(frame, place);
      decoder.decode(
        { isLast: false, type: 0, size: before.length, length: before.length },
        before,
      );
      try {
        decoder.decode({ isLast: true, type: 2, size, length: size }, block);
      } catch (error) {
        expect(error).toBeInstanceOf(SparsecopyError);
        continue;
      }
      const header = Buffer.alloc(3);
      header.writeUIntLE(5 + size * 8, 0, 3);
      accepted.push(Buffer.concat([start, before, header, block]));
    }
    expect(accepted.length).toBeGreaterThan(20);
    for (const packed of accepted) {
      const theirs = decodeByTool(packed, path);
      const ours = await decode(packed);
      expect(Buffer.isBuffer(ours) && theirs?.equals(ours), packed.toString('hex', 100_009)).toBe(
        true,
      );
    }
  });
});
