/** Decodes the zstd clusters of qcow2: frames in memory, whose number and end show only in their bytes. */

import { SparsecopyError } from '../errors.ts';
import { defaultLimits } from '../limits.ts';
import { SKIPPABLE_HEADER_LENGTH } from './magic.ts';
import { makeZstdDecoder } from './zstd-decoder.ts';
import type { ZstdDecoder } from './zstd-decoder.ts';
import {
  BLOCK_HEADER_LENGTH,
  frameError,
  frameHeaderLength,
  frameKind,
  largestWindow,
  lengthAfterBlock,
  parseBlockHeader,
  parseFrameHeader,
  skippableLength,
  wrongSize,
} from './zstd-frame.ts';
import type { FrameLimits } from './zstd-frame.ts';

/** Fills all of `output` from the frames that `input` starts with; bytes of `input` after them have no meaning. */
export type ZstdClusterDecoder = (input: Uint8Array, output: Uint8Array) => void;

/**
 * Makes a decoder for compressed clusters, which can be used again and again, by one caller at a time.
 *
 * What it throws is a SparsecopyError without a source and with an offset in `input`: `TRUNCATED` when `input` ends
 * before `output` is full, `CORRUPT` (also when there is more than fills it), `LIMIT`, `UNSUPPORTED`.
 */
// eslint-disable-next-line @typescript-eslint/require-await
export async function makeZstdClusterDecoder(
  limits: FrameLimits = defaultLimits,
): Promise<ZstdClusterDecoder> {
  const decoder = makeZstdDecoder();
  const window = largestWindow(limits);
  return (input, output) => {
    if (decoder.decodeWhole(input, output, window)) return;
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
      const { written, end } = decodeFrame(decoder, input, at, output.subarray(filled), limits);
      filled += written;
      at = end;
    }
  };
}

/** Decodes the frame at `at` of `input` to the start of `output`. Gives how much that is, and where the frame ends. */
function decodeFrame(
  decoder: ZstdDecoder,
  input: Uint8Array,
  at: number,
  output: Uint8Array,
  limits: FrameLimits,
): { readonly written: number; readonly end: number } {
  const place = { offset: at };
  demand(input, at, 5, 'frame header');
  const bytes = input.subarray(at);
  demand(input, at, frameHeaderLength(bytes), 'frame header');
  const frame = parseFrameHeader(bytes, place, limits);
  decoder.start(frame, place);
  let written = 0;
  let end = at + frame.length;
  for (let isLast = false; !isLast;) {
    demand(input, end, BLOCK_HEADER_LENGTH, 'block header');
    const block = parseBlockHeader(input, end, frame, { offset: end });
    isLast = block.isLast;
    const after = isLast ? lengthAfterBlock(block, frame) : 0;
    demand(input, end, BLOCK_HEADER_LENGTH + block.length + after, 'block');
    const content = end + BLOCK_HEADER_LENGTH;
    end = content + block.length;
    decoder.decode(block, input.subarray(content, end));
    const { pending } = decoder;
    if (written + pending > output.length) {
      throw frameError('CORRUPT', 'decodes to more bytes than expected', place);
    }
    decoder.takeInto(output, written);
    written += pending;
    if (isLast) decoder.finish(input, end);
    end += after;
  }
  if (written !== (frame.contentSize ?? written)) throw wrongSize(frame, written, place);
  return { written, end };
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
