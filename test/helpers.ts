/** What several tests need: temporary folders, deterministic data, streams in odd pieces, sources that count or fail. */

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { Source } from '../src/types.ts';

/** A new folder that is removed when the test that asked for it ends. */
export function tempDir(): string {
  const path = mkdtempSync(join(tmpdir(), 'sparsecopy-test-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** `length` bytes that look random and are the same on each run (xorshift32 from `seed`, never 0). */
export function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < length; at++) {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    bytes[at] = state & 0xff || 1;
  }
  return bytes;
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** `bytes` as a byte stream in pieces of `size` bytes. */
export async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) {
    await Promise.resolve();
    yield bytes.subarray(at, at + size);
  }
}

/** The error that `promise` rejects with; fails when it does not. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise;
  } catch (error) {
    return error as Error & { code?: string };
  }
  throw new Error('expected a rejection, and there was none');
}

/** `source`, counting its reads, and failing the read with number `failAt` (from 0) with EIO. */
export function watchedSource(
  source: Source,
  failAt = Infinity,
): Source & { reads: number; bytes: number } {
  return {
    name: source.name,
    size: source.size,
    reads: 0,
    bytes: 0,
    async read(into: Uint8Array, offset: number): Promise<void> {
      const number = this.reads++;
      if (number === failAt) {
        throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', syscall: 'read' });
      }
      this.bytes += into.length;
      await source.read(into, offset);
    },
    extents: (start, end) => source.extents(start, end),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}
