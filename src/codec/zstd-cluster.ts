/** Decodes the zstd clusters of qcow2: frames in memory, whose number and end show only in their bytes. */

import { SparsecopyError } from '../errors.ts';
import { defaultLimits } from '../limits.ts';
import { makeZstdEngine } from './zstd-engine.ts';
import {
  BLOCK_HEADER_LENGTH,
  SKIPPABLE_HEADER_LENGTH,
  frameHeaderLength,
  frameKind,
  lengthAfterBlock,
  parseBlockHeader,
  parseFrameHeader,
  skippableLength,
  wrongSize,
} from './zstd-frame.ts';
import type { FrameHeader, FrameLimits } from './zstd-frame.ts';

/** Fills all of `output` from the frames that `input` starts with; bytes of `input` after them have no meaning. */
export type ZstdClusterDecoder = (input: Uint8Array, output: Uint8Array) => void;

/**
 * Makes a decoder for compressed clusters, which can be used again and again, by one caller at a time.
 *
 * What it throws is a SparsecopyError without a source and with an offset in `input`: `TRUNCATED` when `input` ends
 * before `output` is full, `CORRUPT` (also when there is more than fills it), `LIMIT`, `UNSUPPORTED`.
 */
export async function makeZstdClusterDecoder(
  limits: FrameLimits = defaultLimits,
): Promise<ZstdClusterDecoder> {
  const engine = await makeZstdEngine();
  return (input, output) => {
    let at = 0;
    for (let filled = 0; filled < output.length;) {
      const place = { offset: at };
      const kind = frameKind(input.subarray(at, at + 4));
      if (kind === 'skippable') {
        demand(input, at, SKIPPABLE_HEADER_LENGTH, 'skippable frame');
        const length = skippableLength(input.subarray(at));
        demand(input, at, length, 'skippable frame');
        at += length;
        continue;
      }
      if (kind === 'cut') demand(input, at, 4, 'frame');
      if (kind !== 'data') {
        throw new SparsecopyError(
          'CORRUPT',
          `no zstd frame at ${at}, expected one for ${output.length - filled} bytes`,
          place,
        );
      }
      const { frame, end } = measureFrame(input, at, limits);
      const room = output.subarray(filled);
      const written = engine.decodeFrame(input.subarray(at, end), room, place);
      if (written !== (frame.contentSize ?? written)) throw wrongSize(frame, written, place);
      filled += written;
      at = end;
    }
  };
}

/** Parses the frame at `at` of `input` as far as it takes to find its end. */
function measureFrame(
  input: Uint8Array,
  at: number,
  limits: FrameLimits,
): { readonly frame: FrameHeader; readonly end: number } {
  demand(input, at, 5, 'frame header');
  const bytes = input.subarray(at);
  demand(input, at, frameHeaderLength(bytes), 'frame header');
  const frame = parseFrameHeader(bytes, { offset: at }, limits);
  let end = at + frame.length;
  for (let isLast = false; !isLast;) {
    demand(input, end, BLOCK_HEADER_LENGTH, 'block header');
    const block = parseBlockHeader(input, end, frame, { offset: end });
    const next = end + BLOCK_HEADER_LENGTH + block.length;
    isLast = block.isLast;
    const length = next - end + (isLast ? lengthAfterBlock(block, frame) : 0);
    demand(input, end, length, 'block');
    end += length;
  }
  return { frame, end };
}

/** @throws SparsecopyError `TRUNCATED` unless `input` has `length` bytes at `at`. */
function demand(input: Uint8Array, at: number, length: number, what: string): void {
  if (at + length <= input.length) return;
  throw new SparsecopyError(
    'TRUNCATED',
    `${what} at ${at} needs ${length} bytes, input ends at ${input.length}`,
    { offset: at, expected: length, found: input.length - at },
  );
}
