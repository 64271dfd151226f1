/** From an input to what is inside its compressions, and which format that has. */

import { detectCodec } from './codec/index.ts';
import { decode } from './codec/remote.ts';
import { SparsecopyError } from './errors.ts';
import { detectFormat, formats } from './format/index.ts';
import type { Limits } from './limits.ts';
import { checkImage, checkSize, checkedRuns, readTail } from './policy.ts';
import { findInput, type FoundInput, type Input } from './source/input.ts';
import {
  bytesOfRuns,
  bytesOfSource,
  cancellable,
  countedBytes,
  peekRuns,
  runsOf,
} from './source/stream.ts';
import type { FileIdentity } from './stat.ts';
import { threadsOf, type ThreadPool, type Threads } from './threads.ts';
import type { CodecName, Format, FormatName, Policy, Run, Source } from './types.ts';

export interface PeelOptions {
  /** The image's format; by default it is recognised. An image that is declared qcow2 and is not is refused. */
  readonly format?: FormatName | undefined;
  /** Peel compressions off first, as often as there are any; default true. */
  readonly decompress?: boolean | undefined;
  /** How much the input is trusted: `untrusted` has smaller limits, and refuses what is ambiguous, nested or aliased. */
  readonly policy?: Policy | undefined;
  /** Ends the wait for an input, and what is being done with it: the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /**
   * How many threads may help, 0 for none, or a pool (`threadPool`) that several calls share. Default: what the environment says in
   * `SPARSECOPY_THREADS`, or as many as there are cores, at most 8. They are started when the work is worth it.
   */
  readonly threads?: number | ThreadPool | undefined;
}

/** What is inside all compressions: something that can seek, or something that passes once. */
type Inside = { readonly head: Uint8Array; readonly codecs: readonly CodecName[] } & (
  | { readonly source: Source; readonly runs?: undefined }
  | { readonly source?: undefined; readonly runs: AsyncGenerator<Run, void, void> }
);

/** An input whose compressions are peeled and whose format is recognised. Dispose of it when done. */
export interface Peeled extends AsyncDisposable {
  readonly name: string;
  readonly inside: Inside;
  readonly format: Format;
  /** Size of the input as it came, in bytes, when known. */
  readonly sourceSize: number | undefined;
  readonly identity: FileIdentity | undefined;
  readonly threads: Threads;
  /** Bytes of the input read so far, as they came. */
  readonly bytesRead: number;
  /** Takes note of bytes of the input that somebody else has read. */
  count(length: number): void;
  /** @throws SparsecopyError `SOURCE` when the input was changed since it was opened, as far as the policy minds. */
  checkUnchanged(): Promise<void>;
  /** Makes whoever waits for the input get `reason` at once. */
  cancel(reason: unknown): void;
}

/**
 * Finds `input`, peels its compressions and recognises its format.
 * @throws SparsecopyError `FORMAT` when it is not what it is declared to be, and what `policy.ts` refuses.
 */
export async function peel(input: Input, options: PeelOptions, limits: Limits): Promise<Peeled> {
  const untrusted = options.policy === 'untrusted';
  const { threads, isOwn } = threadsOf(options.threads);
  const found = await findInput(input, untrusted);
  const stop = new AbortController();
  let bytesRead = 0;
  const count = (length: number): void => {
    bytesRead += length;
    if (found.source === undefined) checkSize(found.name, 'sourceSize', bytesRead, limits);
  };
  const { signal } = options;
  const onAbort = (): void => stop.abort(signal?.reason);
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  let unwrapped: Inside | undefined;
  const dispose = async (): Promise<void> => {
    const runs = unwrapped?.runs;
    unwrapped = undefined;
    signal?.removeEventListener('abort', onAbort);
    await runs?.return();
    await found.dispose();
    if (isOwn) await threads[Symbol.asyncDispose]();
  };
  try {
    if (found.source !== undefined) {
      checkSize(found.name, 'sourceSize', found.source.size, limits);
    }
    unwrapped = await unwrap(counted(found, count), { ...options, threads }, limits, stop.signal);
    const format = chooseFormat(found.name, options.format, {
      head: unwrapped.head,
      size: unwrapped.source?.size,
    });
    const inside = untrusted ? await checked(unwrapped, found.name, options.format) : unwrapped;
    return {
      name: found.name,
      inside,
      format,
      sourceSize: found.source?.size,
      identity: found.identity,
      threads,
      get bytesRead(): number {
        return bytesRead;
      },
      count,
      checkUnchanged: async () => found.checkUnchanged?.(untrusted),
      cancel: (reason) => stop.abort(reason),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose().catch(() => undefined);
    throw error;
  }
}

/** `inside`, which is refused where it could be taken for something else. */
async function checked(
  inside: Inside,
  name: string,
  declared: FormatName | undefined,
): Promise<Inside> {
  const { head, source, runs } = inside;
  if (source !== undefined) {
    checkImage(name, { head, tail: await readTail(source) }, declared);
    return inside;
  }
  checkImage(name, { head, tail: undefined }, declared);
  return { ...inside, runs: checkedRuns(runs, head, name, declared) };
}

async function unwrap(
  input: FoundInput,
  options: PeelOptions & { readonly threads: Threads },
  limits: Limits,
  signal: AbortSignal,
): Promise<Inside> {
  const { name, source } = input;
  const { threads } = options;
  const untrusted = options.policy === 'untrusted';
  const patience = { name, limits };
  const codecNames: CodecName[] = [];
  let head: Uint8Array;
  let passing: Awaited<ReturnType<typeof peekRuns>> | undefined;
  if (source === undefined) {
    passing = await peekRuns(runsOf(cancellable(input.bytes, signal, patience)), limits.probeHead);
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
      const inner =
        passing === undefined
          ? cancellable(bytesOfSource(source as Source), signal)
          : bytesOfRuns(passing.runs);
      const context = { name, limits, untrusted, threads };
      const size = passing === undefined ? source?.size : undefined;
      passing = await peekRuns(decode(codec, inner, context, size), limits.probeHead);
      head = passing.head;
    }
  } catch (error) {
    await passing?.runs.return();
    throw error;
  }
  if (passing !== undefined) return { head, codecs: codecNames, runs: passing.runs };
  return { head, codecs: codecNames, source: source as Source };
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
  return { ...input, source: countedSource(source, count) };
}

/** `source`, telling `count` how much is read of it; disposing of it does nothing. */
export function countedSource(source: Source, count: (length: number) => void): Source {
  return {
    name: source.name,
    size: source.size,
    async read(into, offset): Promise<void> {
      await source.read(into, offset);
      count(into.length);
    },
    extents: (start, end) => source.extents(start, end),
    stored: source.stored,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
