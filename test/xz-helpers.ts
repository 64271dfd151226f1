/** What the tests of .xz share. */

import { crc32 } from 'node:zlib';
import { xz } from '../src/codec/xz.ts';
import { SparsecopyError } from '../src/errors.ts';
import { defaultLimits } from '../src/limits.ts';
import type { Limits } from '../src/limits.ts';
import type { Run } from '../src/types.ts';
import { inPieces, rejection } from './helpers.ts';

/** The runs of `packed`, which comes in pieces of `size` bytes. */
export function decodeXz(
  packed: Uint8Array,
  size: number = packed.length,
  limits: Limits = defaultLimits,
): AsyncIterable<Run> {
  return xz.decode(inPieces(packed, Math.max(1, size)), { name: 'image.xz', limits });
}

export async function bytesOf(runs: AsyncIterable<Run>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of runs) {
    parts.push(piece.kind === 'zero' ? new Uint8Array(piece.length) : piece.bytes);
  }
  return Buffer.concat(parts);
}

/** Decodes `packed`, which must fail with an error of this package. */
export async function faultOfXz(packed: Uint8Array, size?: number): Promise<SparsecopyError> {
  const error = await rejection(bytesOf(decodeXz(packed, size)));
  if (error instanceof SparsecopyError) return error;
  throw error;
}

/** Length of a stream header: the first block header follows. */
export const HEADER = 12;

/** `packed` with `value` at `at` of the first block header, and a CRC32 to match. */
export function withBlockHeader(packed: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(packed);
  const end = HEADER + ((copy[HEADER] ?? 0) + 1) * 4 - 4;
  copy[HEADER + at] = value;
  copy.writeUInt32LE(crc32(copy.subarray(HEADER, end)), end);
  return copy;
}
