/** Whether two inputs hold the same disk, and where they first differ. */

import { asBuffer, isZero } from './bytes.ts';
import { makePool } from './chunk/pool.ts';
import { boundedRuns, makeRatioGuard } from './chunk/ratio.ts';
import { SparsecopyError } from './errors.ts';
import { limitsOf, type Limits } from './limits.ts';
import { open, type OpenOptions, type Opened } from './open.ts';
import { limitTime } from './policy.ts';
import type { Input } from './source/input.ts';
import type { Chunk, CodecName, FormatName } from './types.ts';

/** How the inputs are opened (both of them, unless `a` or `b` say otherwise), and what counts as different. */
export interface CompareOptions extends OpenOptions {
  /** For the first input only. */
  readonly a?: Omit<OpenOptions, 'signal'> | undefined;
  /** For the second input only. */
  readonly b?: Omit<OpenOptions, 'signal'> | undefined;
  /**
   * Sizes must be equal, and where the one holds data the other must, even if these are zeros. Holes, unallocated clusters
   * and zero clusters are all the same: no data. (`qemu-img compare -s` tells these from each other.)
   */
  readonly strict?: boolean | undefined;
}

/** What was found. Sizes and offsets are in bytes. */
export interface Comparison {
  readonly identical: boolean;
  /** The first difference; `undefined` when there is none. */
  readonly difference: Difference | undefined;
  readonly a: ComparedInput;
  readonly b: ComparedInput;
}

export interface Difference {
  /** `size` and `allocation` are differences to a strict comparison only. */
  readonly kind: 'content' | 'size' | 'allocation';
  /**
   * The first byte that differs; for `size` where the smaller disk ends. qemu-img gives the start of the 512-byte sector that
   * it lies in.
   */
  readonly offset: number;
}

export interface ComparedInput {
  readonly name: string;
  readonly format: FormatName;
  /** The compressions that were peeled, outermost first. */
  readonly codecs: readonly CodecName[];
  /** Size of the disk; `undefined` for raw bytes that pass once, if a difference was found before their end. */
  readonly virtualSize: number | undefined;
  /** Of the input as it came. */
  readonly bytesRead: number;
}

/** Which input an error comes from, and whether that could be opened. */
export interface CompareFailure {
  readonly input: 'a' | 'b';
  /** An image that can seek has its tables read, and refused, when it is opened. */
  readonly step: 'open' | 'read';
}

const failures = new WeakMap<object, CompareFailure>();

/** What `compare` was doing when it met `error`; `undefined` for an error that it did not throw. */
export function compareFailureOf(error: unknown): CompareFailure | undefined {
  return typeof error === 'object' && error !== null ? failures.get(error) : undefined;
}

/** Notes where `error` happened, unless that is known already, and gives `error` back. */
function markFailure(error: unknown, failure: CompareFailure): unknown {
  if (typeof error === 'object' && error !== null && !failures.has(error)) {
    failures.set(error, failure);
  }
  return error;
}

/**
 * Compares the disks in `a` and `b` byte by byte up to the first difference. Where one is shorter, what the other has there
 * must be zero. Ranges that both know to be zero are not read; elsewhere both are read ahead at the same time.
 *
 * @throws SparsecopyError `SOURCE` when both inputs are one stream; what opening and reading throw, which
 * `compareFailureOf` knows more of; the signal's reason on abort.
 */
export async function compare(
  a: Input,
  b: Input,
  options: CompareOptions = {},
): Promise<Comparison> {
  options.signal?.throwIfAborted();
  if (a === b && (a === '-' || (typeof a === 'object' && Symbol.asyncIterator in a))) {
    throw new SparsecopyError('SOURCE', 'a stream passes once, so it cannot be both inputs');
  }
  // Whatever ends the comparison also ends the wait for an input that may never give anything again.
  const stop = new AbortController();
  const { signal } = stop;
  const onAbort = (): void => stop.abort(options.signal?.reason);
  options.signal?.addEventListener('abort', onAbort, { once: true });
  const sides: Side[] = [];
  try {
    const [sideA, sideB] = await Promise.allSettled([
      openSide('a', a, { ...options, ...options.a, signal }, stop),
      openSide('b', b, { ...options, ...options.b, signal }, stop),
    ]);
    if (sideA.status === 'fulfilled') sides.push(sideA.value);
    if (sideB.status === 'fulfilled') sides.push(sideB.value);
    if (sideA.status === 'rejected') throw sideA.reason;
    if (sideB.status === 'rejected') throw sideB.reason;
    const pair = [sideA.value, sideB.value] as const;
    const difference = await firstDifference(pair, options.strict === true, signal);
    return {
      identical: difference === undefined,
      difference,
      a: pair[0].describe(),
      b: pair[1].describe(),
    };
  } catch (error) {
    throw options.signal?.aborted === true ? options.signal.reason : error;
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
    stop.abort(new Error('the comparison is over'));
    await Promise.allSettled(sides.map((side) => side.close()));
  }
}

/** Opens one input. A failure, and the end of the time that it may take, are told to `stop`. */
async function openSide(
  input: 'a' | 'b',
  from: Input,
  options: OpenOptions,
  stop: AbortController,
): Promise<Side> {
  const limits = limitsOf(options.policy, options.limits);
  const name = typeof from === 'string' ? from : 'the input';
  const endWatch = limitTime(name, limits, (error) =>
    stop.abort(markFailure(error, { input, step: 'read' })),
  );
  try {
    return makeSide(input, await open(from, options), limits, endWatch);
  } catch (error) {
    endWatch();
    stop.abort(markFailure(error, { input, step: 'open' }));
    throw error;
  }
}

/** One input, on its way from chunk to chunk. */
interface Side {
  readonly opened: Opened;
  /** What is left to compare of the chunk it stands at; `undefined` at the end of the disk. */
  readonly chunk: Chunk | undefined;
  /** Whether the image holds data where it stands. */
  readonly isAllocated: boolean;
  /** Waits for a chunk, unless it stands at one. */
  ready(): Promise<void>;
  /** Goes on by `length` bytes, which are not more than the chunk has. */
  advance(length: number): void;
  describe(): ComparedInput;
  close(): Promise<void>;
}

function makeSide(input: 'a' | 'b', opened: Opened, limits: Limits, endWatch: () => void): Side {
  // A chunk is also a run, and comes out as it went in.
  const bounded = boundedRuns(
    opened.chunks({ pool: makePool() }),
    makeRatioGuard(opened, limits),
  ) as AsyncGenerator<Chunk, void, void>;
  const chunks = bounded[Symbol.asyncIterator]();
  // One chunk is always asked for, so that this input goes on while the other is waited for.
  const ask = (): Promise<IteratorResult<Chunk, unknown>> => {
    const asked = chunks.next();
    asked.catch(() => undefined);
    return asked;
  };
  let next = ask();
  let whole: Chunk | undefined;
  let rest: Chunk | undefined;
  let hasEnded = false;
  let position = 0;
  // Whoever compressed a stream of raw bytes did not leave its zeros out: they are in the image.
  const isRawStream = opened.disk === undefined && opened.format === 'raw';

  return {
    opened,
    get chunk(): Chunk | undefined {
      return rest;
    },
    get isAllocated(): boolean {
      return rest?.kind === 'data' || (rest !== undefined && isRawStream);
    },
    async ready(): Promise<void> {
      if (rest !== undefined || hasEnded) return;
      try {
        const result = await next;
        hasEnded = result.done === true;
        if (result.done === true) await opened.checkUnchanged();
        else {
          whole = rest = result.value;
          next = ask();
        }
      } catch (error) {
        throw markFailure(error, { input, step: 'read' });
      }
    },
    advance(length): void {
      if (rest === undefined) return;
      position += length;
      const left = rest.length - length;
      if (left === 0) {
        if (whole?.kind === 'data') whole.release?.();
        whole = rest = undefined;
      } else if (rest.kind === 'zero') rest = { kind: 'zero', offset: position, length: left };
      else {
        rest = { kind: 'data', offset: position, length: left, bytes: rest.bytes.subarray(length) };
      }
    },
    describe: () => ({
      name: opened.name,
      format: opened.format,
      codecs: opened.codecs,
      virtualSize: opened.virtualSize ?? (hasEnded ? position : undefined),
      bytesRead: opened.bytesRead,
    }),
    async close(): Promise<void> {
      endWatch();
      await next.catch(() => undefined);
      try {
        await chunks.return();
      } finally {
        await opened[Symbol.asyncDispose]();
      }
    },
  };
}

async function firstDifference(
  [a, b]: readonly [Side, Side],
  strict: boolean,
  signal: AbortSignal,
): Promise<Difference | undefined> {
  const sizes = [a.opened.virtualSize ?? Infinity, b.opened.virtualSize ?? Infinity] as const;
  const areKnown = sizes.every(Number.isFinite);
  if (strict && areKnown && sizes[0] !== sizes[1]) {
    return { kind: 'size', offset: Math.min(...sizes) };
  }
  for (let offset = 0; ;) {
    await Promise.all([a.ready(), b.ready()]);
    signal.throwIfAborted();
    if (a.chunk === undefined && b.chunk === undefined) return undefined;
    if (strict) {
      if (a.chunk === undefined || b.chunk === undefined) return { kind: 'size', offset };
      if (a.isAllocated !== b.isAllocated) return { kind: 'allocation', offset };
    }
    const length = Math.min(a.chunk?.length ?? Infinity, b.chunk?.length ?? Infinity);
    const at = mismatch(bytesOf(a.chunk, length), bytesOf(b.chunk, length));
    if (at !== undefined) return { kind: 'content', offset: offset + at };
    a.advance(length);
    b.advance(length);
    offset += length;
  }
}

/** The first `length` bytes of `chunk`; `undefined` for zeros, which are also what lies behind the end of a disk. */
function bytesOf(chunk: Chunk | undefined, length: number): Uint8Array | undefined {
  return chunk?.kind === 'data' ? chunk.bytes.subarray(0, length) : undefined;
}

/** Where `a` and `b`, equally long, first differ; `undefined` stands for zeros. */
function mismatch(a: Uint8Array | undefined, b: Uint8Array | undefined): number | undefined {
  if (a === undefined || b === undefined) {
    const bytes = a ?? b;
    return bytes === undefined || isZero(bytes) ? undefined : bytes.findIndex((byte) => byte !== 0);
  }
  if (asBuffer(a).equals(b)) return undefined;
  return a.findIndex((byte, at) => byte !== b[at]);
}
