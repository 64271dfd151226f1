/** How much a disk may grow out of its image: the end of decompression bombs and of clusters used over and over. */

import { isZero } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { Limits } from '../limits.ts';
import type { Run } from '../types.ts';

/** What is known of the input while it is read, in bytes. */
export interface InputProgress {
  readonly name: string;
  /** Of all files that make up the disk: the image, its backing files, its data file. */
  readonly sourceSize: number | undefined;
  /** Of the same files. A seeking reader may read bytes more than once. */
  readonly bytesRead: number;
}

/**
 * A function to call with the count of bytes of the disk so far that are not zero (`Totals.diskSize`). It throws `LIMIT` when they
 * are more than `ratioFloor`, and more than `ratio` for each byte of `input` so far; what was read twice counts once.
 * Zeros do not count: an empty disk of any size is a few bytes.
 */
export function makeRatioGuard(
  input: InputProgress,
  { ratio, ratioFloor }: Pick<Limits, 'ratio' | 'ratioFloor'>,
): (diskSize: number) => void {
  return (diskSize) => {
    if (diskSize <= ratioFloor) return;
    const read = Math.min(input.bytesRead, input.sourceSize ?? Infinity);
    if (diskSize <= ratio * read) return;
    throw new SparsecopyError(
      'LIMIT',
      `has become ${diskSize} bytes of data out of ${read}, more than ${ratio} for each`,
      { source: input.name, limit: 'ratio', expected: ratio, found: diskSize / read },
    );
  };
}

/** What is looked at at a time: the last part of a run may be shorter. */
const BLOCK = 4096;

/**
 * `runs`, counted for `check` (of `makeRatioGuard`) as they pass: what comes out of a compression need not become part of the disk to
 * fill a temporary file.
 */
export async function* boundedRuns(
  runs: AsyncIterable<Run>,
  check: (dataSize: number) => void,
): AsyncGenerator<Run, void, void> {
  let dataSize = 0;
  for await (const run of runs) {
    if (run.kind === 'data') {
      const { bytes } = run;
      for (let at = 0; at < bytes.length; at += BLOCK) {
        const end = Math.min(at + BLOCK, bytes.length);
        if (!isZero(bytes, at, end)) dataSize += end - at;
      }
      check(dataSize);
    }
    yield run;
  }
}
