/** Which pieces of the file are worth getting by one read. */

import type { CompressedRun, PlainRun } from './runs.ts';

/** A run of the disk that has bytes in the file, and where they are to go once they are plain. */
export interface Piece {
  readonly run: PlainRun | CompressedRun;
  /** As long as the run; for a compressed run, a whole cluster. */
  readonly target: Uint8Array;
}

/** Pieces for one read of the file from `start` to `end` (exclusive). */
export interface Group {
  start: number;
  end: number;
  readonly pieces: Piece[];
}

/** Pieces with less than this between them are got by one read: a read costs about as much as copying this much. */
const GAP = 64 * 1024;

/**
 * `pieces` in groups by where they lie in the file, whatever their order on the disk (a writer of compressed clusters
 * has several under way, and they land as they finish). No group is longer than `most`, which has room for any one.
 */
export function groupPieces(pieces: readonly Piece[], most: number): Group[] {
  const groups: Group[] = [];
  let group: Group | undefined;
  for (const piece of [...pieces].sort((a, b) => a.run.hostOffset - b.run.hostOffset)) {
    const start = piece.run.hostOffset;
    const end = hostEnd(piece.run);
    if (group !== undefined && start <= group.end + GAP && end - group.start <= most) {
      group.pieces.push(piece);
      group.end = Math.max(group.end, end);
    } else {
      group = { start, end, pieces: [piece] };
      groups.push(group);
    }
  }
  return groups;
}

/**
 * Ranges that cover `runs`, which are in the order of the disk, each of them worth one read: what lies between two runs
 * may be read with them.
 */
export function joinRanges(
  runs: readonly { readonly offset: number; readonly length: number }[],
): { start: number; end: number }[] {
  const ranges: { start: number; end: number }[] = [];
  for (const { offset, length } of runs) {
    const last = ranges.at(-1);
    if (last !== undefined && offset <= last.end + GAP) last.end = offset + length;
    else ranges.push({ start: offset, end: offset + length });
  }
  return ranges;
}

/** Where the bytes of `run` end in the file (exclusive). */
export function hostEnd(run: Piece['run']): number {
  return run.hostOffset + (run.kind === 'plain' ? run.length : run.hostLength);
}
