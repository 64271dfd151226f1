/** From a name or a stream to a disk: the input found, its compressions peeled, its format recognised. */

import { gather } from './chunk/gather.ts';
import type { Pool } from './chunk/pool.ts';
import { readChunks } from './chunk/read.ts';
import { detectCodec } from './codec/index.ts';
import { SparsecopyError, inStep } from './errors.ts';
import { detectFormat, formats } from './format/index.ts';
import { defaultLimits, type Limits } from './limits.ts';
import { bufferSource } from './source/buffer.ts';
import { findInput, type FoundInput, type Input } from './source/input.ts';
import {
  bytesOfRuns,
  bytesOfSource,
  cancellable,
  countedBytes,
  peekRuns,
  runsOf,
} from './source/stream.ts';
import { spool } from './spool.ts';
import type { FileIdentity } from './stat.ts';
import type {
  ByteStream,
  Chunk,
  CodecName,
  Disk,
  Format,
  FormatName,
  ImageDetails,
  Run,
  Source,
} from './types.ts';

export interface OpenOptions {
  /** The image's format; by default it is recognised. An image that is declared qcow2 and is not is refused. */
  readonly format?: FormatName;
  /** Peel compressions off first, as often as there are any; default true. */
  readonly decompress?: boolean;
  /** Limits that differ from the defaults. */
  readonly limits?: Partial<Limits>;
  /** Folder for the temporary file that a format needs when its input cannot seek; default the system's. */
  readonly tempDir?: string;
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
  /** The disk, where it can be read at any offset; `undefined` for raw bytes that pass once. */
  readonly disk: Disk | undefined;
  /** Size of the disk in bytes, when known before it is read. */
  readonly virtualSize: number | undefined;
  /** Size of the input as it came, in bytes, when known. */
  readonly sourceSize: number | undefined;
  /** Bytes of the input read so far, as they came. */
  readonly bytesRead: number;
  /** The file or device that is read; `undefined` for streams. */
  readonly identity: FileIdentity | undefined;
  /** The disk's content in order, from 0 to `end`. Once only, where the input passes once. */
  chunks(options?: { readonly end?: number; readonly pool?: Pool }): AsyncIterable<Chunk>;
  /** Takes note of bytes of the input that somebody else has read. */
  count(length: number): void;
  /** Makes whoever waits for the input get `reason` at once. */
  cancel(reason: unknown): void;
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
  const begun = await begin(input, options);
  const { name, peeled, format } = begun;
  try {
    const disk = await openDisk(begun, options);
    return {
      name,
      format: format.name,
      codecs: peeled.codecs,
      details: disk?.details,
      disk,
      virtualSize: disk?.size,
      sourceSize: begun.sourceSize,
      get bytesRead(): number {
        return begun.bytesRead();
      },
      identity: begun.identity,
      chunks: ({ end, pool } = {}) =>
        disk !== undefined
          ? readChunks(disk, { end, pool })
          : gather(peeled.runs as AsyncIterable<Run>, pool, end),
      count: begun.count,
      cancel: begun.cancel,
      [Symbol.asyncDispose]: begun.dispose,
    };
  } catch (error) {
    await begun.dispose().catch(() => undefined);
    throw error;
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
  const begun = await begin(input, options);
  const { name, peeled, format, limits, sourceSize } = begun;
  try {
    const details =
      peeled.source !== undefined
        ? await format.describe(peeled.source, { limits })
        : format.name === 'raw'
          ? undefined
          : await format.describe(bufferSource(peeled.head, name), { limits }, true);
    return {
      name,
      format: format.name,
      codecs: peeled.codecs,
      sourceSize,
      details,
      [Symbol.asyncDispose]: begun.dispose,
    };
  } catch (error) {
    await begun.dispose().catch(() => undefined);
    throw error;
  }
}

/** An input whose compressions are peeled and whose format is recognised. */
interface Begun {
  readonly name: string;
  readonly limits: Limits;
  readonly peeled: Peeled;
  readonly format: Format;
  readonly sourceSize: number | undefined;
  readonly identity: FileIdentity | undefined;
  readonly bytesRead: () => number;
  readonly count: (length: number) => void;
  readonly cancel: (reason: unknown) => void;
  /** What else is to be disposed of, before the input. */
  readonly toDispose: (() => PromiseLike<unknown>)[];
  readonly dispose: () => Promise<void>;
}

async function begin(input: Input, options: OpenOptions): Promise<Begun> {
  const limits = { ...defaultLimits, ...options.limits };
  const found = await findInput(input);
  const stop = new AbortController();
  let bytesRead = 0;
  const count = (length: number): void => {
    bytesRead += length;
  };
  const toDispose: (() => PromiseLike<unknown>)[] = [found.dispose];
  const dispose = async (): Promise<void> => {
    for (let step = toDispose.pop(); step !== undefined; step = toDispose.pop()) await step();
  };
  try {
    const peeled = await peel(counted(found, count), options, limits, stop.signal);
    const { runs } = peeled;
    if (runs !== undefined) toDispose.push(() => runs.return());
    const probe = { head: peeled.head, size: peeled.source?.size };
    return {
      name: found.name,
      limits,
      peeled,
      format: chooseFormat(found.name, options.format, probe),
      sourceSize: found.source?.size,
      identity: found.identity,
      bytesRead: () => bytesRead,
      count,
      cancel: (reason) => stop.abort(reason),
      toDispose,
      dispose,
    };
  } catch (error) {
    await dispose().catch(() => undefined);
    throw error;
  }
}

/** The disk of what was begun; `undefined` for raw bytes that pass once. A format that must seek gets its file spooled. */
async function openDisk(
  { name, limits, peeled, format, toDispose }: Begun,
  options: OpenOptions,
): Promise<Disk | undefined> {
  if (peeled.source === undefined && format.name === 'raw') return undefined;
  let file: Source;
  if (peeled.source !== undefined) file = peeled.source;
  else {
    const spooled = await spool(peeled.runs, name, options.tempDir);
    toDispose.push(() => spooled[Symbol.asyncDispose]());
    file = spooled;
  }
  const disk = await format.open(file, { limits });
  toDispose.push(() => disk[Symbol.asyncDispose]());
  return disk;
}

/** What is left when all compressions are peeled: something that can seek, or something that passes once. */
type Peeled = { readonly head: Uint8Array; readonly codecs: readonly CodecName[] } & (
  | { readonly source: Source; readonly runs?: undefined }
  | { readonly source?: undefined; readonly runs: AsyncGenerator<Run, void, void> }
);

async function peel(
  input: FoundInput,
  options: OpenOptions,
  limits: Limits,
  signal: AbortSignal,
): Promise<Peeled> {
  const { name, source } = input;
  const codecNames: CodecName[] = [];
  let head: Uint8Array;
  let passing: Awaited<ReturnType<typeof peekRuns>> | undefined;
  if (source === undefined) {
    passing = await peekRuns(runsOf(cancellable(input.bytes, signal)), limits.probeHead);
    head = passing.head;
  } else {
    head = Buffer.alloc(Math.min(limits.probeHead, source.size));
    await source.read(head, 0);
  }
  try {
    for (;;) {
      const codec = options.decompress === false ? undefined : detectCodec(head);
      if (codec === undefined) break;
      if (codecNames.length === limits.codecLayers) {
        throw new SparsecopyError(
          'LIMIT',
          `is compressed more than ${limits.codecLayers} times over`,
          { source: name, limit: 'codecLayers', expected: limits.codecLayers },
        );
      }
      codecNames.push(codec.name);
      const inner = passing === undefined ? bytesOfInput(input, signal) : bytesOfRuns(passing.runs);
      passing = await peekRuns(codec.decode(inner, { name, limits }), limits.probeHead);
      head = passing.head;
    }
  } catch (error) {
    await passing?.runs.return();
    throw error;
  }
  if (passing !== undefined) return { head, codecs: codecNames, runs: passing.runs };
  return { head, codecs: codecNames, source: source as Source };
}

function bytesOfInput(input: FoundInput, signal: AbortSignal): ByteStream {
  return cancellable(
    input.source === undefined ? input.bytes : bytesOfSource(input.source),
    signal,
  );
}

function chooseFormat(
  name: string,
  declared: FormatName | undefined,
  probe: { head: Uint8Array; size: number | undefined },
): Format {
  if (declared === undefined) return detectFormat(probe);
  const format = formats.find((candidate) => candidate.name === declared);
  if (format?.matches(probe) === true) return format;
  throw new SparsecopyError('FORMAT', `is not a ${declared} image, but was declared to be one`, {
    source: name,
    expected: declared,
    found: format === undefined ? 'a format that is not known' : detectFormat(probe).name,
  });
}

/** `input`, telling `count` how much is read of it. Whoever found it disposes of it. */
function counted(input: FoundInput, count: (length: number) => void): FoundInput {
  const { source } = input;
  if (source === undefined) return { ...input, bytes: countedBytes(input.bytes, count) };
  return {
    ...input,
    source: {
      name: source.name,
      size: source.size,
      async read(into, offset): Promise<void> {
        await source.read(into, offset);
        count(into.length);
      },
      extents: (start, end) => source.extents(start, end),
      stored: source.stored,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    },
  };
}
