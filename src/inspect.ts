/** Looks at an image without writing: what its headers and tables say, and where its data lies. */

import { DEFAULT_GRAIN, makeZeroSplitter } from './chunk/zeros.ts';
import { identify, open, type OpenOptions } from './open.ts';
import type { Input } from './source/input.ts';
import type { Chunk, CodecName, Extent, ImageDetails } from './types.ts';

/** What `info` tells; sizes are in bytes. */
export interface ImageInfo extends Omit<ImageDetails, 'virtualSize'> {
  readonly name: string;
  /** The compressions around the image, outermost first. */
  readonly codecs: readonly CodecName[];
  /** Size of the disk with its zeros; absent where only decompressing everything would tell. */
  readonly virtualSize: number | undefined;
  /** Size of the input as it came, when known. */
  readonly sourceSize: number | undefined;
}

/**
 * What the headers and tables of `input` say. No data is read but what is needed to recognise it, nothing an image names
 * is opened, and an image that `sparsecopy` would refuse for what it refers to is described all the same.
 * @throws SparsecopyError as opening does, for headers and tables that are not sound.
 */
export async function info(input: Input, options: OpenOptions = {}): Promise<ImageInfo> {
  const identified = await identify(input, options);
  try {
    const { name, codecs, sourceSize, format, details } = identified;
    return { name, codecs, sourceSize, format, virtualSize: undefined, ...details };
  } finally {
    await identified[Symbol.asyncDispose]();
  }
}

/**
 * The extents of the disk in `input`, ascending and gapless, neighbours of different kinds. From tables and holes where the
 * input can seek; where it passes once, it is read to its end, and zeros are looked for in raw bytes.
 */
export async function* map(
  input: Input,
  options: OpenOptions = {},
): AsyncGenerator<Extent, void, void> {
  const opened = await open(input, options);
  try {
    if (opened.disk !== undefined) yield* opened.disk.extents();
    else if (opened.format === 'raw') yield* merged(scanned(opened.chunks()));
    else yield* merged(await sorted(opened.chunks({ anyOrder: true })));
  } finally {
    await opened[Symbol.asyncDispose]();
  }
}

/** `chunks` with their zero blocks told apart, without their bytes. */
async function* scanned(chunks: AsyncIterable<Chunk>): AsyncGenerator<Extent, void, void> {
  const splitter = makeZeroSplitter(DEFAULT_GRAIN);
  function* places(pieces: Iterable<Chunk>): Generator<Extent> {
    for (const piece of pieces) {
      yield { kind: piece.kind, offset: piece.offset, length: piece.length };
      if (piece.kind === 'data') piece.release?.();
    }
  }
  for await (const chunk of chunks) yield* places(splitter.push(chunk));
  yield* places(splitter.end());
}

/** Where `chunks` lie, in order. */
async function sorted(chunks: AsyncIterable<Chunk>): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const chunk of chunks) {
    const { kind, offset, length } = chunk;
    if (chunk.kind === 'data') chunk.release?.();
    const last = extents.at(-1);
    if (last?.kind === kind && last.offset + last.length === offset) {
      extents[extents.length - 1] = { kind, offset: last.offset, length: last.length + length };
    } else extents.push({ kind, offset, length });
  }
  return extents.sort((a, b) => a.offset - b.offset);
}

/** `extents` with neighbours of one kind joined. */
async function* merged(
  extents: AsyncIterable<Extent> | Iterable<Extent>,
): AsyncGenerator<Extent, void, void> {
  let last: Extent | undefined;
  for await (const extent of extents) {
    if (last?.kind === extent.kind) last = { ...last, length: last.length + extent.length };
    else {
      if (last !== undefined) yield last;
      last = extent;
    }
  }
  if (last !== undefined) yield last;
}
