/** What the tests of the reader in one pass share: an image as a stream, and its disk put together of chunks in any order. */

import { expect } from 'vitest';
import { isZero } from '../src/bytes.ts';
import { makePool } from '../src/chunk/pool.ts';
import { makeCounter } from '../src/chunk/tally.ts';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { passQcow2 } from '../src/format/qcow2/pass.ts';
import { defaultLimits, type Limits } from '../src/limits.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { Disk, ImageDetails, OpenContext, Parked, PassingDisk, Run } from '../src/types.ts';
import { readAll } from './qcow2-helpers.ts';

export type Context = Omit<Partial<OpenContext>, 'limits'> & {
  readonly limits?: Partial<Limits>;
  readonly tempDir?: string;
};

/** Pieces as pipes, slow and fast, and memory have them. */
export const SIZES: readonly number[] = [7, 512, 4096 + 1, 64 * 1024, Infinity];

export const NAME = 'disk.qcow2';

/** Little memory, so that the temporary file and tables that wait come into it. */
export const TIGHT: Partial<Limits> = { parkedSize: 64 * 1024, pendingRuns: 5 };

/** `image` in pieces of `size` bytes, each in memory of its own; with `zeros`, whole blocks of zeros as such. */
export async function* runsIn(image: Buffer, size: number, zeros = false): AsyncGenerator<Run> {
  for (let at = 0; at < image.length; at += size) {
    await Promise.resolve();
    const bytes = Buffer.from(image.subarray(at, at + size));
    if (zeros && isZero(bytes)) yield { kind: 'zero', length: bytes.length };
    else yield { kind: 'data', bytes };
  }
}

/** Opens the disk of an image that passes as `runs`. */
export async function openPassing(
  image: Buffer,
  runs: AsyncIterable<Run>,
  { limits, ...more }: Context = {},
): Promise<PassingDisk> {
  const all = { ...defaultLimits, ...limits };
  const head = image.subarray(0, all.probeHead);
  const disk = await passQcow2(runs, head, { ...more, limits: all, name: NAME });
  if (disk === undefined) throw new Error('cannot be read in one pass');
  return disk;
}

/** A disk and what was found on the way. */
export interface Read {
  readonly content: Buffer;
  readonly diskSize: number;
  readonly details: ImageDetails;
}

export interface Passed extends Read {
  readonly parked: Parked;
  readonly buffers: number;
}

/** The disk of `image`, in one pass; asserts that each byte comes once. */
export async function passAll(
  image: Buffer,
  runs: AsyncIterable<Run>,
  context?: Context,
): Promise<Passed> {
  const disk = await openPassing(image, runs, context);
  try {
    const pool = makePool();
    const counter = makeCounter(512);
    const content = Buffer.alloc(disk.size, 0xa5);
    const ranges: { offset: number; length: number }[] = [];
    for await (const chunk of disk.chunks(pool)) {
      const { offset, length } = chunk;
      counter.count(chunk);
      ranges.push({ offset, length });
      if (chunk.kind === 'zero') content.fill(0, offset, offset + length);
      else {
        expect(chunk.bytes).toHaveLength(length);
        content.set(chunk.bytes, offset);
        // whoever gets a chunk may do as he likes with it
        chunk.bytes.fill(0x5a);
        chunk.release?.();
      }
    }
    let end = 0;
    for (const { offset, length } of ranges.sort((a, b) => a.offset - b.offset)) {
      if (offset !== end || length <= 0) throw new Error(`expected a chunk at ${end}: ${offset}`);
      end += length;
    }
    expect(end).toBe(disk.size);
    const { virtualSize, diskSize } = counter.totals();
    expect(virtualSize).toBe(disk.size);
    const { details, parked } = disk;
    return { content, diskSize, details, parked, buffers: pool.made };
  } finally {
    await disk[Symbol.asyncDispose]();
  }
}

/** The disk of `image`, read with random access. */
export async function seekAll(
  image: Buffer,
  { limits, ...more }: Context = {},
): Promise<Read & { readonly disk: Disk }> {
  const all = { ...defaultLimits, ...limits };
  await using disk = await qcow2.open(bufferSource(image, NAME), { ...more, limits: all });
  const content = await readAll(disk);
  const counter = makeCounter(512);
  counter.count({ kind: 'data', offset: 0, length: content.length, bytes: content });
  return { content, diskSize: counter.totals().diskSize, details: disk.details, disk };
}

/** Asserts that the disk of `image`, in pieces of each of `sizes`, is that which `wanted` has. */
export async function expectSamePassing(
  image: Buffer,
  wanted: Read,
  sizes: readonly number[],
  context: Context = {},
): Promise<Passed> {
  let last: Passed | undefined;
  for (const size of sizes) {
    last = await passAll(image, runsIn(image, size), context);
    expect(last.content.equals(wanted.content), `pieces of ${size}`).toBe(true);
    expect(last.diskSize).toBe(wanted.diskSize);
    expect(last.details.allocatedSize).toBe(wanted.details.allocatedSize);
  }
  if (last === undefined) throw new Error('no sizes');
  return last;
}
