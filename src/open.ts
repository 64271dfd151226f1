/** From a name or a stream to a disk that can be read, with all that it refers to. */

import { gather } from './chunk/gather.ts';
import { boundedRuns, makeRatioGuard } from './chunk/ratio.ts';
import { readChunks } from './chunk/read.ts';
import { contextOf, type ContextOptions, type Referred } from './context.ts';
import { inStep } from './errors.ts';
import { limitsOf, type Limits } from './limits.ts';
import { inOrder } from './order.ts';
import { peel, type PeelOptions } from './peel.ts';
import { checkDisk, checkSize, makeOutputGuard } from './policy.ts';
import { firstReferrer } from './references.ts';
import { bufferSource } from './source/buffer.ts';
import type { Input } from './source/input.ts';
import { ownRuns } from './source/stream.ts';
import { spool } from './spool.ts';
import type { FileIdentity } from './stat.ts';
import type { Threads } from './threads.ts';
import type {
  Bypass,
  Chunk,
  ChunkPool,
  CodecName,
  Disk,
  FormatName,
  ImageDetails,
  Parked,
  PassingDisk,
} from './types.ts';

export interface OpenOptions extends PeelOptions, ContextOptions {
  /** Folder for the temporary file that an input may need that cannot seek; default the system's. */
  readonly tempDir?: string | undefined;
}

/** An input that has been opened; dispose of it when done. */
export interface Opened extends AsyncDisposable {
  /** Of the input, for messages. */
  readonly name: string;
  readonly format: FormatName;
  /** The compressions that were peeled, outermost first. */
  readonly codecs: readonly CodecName[];
  /** What the image's headers and tables say; `undefined` for raw bytes that pass once. */
  readonly details: ImageDetails | undefined;
  /** The disk, where it can be read at any offset; `undefined` for what passes once. */
  readonly disk: Disk | undefined;
  /** Size of the disk in bytes, when known before it is read. */
  readonly virtualSize: number | undefined;
  /** Size of the input as it came, and of the files that it refers to, in bytes, when known. */
  readonly sourceSize: number | undefined;
  /** Bytes of the input and of the files that it refers to read so far, as they came. */
  readonly bytesRead: number;
  /** The files and devices that are read. */
  readonly identities: readonly FileIdentity[];
  readonly threads: Threads;
  /** What had to be kept until its place was known. */
  readonly parked: Parked;
  /**
   * The disk's content from 0 to `end`, once only where the input passes once; in order, unless `anyOrder` says that it
   * may come as it lies in the image.
   */
  chunks(options?: ChunksOptions): AsyncIterable<Chunk>;
  /** Takes note of bytes of the input that somebody else has read. */
  count(length: number): void;
  /** @throws SparsecopyError `SOURCE` when the input was changed since it was opened, as far as the policy minds. */
  checkUnchanged(): Promise<void>;
  /** Makes whoever waits for the input get `reason` at once. */
  cancel(reason: unknown): void;
}

interface ChunksOptions {
  /** In bytes, exclusive. */
  readonly end?: number | undefined;
  readonly pool?: ChunkPool | undefined;
  readonly anyOrder?: boolean | undefined;
  /** With `anyOrder` and without `end`: what may take data of an image that passes once. */
  readonly bypass?: Bypass | undefined;
}

/**
 * Opens `input`. Its errors are marked as the source's.
 * @throws SparsecopyError `SOURCE` for an input of a kind that cannot be read, `FORMAT` when the declared format is not
 * there, and whatever codec and format throw; system errors as they come.
 */
export function open(input: Input, options: OpenOptions = {}): Promise<Opened> {
  return inStep('source', openInput(input, options));
}

async function openInput(input: Input, options: OpenOptions): Promise<Opened> {
  const limits = limitsOf(options.policy, options.limits);
  const peeled = await peel(input, options, limits);
  const { name, inside, format } = peeled;
  const untrusted = options.policy === 'untrusted';
  const referred: Referred = { size: 0, identities: [] };
  const toDispose: AsyncDisposable[] = [peeled];
  const dispose = async (): Promise<void> => {
    for (let next = toDispose.pop(); next !== undefined; next = toDispose.pop()) {
      await next[Symbol.asyncDispose]();
    }
  };
  try {
    const path = typeof input === 'string' && input !== '-' ? input : undefined;
    const referrer = firstReferrer(name, path, peeled.identity, options);
    const context = contextOf(options, limits, referrer, referred, peeled.threads, (length) => {
      peeled.count(length);
    });
    let disk: Disk | undefined;
    let passing: PassingDisk | undefined;
    let spooled = 0;
    if (inside.source !== undefined) disk = await format.open(inside.source, context);
    else if (format.name !== 'raw') {
      const { tempDir } = options;
      const isPacked = inside.codecs.length > 0;
      const runs = isPacked
        ? boundedRuns(ownRuns(inside.runs), makeRatioGuard(peeled, limits))
        : inside.runs;
      passing = await format.pass?.(runs, inside.head, {
        ...context,
        name,
        tempDir,
        signal: options.signal,
      });
      if (passing === undefined) {
        const file = await spool(runs, name, tempDir);
        toDispose.push(file);
        spooled = file.size;
        disk = await format.open(file, context);
      }
    }
    const opened = disk ?? passing;
    if (opened !== undefined) toDispose.push(opened);
    if (untrusted && opened !== undefined) {
      checkSize(name, 'virtualSize', opened.size, limits);
      if (disk !== undefined && format.name !== 'raw') await checkDisk(name, disk);
    }
    let parked: Parked = passing?.parked ?? { peak: 0, spooled };
    const chunksOfAll = ({ end, pool, anyOrder, bypass }: ChunksOptions): AsyncIterable<Chunk> => {
      if (disk !== undefined) return readChunks(disk, { end, pool });
      if (inside.runs === undefined) throw new TypeError('an input without a disk passes once');
      if (passing === undefined) {
        const all = gather(inside.runs, pool, end);
        const chunks = untrusted ? limited(all, name, limits) : all;
        return end === undefined ? chunks : upTo(chunks, end);
      }
      const size = Math.min(passing.size, end ?? Infinity);
      const all = untrusted ? guarded(passing.chunks(pool), name) : passing.chunks(pool, bypass);
      // Only at its very end an image tells whether it was whole.
      const clipped = size === passing.size ? all : upTo(all, size);
      if (anyOrder === true) return clipped;
      const ordered = inOrder(clipped, size, { limits, tempDir: options.tempDir });
      parked = sumOf(passing.parked, ordered.parked);
      return ordered.chunks;
    };
    return {
      name,
      format: format.name,
      codecs: inside.codecs,
      details: opened?.details,
      disk,
      virtualSize: opened?.size,
      get sourceSize(): number | undefined {
        return peeled.sourceSize === undefined ? undefined : peeled.sourceSize + referred.size;
      },
      get bytesRead(): number {
        return peeled.bytesRead;
      },
      get identities(): readonly FileIdentity[] {
        return [...referrer.chain, ...referred.identities];
      },
      threads: peeled.threads,
      get parked(): Parked {
        return parked;
      },
      chunks: (chunksOptions = {}) => chunksOfAll(chunksOptions),
      count: (length) => peeled.count(length),
      checkUnchanged: () => peeled.checkUnchanged(),
      cancel: (reason) => peeled.cancel(reason),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose().catch(() => undefined);
    throw error;
  }
}

/** `chunks` of the image called `name`, whose disk must not be an image itself. */
async function* guarded(
  chunks: AsyncIterable<Chunk>,
  name: string,
): AsyncGenerator<Chunk, void, void> {
  const guard = makeOutputGuard(name);
  for await (const chunk of chunks) {
    guard.pass(chunk);
    yield chunk;
  }
  guard.end();
}

/** `chunks` in order, of a disk whose size is found out only now. */
async function* limited(
  chunks: AsyncIterable<Chunk>,
  name: string,
  limits: Limits,
): AsyncGenerator<Chunk, void, void> {
  for await (const chunk of chunks) {
    checkSize(name, 'virtualSize', chunk.offset + chunk.length, limits);
    yield chunk;
  }
}

/** Both, read when asked for. */
function sumOf(first: Parked, second: Parked): Parked {
  return {
    get peak(): number {
      return first.peak + second.peak;
    },
    get spooled(): number {
      return first.spooled + second.spooled;
    },
  };
}

/** `chunks`, in which each byte comes once, as far as they lie before `end`; stops when all of that has come. */
async function* upTo(chunks: AsyncIterable<Chunk>, end: number): AsyncGenerator<Chunk, void, void> {
  let left = end;
  if (left === 0) return;
  for await (const chunk of chunks) {
    const length = Math.min(chunk.length, end - chunk.offset);
    if (length <= 0) {
      if (chunk.kind === 'data') chunk.release?.();
      continue;
    }
    left -= length;
    if (length === chunk.length) yield chunk;
    else if (chunk.kind === 'zero') yield { ...chunk, length };
    else yield { ...chunk, length, bytes: chunk.bytes.subarray(0, length) };
    if (left === 0) return;
  }
}

/** What `identify` tells; dispose of it when done. */
export interface Identified extends AsyncDisposable {
  readonly name: string;
  readonly format: FormatName;
  readonly codecs: readonly CodecName[];
  readonly sourceSize: number | undefined;
  /** `undefined` for raw bytes that pass once; for another format that passes once, what its header alone says. */
  readonly details: ImageDetails | undefined;
}

/** Recognises `input` and reads its headers and tables, without opening its disk. */
export function identify(input: Input, options: OpenOptions = {}): Promise<Identified> {
  return inStep('source', identifyInput(input, options));
}

async function identifyInput(input: Input, options: OpenOptions): Promise<Identified> {
  const limits = limitsOf(options.policy, options.limits);
  const peeled = await peel(input, options, limits);
  const { name, inside, format, sourceSize } = peeled;
  const context = { limits, untrusted: options.policy === 'untrusted' };
  try {
    const details =
      inside.source !== undefined
        ? await format.describe(inside.source, context)
        : format.name === 'raw'
          ? undefined
          : await format.describe(bufferSource(inside.head, name), context, true);
    return {
      name,
      format: format.name,
      codecs: inside.codecs,
      sourceSize,
      details,
      [Symbol.asyncDispose]: () => peeled[Symbol.asyncDispose](),
    };
  } catch (error) {
    await Promise.resolve(peeled[Symbol.asyncDispose]()).catch(() => undefined);
    throw error;
  }
}
