/** The ranges of an image that has compressed clusters, moved by a thread from its file to another: read, decoded and written there. */

import type { JobResult, Moved } from '../../types.ts';
import { SLICE, makeMover, type Move, type MoveRange } from '../../sink/mover-job.ts';
import { decoderFor, type Compression, type Decode } from './clusters-job.ts';
import { clusterError } from './decoder.ts';
import { groupPieces, hostEnd, type Piece } from './gather.ts';

/** How the clusters of an image's file are compressed. */
export interface ClusterCompression extends Compression {
  readonly clusterSize: number;
  /** In bytes. */
  readonly fileSize: number;
}

interface ClusterMove extends Move {
  readonly compression: ClusterCompression;
}

/** What is decoded before it is written, and what was read for it; they grow with the clusters. */
let output: Buffer = Buffer.alloc(0);
let input: Buffer = Buffer.alloc(0);

/** The job `move-clusters`. It throws what a `Mover` throws, and what decoding throws. */
export async function moveClusters(task: ClusterMove): Promise<JobResult> {
  return { answer: moveAll(task, await decoderFor(task.compression)) };
}

function moveAll({ compression, ...task }: ClusterMove, decode: Decode): Moved {
  const { name, ranges } = task;
  const { clusterSize, fileSize } = compression;
  const mover = makeMover(task);
  const outputSize = Math.max(SLICE, clusterSize);
  // The bits of a compressed cluster's length end at twice its size.
  const inputSize = Math.max(SLICE, 2 * clusterSize);
  if (output.length < outputSize) output = Buffer.allocUnsafeSlow(outputSize);
  if (input.length < inputSize) input = Buffer.allocUnsafeSlow(inputSize);
  for (let at = 0; at < ranges.length;) {
    const range = rangeAt(ranges, at);
    if (range.hostLength === undefined) {
      mover.move(range);
      at++;
      continue;
    }
    const { pieces, length } = neighbours(ranges, at, clusterSize);
    for (const { start, end, pieces: group } of groupPieces(pieces, inputSize)) {
      const bytes = input.subarray(0, Math.min(end, fileSize) - start);
      mover.read(bytes, start);
      for (const piece of group) decodeOne(decode, piece, bytes, start, name, fileSize);
    }
    mover.write(output.subarray(0, length), range.offset);
    at += pieces.length;
  }
  return mover.moved;
}

function rangeAt(ranges: readonly MoveRange[], at: number): MoveRange {
  const range = ranges[at];
  if (range === undefined) throw new TypeError('there is no such range');
  return range;
}

/** The compressed clusters from `first` on that follow each other on the disk, as many as there is room for, and how long they are. */
function neighbours(
  ranges: readonly MoveRange[],
  first: number,
  clusterSize: number,
): { readonly pieces: Piece[]; readonly length: number } {
  const pieces: Piece[] = [];
  const start = rangeAt(ranges, first).offset;
  let length = 0;
  for (const { offset, hostOffset, hostLength, length: more } of ranges.slice(
    first,
    first + Math.ceil(output.length / clusterSize),
  )) {
    const hasRoom = length + clusterSize <= output.length;
    if (hostLength === undefined || offset !== start + length || !hasRoom) break;
    // The disk may end within its last cluster, which is decoded whole.
    const target = output.subarray(length, length + clusterSize);
    const run = {
      kind: 'compressed',
      offset,
      length: clusterSize,
      hostOffset,
      hostLength,
    } as const;
    pieces.push({ run, target });
    length += more;
  }
  return { pieces, length };
}

/** Decodes a cluster, whose bytes lie in `bytes`, which start at `start` in the file. */
function decodeOne(
  decode: Decode,
  { run, target }: Piece,
  bytes: Uint8Array,
  start: number,
  name: string,
  fileSize: number,
): void {
  if (run.kind !== 'compressed') throw new TypeError('only compressed clusters are decoded');
  try {
    decode(bytes.subarray(run.hostOffset - start, hostEnd(run) - start), target);
  } catch (error) {
    throw clusterError(error, run, name, hostEnd(run) > fileSize);
  }
}
