/** Which sink a destination needs, and what must be true of it before anything is written. */

import * as fs from 'node:fs';
import type { Writable } from 'node:stream';
import { isZero } from '../bytes.ts';
import { SparsecopyError, inStep, markStep, type Step } from '../errors.ts';
import { deviceSize, identityOf, kindOf, type FileIdentity } from '../stat.ts';
import { existingFile, tooSmall } from './existing.ts';
import { flat } from './flat.ts';
import type { Sink } from './sink.ts';
import { sparseFile, type MovingSink } from './sparse-file.ts';

export interface DestinationOptions {
  readonly overlay?: boolean;
  readonly nocheck?: boolean;
  readonly blockSize?: number;
  readonly seek?: number;
  readonly finalSize?: number;
  readonly check?: boolean;
  readonly syncEvery?: number;
  /** Size of what will be written in bytes, when known: a device that is too small is refused before it is touched. */
  readonly expectedSize?: number;
  /** The files and devices that are being read. */
  readonly sourceIdentities?: readonly FileIdentity[];
}

export interface Destination {
  readonly sink: Sink;
  /** The sink again, when it is a new file, which can fetch bytes itself. */
  readonly newFile?: MovingSink;
  /** True when a zero chunk means work: the sink looks at each zero block, so these should be as small as the caller's. */
  readonly looksAtZeros: boolean;
  /** True when chunks must come in disk order. */
  readonly needsOrder: boolean;
}

/**
 * The sink for `target`: standard output (`-`), a stream, or a path. A path that names nothing or a regular file gets a new
 * file, unless `overlay` keeps the old one; a device is written in place.
 * @throws SparsecopyError `DESTINATION` when the target is the source, a folder, too small, or not zero where `check` looks.
 */
export async function openDestination(
  target: string | Writable,
  options: DestinationOptions,
): Promise<Destination> {
  if (typeof target !== 'string' || target === '-') {
    const name = target === '-' ? 'standard output' : 'the output stream';
    if (target === '-') {
      const stats = fs.fstatSync(1);
      if (stats.isFile()) refuseSame(name, stats, options);
    }
    refuseSeek(name, options);
    return {
      sink: flat(target === '-' ? process.stdout : target),
      looksAtZeros: false,
      needsOrder: true,
    };
  }

  const path = await realPath(target);
  const stats = await inStep('destination', statIfThere(path));
  if (stats === undefined) return newFile(path, options);
  refuseSame(target, stats, options);
  if (stats.isDirectory() || stats.isSocket()) {
    throw refusal('destination', target, `is ${kindOf(stats)}`);
  }
  if (stats.isCharacterDevice() || stats.isFIFO()) {
    refuseSeek(target, options);
    return { sink: flat(path), looksAtZeros: false, needsOrder: true };
  }
  if (options.check === true) await checkFirstBlock(path, options);
  if (stats.isFile() && options.overlay !== true) {
    return newFile(path, options);
  }
  if (stats.isBlockDevice() && options.expectedSize !== undefined) {
    await checkRoom(path, stats, (options.seek ?? 0) + options.expectedSize);
  }
  return { sink: existingFile(path, options), looksAtZeros: true, needsOrder: false };
}

function newFile(path: string, options: DestinationOptions): Destination {
  const sink = sparseFile(path, options);
  return { sink, newFile: sink, looksAtZeros: false, needsOrder: false };
}

/**
 * `target` with its links followed, so that a link to a file stays a link; a name that is not there stays as it is, and so does
 * a link to what has no name (/dev/stdout where that is a pipe).
 */
async function realPath(target: string): Promise<string> {
  const stats = await fs.promises.lstat(target).catch(() => undefined);
  if (stats?.isSymbolicLink() !== true) return target;
  try {
    return await fs.promises.realpath(target);
  } catch (error) {
    if ((await statIfThere(target).catch(() => undefined)) !== undefined) return target;
    throw markStep(error, 'destination');
  }
}

async function statIfThere(path: string): Promise<fs.Stats | undefined> {
  try {
    return await fs.promises.stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function refusal(step: Step, target: string, sentence: string): unknown {
  return markStep(new SparsecopyError('DESTINATION', sentence, { source: target }), step);
}

function refuseSame(target: string, stats: fs.Stats, options: DestinationOptions): void {
  const identity = identityOf(stats);
  if (identity !== undefined && options.sourceIdentities?.includes(identity) === true) {
    throw refusal('destination', target, 'is the same file as the source');
  }
}

function refuseSeek(target: string, { seek = 0, overlay, check }: DestinationOptions): void {
  if (seek > 0)
    throw refusal('seek', target, 'cannot seek, so a position to start at means nothing');
  if (overlay === true)
    throw refusal('seek', target, 'cannot seek, so nothing can be laid over it');
  if (check === true)
    throw refusal('check-read', target, 'cannot be read, so its first block cannot be checked');
}

async function checkRoom(path: string, stats: fs.Stats, needed: number): Promise<void> {
  const handle = await inStep('destination', fs.promises.open(path, 'r'));
  try {
    const size = await inStep('destination', deviceSize(handle.fd, stats));
    if (needed > size) throw tooSmall(path, needed, size);
  } finally {
    await handle.close();
  }
}

/** The C tool's `-c`: the first block, and the one where writing starts, must be zero as far as they are there. */
async function checkFirstBlock(
  path: string,
  { blockSize = 512, seek = 0 }: DestinationOptions,
): Promise<void> {
  const handle = await inStep('destination', fs.promises.open(path, 'r'));
  try {
    for (const position of new Set([0, seek])) {
      const block = Buffer.alloc(blockSize);
      const { bytesRead } = await inStep('check-read', handle.read(block, 0, blockSize, position));
      if (!isZero(block, 0, bytesRead)) {
        throw refusal(
          'check-found',
          path,
          `the block of ${blockSize} bytes at ${position} is not zero`,
        );
      }
    }
  } finally {
    await handle.close();
  }
}
