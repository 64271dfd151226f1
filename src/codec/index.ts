/** The list of codecs. They are loaded when they decode: most images need one of them, or none. */

import type { Codec } from '../types.ts';
import { hasXzParts, isGzip, isLz4, isXz, isZstd } from './magic.ts';

/** Their magic numbers exclude each other but for skippable frames, which zstd and LZ4 share: zstd is asked first. */
export const codecs: readonly Codec[] = [
  {
    name: 'gzip',
    matches: isGzip,
    decode: later(async () => (await import('./gzip.ts')).gzip),
  },
  {
    name: 'xz',
    matches: isXz,
    hasParts: hasXzParts,
    decode: later(async () => (await import('./xz.ts')).xz),
  },
  {
    name: 'zstd',
    matches: isZstd,
    decode: later(async () => (await import('./zstd.ts')).zstd),
  },
  {
    name: 'lz4',
    matches: isLz4,
    decode: later(async () => (await import('./lz4.ts')).lz4),
  },
];

/** `decode` of the codec that `load` brings. */
function later(load: () => Promise<Codec>): Codec['decode'] {
  return async function* decode(bytes, context) {
    yield* (await load()).decode(bytes, context);
  };
}

/** The codec whose magic `head` starts with. */
export function detectCodec(head: Uint8Array): Codec | undefined {
  return codecs.find((codec) => codec.matches(head));
}
