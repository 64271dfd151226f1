/** The list of codecs. What is heavy in them (WebAssembly, native parts) they load when they decode. */

import type { Codec } from '../types.ts';
import { gzip } from './gzip.ts';
import { lz4 } from './lz4.ts';
import { xz } from './xz.ts';
import { zstd } from './zstd.ts';

/** Their magic numbers exclude each other but for skippable frames, which zstd and lz4 share: zstd is asked first. */
export const codecs: readonly Codec[] = [gzip, xz, zstd, lz4];

/** The codec whose magic `head` starts with. */
export function detectCodec(head: Uint8Array): Codec | undefined {
  return codecs.find((codec) => codec.matches(head));
}
