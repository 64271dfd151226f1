/**
 * Decodes one block of .xz (section 3 of the format), from behind its header to its check: LZMA2, filters, sizes, check. It waits for nothing
 * and knows no stream, so that it can run in any thread.
 */

import { SparsecopyError } from '../errors.ts';
import type { Run } from '../types.ts';
import type { Check } from './xz-check.ts';
import { parseChunk } from './xz-decoder.ts';
import type { Chunk, Lzma2Decoder } from './xz-decoder.ts';
import { endOfFilters, throughFilters } from './xz-filter.ts';
import type { BlockHeader } from './xz-header.ts';

/** Where a block is, for messages; in bytes from the start of the input `name`. */
export interface BlockPlace {
  readonly name: string;
  /** Of its header. */
  readonly start: number;
  /** Of what follows the header: the first chunk. */
  readonly data: number;
}

export interface BlockDecoder {
  /** Bytes that have come out so far. */
  readonly uncompressed: number;
  /** Length of the check in bytes. */
  readonly checkLength: number;
  /**
   * Starts the next chunk, the header of which `head` starts with. Undefined when `head` is too short for it.
   * @throws SparsecopyError `CORRUPT` when it is none, or more than the sizes in the block's header allow.
   */
  start(head: Uint8Array): Chunk | undefined;
  /**
   * Decodes that chunk: `data` is what follows its header, and may be shorter than it should be, where the input ends. A chunk with control 0
   * ends the block. What comes out is the receiver's; it may come later than its chunk.
   * @throws SparsecopyError `CORRUPT`, but not for being too short; `LIMIT` when there is no memory for the dictionary.
   */
  push(data: Uint8Array): Generator<Run, void>;
  /**
   * Compares the check with `stored`, which is at `offset` of the input. To be called at the end of the block.
   * @throws SparsecopyError `CORRUPT`.
   */
  verify(stored: Uint8Array, offset: number): void;
}

/** A decoder of the block with the header `block`; `lzma` is its own until the block ends. */
export function makeBlockDecoder(
  block: BlockHeader,
  check: Check,
  lzma: Lzma2Decoder,
  place: BlockPlace,
): BlockDecoder {
  const { name, data: first } = place;
  const filters = block.filters.map((make) => make());
  /** Where the present chunk is, and where it ends. */
  let offset = first;
  let end = first;
  let current: Chunk | undefined;
  /** What the chunks up to now promise, and what has come out. */
  let promised = 0;
  let length = 0;
  let digest: Buffer | undefined;

  const corrupt = (at: number, sentence: string): SparsecopyError =>
    new SparsecopyError('CORRUPT', sentence, { source: name, offset: at });

  function demandSize(what: string, found: number, expected: number | undefined): void {
    if (expected === undefined || found === expected) return;
    throw new SparsecopyError(
      'CORRUPT',
      `block at ${first} has ${found} bytes of ${what} data, expected ${expected}`,
      { source: name, offset: first, found, expected },
    );
  }

  function demandAtMost(what: string, found: number, most: number | undefined): void {
    if (most !== undefined && found > most) demandSize(what, found, most);
  }

  function* count(runs: Iterable<Run>): Generator<Run, void> {
    for (const run of runs) {
      check.update(run);
      length += run.kind === 'zero' ? run.length : run.bytes.length;
      yield run;
    }
  }

  function* put(run: Run): Generator<Run, void> {
    yield* count(filters.length === 0 ? [run] : throughFilters(run, filters));
  }

  function* finish(): Generator<Run, void> {
    for (const run of lzma.end()) yield* put(run);
    yield* count(endOfFilters(filters));
    demandSize('uncompressed', length, block.uncompressedSize ?? promised);
    demandSize('compressed', end - first, block.compressedSize);
  }

  const fault = lzma.startBlock(block.dictionarySize, block.uncompressedSize);
  if (fault !== undefined) {
    const sentence = `block at ${place.start} cannot be decoded: ${fault.sentence}`;
    throw new SparsecopyError(fault.code, sentence, { source: name, offset: place.start });
  }

  return {
    get uncompressed(): number {
      return length;
    },
    checkLength: check.length,
    start(head): Chunk | undefined {
      const [control = 0] = head;
      if (control > 2 && control < 0x80) {
        const sentence = `LZMA2 chunk at ${end} has control byte ${control}, expected 0 to 2, or 128 to 255`;
        throw corrupt(end, sentence);
      }
      const chunk = parseChunk(head);
      if (chunk === undefined) return undefined;
      current = chunk;
      offset = end;
      end += chunk.headerLength + chunk.length;
      promised += chunk.uncompressed;
      // at once, since damage may lead beyond the end of the input
      demandAtMost('uncompressed', promised, block.uncompressedSize);
      demandAtMost('compressed', end - first, block.compressedSize);
      return chunk;
    },
    *push(data): Generator<Run, void> {
      if (current === undefined) throw new Error('push() without start()');
      if (current.control === 0) {
        yield* finish();
        return;
      }
      const runs = lzma.decode(current, data);
      let next = runs.next();
      for (; next.done !== true; next = runs.next()) yield* put(next.value);
      if (next.value === undefined) return;
      const { code, sentence, isEnd } = next.value;
      if (isEnd && data.length < current.length) return;
      throw new SparsecopyError(
        code,
        `LZMA2 chunk with bytes ${offset} to ${end} cannot be decoded: ${sentence}`,
        { source: name, offset },
      );
    },
    verify(stored, at): void {
      digest ??= check.digest();
      if (digest.equals(stored)) return;
      const found = digest.toString('hex');
      const expected = Buffer.from(stored).toString('hex');
      throw corrupt(
        at,
        `block at ${place.start} has ${check.name} ${found}, stored is ${expected}`,
      );
    },
  };
}
