/** Blocks of .xz decoded by several threads at once, and put out in order. */

import type { Threads } from '../threads.ts';
import type { Run } from '../types.ts';
import { ENOUGH } from './decode-protocol.ts';
import { decodeRemotely, makeArea, type Area } from './remote.ts';
import type { XzBlock } from './xz-blocks.ts';
import type { BlockHeader } from './xz-header.ts';

/** The runs of a block. */
export interface BlockRuns {
  readonly runs: AsyncGenerator<Run, void>;
  /** Another thread decodes it: the blocks after it may be begun before its runs have been taken. */
  readonly isAway: boolean;
  /** What it takes until its runs have been taken, in bytes. */
  readonly memory: number;
}

/** What one block puts out at most before somebody takes it, but for zeros, which most blocks of 24 MiB (`xz -T`) have enough of. */
const AHEAD = 12 * 1024 * 1024;

/** What all blocks take that are under way. */
const MEMORY = 64 * 1024 * 1024;

/** Parts of the area for each thread: its input, as many as it may be ahead, and those that are on their way to the sink. */
const PARTS = 32;
const MOST_PARTS = 128;

/** The memory for all blocks of an input. */
export function areaFor({ size }: Threads): Area {
  return makeArea(Math.min(PARTS * size, MOST_PARTS));
}

/** `block`, all of which but its header is in `pieces`, `length` bytes, in a thread of `threads`. */
export function blockAway(
  pieces: readonly Uint8Array[],
  length: number,
  block: XzBlock,
  { dictionarySize, uncompressedSize = Infinity }: BlockHeader,
  threads: Threads,
  area: Area,
): BlockRuns {
  const ahead = Math.min(uncompressedSize, AHEAD);
  const memory = length + ahead + Math.min(dictionarySize, uncompressedSize);
  const runs = decodeRemotely(threads, { xzBlock: block }, each(pieces), {
    ahead: 1 + Math.ceil(ahead / ENOUGH),
    isWhole: true,
    area,
  });
  return { isAway: true, memory, runs };
}

// eslint-disable-next-line @typescript-eslint/require-await
async function* each(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void> {
  yield* pieces;
}

/** A block that has been begun. */
interface Begun extends BlockRuns {
  readonly first: Promise<IteratorResult<Run, void>>;
}

/**
 * The runs of `blocks`, in order. Blocks that are decoded elsewhere are begun while those before them are taken, up to `most` at a
 * time. What is wrong with a block is thrown after all runs before it, as it is without threads.
 */
export async function* inTurn(
  blocks: AsyncGenerator<BlockRuns, void>,
  most: number,
): AsyncGenerator<Run, void> {
  const begun: Begun[] = [];
  async function* takeUntil(hasRoom: () => boolean): AsyncGenerator<Run, void> {
    for (let [block] = begun; block !== undefined && !hasRoom(); [block] = begun) {
      const { done, value } = await block.first;
      if (done !== true) {
        yield value;
        yield* block.runs;
      }
      begun.shift();
    }
  }
  const isEmpty = (): boolean => begun.length === 0;
  try {
    for (;;) {
      yield* takeUntil(() => begun.length < most);
      let next: IteratorResult<BlockRuns, void>;
      try {
        next = await blocks.next();
      } catch (error) {
        yield* takeUntil(isEmpty);
        throw error;
      }
      if (next.done === true) break;
      const { runs, isAway, memory } = next.value;
      const hasMemory = (): boolean =>
        begun.reduce((sum, block) => sum + block.memory, memory) <= MEMORY || isEmpty();
      yield* takeUntil(isAway ? hasMemory : isEmpty);
      if (isAway) {
        const first = runs.next();
        first.catch(() => undefined);
        begun.push({ ...next.value, first });
      } else yield* runs;
    }
    yield* takeUntil(isEmpty);
  } finally {
    await Promise.allSettled(begun.map(({ runs }) => runs.return()));
    await blocks.return();
  }
}
