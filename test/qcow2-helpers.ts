/** What the tests of qcow2 share: opening an image, all of its bytes, all of its extents, and the fixtures. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { defaultLimits } from '../src/limits.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { Disk, Extent, Source } from '../src/types.ts';

export const context = { limits: defaultLimits };

/** Opens an image in memory. */
export function openBytes(image: Uint8Array, name = 'disk.qcow2'): Promise<Disk> {
  return qcow2.open(bufferSource(image, name), context);
}

/** The whole content, in reads of `step` bytes, of which up to `depth` are under way at once. */
export async function readAll(source: Source, step = 1024 * 1024, depth = 4): Promise<Buffer> {
  const content = Buffer.alloc(source.size, 0xa5);
  for (let at = 0; at < source.size; at += step * depth) {
    const reads: Promise<void>[] = [];
    for (let start = at; start < Math.min(at + step * depth, source.size); start += step) {
      reads.push(source.read(content.subarray(start, Math.min(start + step, source.size)), start));
    }
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') throw result.reason;
    }
  }
  return content;
}

export async function allExtents(source: Source, start?: number, end?: number): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of source.extents(start, end)) extents.push(extent);
  return extents;
}

/** Asserts the contract of `Source.extents` for `extents` of the range from `start` to `end`. */
export function expectSound(extents: readonly Extent[], start: number, end: number): void {
  let at = start;
  let last: string | undefined;
  for (const { kind, offset, length } of extents) {
    expect(offset).toBe(at);
    expect(length).toBeGreaterThan(0);
    expect(kind).not.toBe(last);
    at += length;
    last = kind;
  }
  expect(at).toBe(end);
}

/** What `fixtures/good/NAME.json` has. */
export interface Expected {
  readonly format: string;
  readonly virtualSize: number;
  readonly diskSize: number;
  readonly allocatedSize: number;
  readonly sha256: string;
  readonly extents: readonly Extent[];
}

const folder = join(import.meta.dirname, '..', 'fixtures');

/** Names of the qcow2 images in `fixtures/good` or `fixtures/bad`, without their ending. */
export function fixtures(kind: 'good' | 'bad'): string[] {
  return readdirSync(join(folder, kind))
    .filter((name) => name.endsWith('.qcow2'))
    .map((name) => name.slice(0, -'.qcow2'.length));
}

export function fixturePath(kind: 'good' | 'bad', name: string): string {
  return join(folder, kind, `${name}.qcow2`);
}

export function fixture(kind: 'good' | 'bad', name: string): Buffer {
  return readFileSync(fixturePath(kind, name));
}

export function expected(name: string): Expected {
  return JSON.parse(readFileSync(join(folder, 'good', `${name}.json`), 'utf8')) as Expected;
}
