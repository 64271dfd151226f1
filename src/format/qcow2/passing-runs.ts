/** Puts the runs of an image that passes once in their places on the disk, the one that lies first in the file first. */

import { alignDown, alignUp } from '../../bytes.ts';
import { SparsecopyError } from '../../errors.ts';
import type { Chunk } from '../../types.ts';
import type { Assembly } from './assembly.ts';
import type { ClusterPlacer } from './batches.ts';
import type { Decryptor } from './crypt.ts';
import { clusterError } from './decoder.ts';
import type { ClusterDecoder } from './inflate.ts';
import { misplaced, type Layout } from './layout.ts';
import type { PassingFile } from './passing-file.ts';
import type { Pending } from './pending.ts';
import type { CompressedRun, PlainRun } from './runs.ts';

/** Compressed data is measured in these, and encryption works on them. */
const SECTOR_SIZE = 512;

/** Bytes in one piece of this length go on as they are: copying them would cost more than one more chunk. */
const PASS_LENGTH = 256 * 1024;

/** What goes on as it is starts and ends at a multiple of this, so that no later stage has to join it; zeros are no shorter. */
const PASS_ALIGNMENT = 4096;

export interface RunParts {
  readonly layout: Layout;
  readonly file: PassingFile;
  readonly pending: Pending;
  readonly assembly: Assembly;
  readonly decode: ClusterDecoder;
  /** Takes compressed clusters past `assembly`, once it is ready. */
  readonly placer: ClusterPlacer | undefined;
  /** Takes chunks that need no assembly. */
  readonly pass: (chunk: Chunk) => void;
}

/**
 * Takes what is here of the first of the runs that are pending, all before which is settled; `decryptor` where the image is
 * encrypted. False when nothing of it is here.
 * @throws SparsecopyError what the decoder throws; `UNSUPPORTED` when what is missing has passed.
 */
export type TakeFirstRun = (decryptor: Decryptor | undefined) => Promise<boolean> | boolean;

export function makeTakeFirstRun(parts: RunParts): TakeFirstRun {
  const { layout, file, pending, assembly, decode, placer, pass } = parts;
  const { clusterSize, name } = layout;

  function takePlain(run: PlainRun): Promise<boolean> | boolean {
    const { offset, hostOffset } = run;
    if (hostOffset >= file.received) return false;
    if (hostOffset < file.atHand) return takeParked(run);
    const piece = file.pieceAt(hostOffset);
    const from = hostOffset - piece.offset;
    const here = Math.min(run.length, piece.length - from);
    if (piece.bytes === undefined && here >= PASS_ALIGNMENT) {
      pass({ kind: 'zero', offset, length: here });
      return taken(run, here);
    }
    const lead = alignUp(offset, PASS_ALIGNMENT) - offset;
    if (piece.bytes === undefined || here < lead + PASS_LENGTH) return place(run, here);
    if (lead > 0) return place(run, lead);
    const length = alignDown(here, PASS_ALIGNMENT);
    const bytes = piece.bytes.subarray(from, from + length);
    const done = taken(run, length);
    // Somebody else wants them too, and whoever gets them may change them.
    const isShared = pending.hostOffset < hostOffset + length;
    pass({ kind: 'data', offset, length, bytes: isShared ? Buffer.from(bytes) : bytes });
    return done;
  }

  async function takeParked(run: PlainRun): Promise<boolean> {
    const { offset, hostOffset } = run;
    const zeros = Math.min(run.length, file.zerosAt(hostOffset) - hostOffset);
    if (zeros >= PASS_ALIGNMENT) {
      pass({ kind: 'zero', offset, length: zeros });
      return taken(run, zeros);
    }
    const here = file.reach(hostOffset, hostOffset + run.length) - hostOffset;
    if (here === 0) throw gone(run);
    return place(run, here);
  }

  /** Copies at most `most` bytes, which are here. */
  function place(run: PlainRun, most: number): Promise<boolean> | boolean {
    const { offset, hostOffset } = run;
    const length = Math.min(most, assembly.roomAt(offset));
    const placing = assembly.place(offset, length, (target) => file.read(target, hostOffset));
    return placing === undefined ? taken(run, length) : placing.then(() => taken(run, length));
  }

  /** Whole sectors, also where the disk ends within one. */
  async function takeEncrypted(run: PlainRun, by: Decryptor): Promise<boolean> {
    const { offset, hostOffset } = run;
    if (hostOffset >= file.received) return false;
    const here = file.reach(hostOffset, hostOffset + alignUp(run.length, SECTOR_SIZE)) - hostOffset;
    const room = alignDown(Math.min(here, assembly.roomAt(offset)), SECTOR_SIZE);
    if (room === 0) {
      if (hostOffset + here < file.received) throw gone(run);
      if (!file.isEnded) return false;
      const ended = { ...layout, fileSize: file.received };
      throw misplaced(ended, `data of disk offset ${offset}`, hostOffset, SECTOR_SIZE);
    }
    const decrypt = (target: Buffer): void => by.decrypt(target, hostOffset, offset);
    const length = Math.min(room, run.length);
    const fill = (target: Buffer): Promise<void> | undefined => {
      const reading = file.read(target, hostOffset);
      if (reading !== undefined) return reading.then(() => decrypt(target));
      decrypt(target);
      return undefined;
    };
    await assembly.place(offset, length, fill, room);
    return taken(run, length);
  }

  /** Notes that the first `length` bytes of `run`, which is the first, are taken. */
  function taken(run: PlainRun, length: number): Promise<boolean> | boolean {
    const end = run.hostOffset + length;
    const isWhole = length === run.length;
    if (isWhole) pending.pop();
    else pending.shorten(length);
    const settling = file.settle(isWhole ? alignUp(end, clusterSize) : end);
    return settling === undefined ? true : settling.then(() => true);
  }

  async function takeCompressed(run: CompressedRun): Promise<boolean> {
    const { offset, length, hostOffset } = run;
    const whole = hostOffset + run.hostLength;
    const end = file.isEnded ? Math.min(whole, file.received) : whole;
    await file.settleGap(hostOffset);
    if (end > file.received) return false;
    // Data that is known later may begin or end within the sectors in which this begins and ends.
    await file.settleGap(Math.min(alignUp(hostOffset, SECTOR_SIZE), end));
    const reach = file.reach(hostOffset, end);
    if (reach === hostOffset) throw gone(run);
    pending.pop();
    const errorOf = (error: unknown): unknown =>
      reach < end ? gone(run) : clusterError(error, run, name, end < whole);
    const decodeInto = async (target: Buffer, bytes: Buffer): Promise<void> => {
      try {
        await decode(bytes, target);
      } catch (error) {
        throw errorOf(error);
      }
    };
    if (hostOffset >= file.atHand && placer?.isReady === true) {
      const input = file.slice(hostOffset, reach);
      await placer.place({ input, offset, length, errorOf });
    } else if (hostOffset >= file.atHand) {
      const bytes = file.slice(hostOffset, reach);
      const fill = (target: Buffer): Promise<void> => decodeInto(target, bytes);
      await assembly.placeLater(offset, length, fill, clusterSize);
    } else {
      const fill = async (target: Buffer): Promise<void> => {
        const bytes = Buffer.allocUnsafe(reach - hostOffset);
        await file.read(bytes, hostOffset);
        await decodeInto(target, bytes);
      };
      await assembly.place(offset, length, fill, clusterSize);
    }
    await file.settle(end - SECTOR_SIZE);
    return true;
  }

  /** The error for `run`, bytes of which have passed and were taken for something else. */
  function gone({ offset, hostOffset }: PlainRun | CompressedRun): SparsecopyError {
    return takenBefore(name, `data of disk offset ${offset}`, hostOffset);
  }

  return (decryptor) => {
    const run = pending.first();
    if (run.kind === 'compressed') return takeCompressed(run);
    const settling = file.settleGap(alignDown(run.hostOffset, clusterSize));
    const take = (): Promise<boolean> | boolean =>
      decryptor === undefined ? takePlain(run) : takeEncrypted(run, decryptor);
    return settling === undefined ? take() : settling.then(take);
  };
}

/** The error for `what`, whose bytes have passed and were taken for something else. */
export function takenBefore(name: string, what: string, hostOffset: number): SparsecopyError {
  const sentence = `${what} is at ${hostOffset}, where something else is, too: such an image can only be read from an input that can seek`;
  return new SparsecopyError('UNSUPPORTED', sentence, {
    source: name,
    offset: hostOffset,
    feature: 'two owners of one cluster in one pass',
  });
}
