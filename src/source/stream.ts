/** Inputs that pass once: turning sources into byte streams, runs into bytes, and letting go of a stream that hangs. */

import { freshBytes, lend, unshared } from '../bytes.ts';
import { SparsecopyError } from '../errors.ts';
import type { Limits } from '../limits.ts';
import type { ByteStream, Run, Source } from '../types.ts';

/** Reads of a compressed file, one ahead: with 1 MiB a decoder in WebAssembly is a third faster than with 64 KiB. */
const PIECE = 1024 * 1024;

/** The bytes of `source` in order, read one piece ahead. The pieces are lent (`giveBack` in bytes.ts). */
export async function* bytesOfSource(source: Source): AsyncGenerator<Uint8Array, void, void> {
  const free: Buffer[] = [];
  const readPiece = (at: number): Promise<Uint8Array> => {
    const whole = free.pop() ?? freshBytes(PIECE);
    const piece = whole.subarray(0, source.size - at);
    const promise = source.read(piece, at).then(() => lend(piece, () => free.push(whole)));
    // It may fail while nobody waits; whoever asks for the piece gets the error.
    promise.catch(() => undefined);
    return promise;
  };
  if (source.size === 0) return;
  let next: Promise<Uint8Array> | undefined = readPiece(0);
  try {
    for (let at = PIECE; next !== undefined; at += PIECE) {
      const piece: Uint8Array = await next;
      next = at < source.size ? readPiece(at) : undefined;
      yield piece;
    }
  } finally {
    await next?.catch(() => undefined);
  }
}

/** How long may be waited for a byte stream that is called `name`. */
export interface Patience {
  readonly name: string;
  readonly limits: Pick<Limits, 'idleTime' | 'minimumRate'>;
}

/** What a timer can be set to at most, in milliseconds (Node takes more for 1): three weeks and more are no limit. */
export const LONGEST_TIMER: number = 2 ** 31 - 1;

/**
 * `bytes`, until `signal` aborts: then the reader gets its reason at once, even where `bytes` never gives anything again
 * (a pipe whose other end sleeps), and `bytes` is told to stop. So it goes, with `LIMIT`, when `patience` ends: only time for
 * which the reader waits is counted, a slow reader may take as long as it likes.
 */
export function cancellable(
  bytes: ByteStream,
  signal: AbortSignal,
  patience?: Patience,
): ByteStream {
  return {
    [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
      const iterator = bytes[Symbol.asyncIterator]();
      const clock = patience === undefined ? undefined : makeIdleClock(patience);
      // Not Promise.race with one long promise: that would keep every piece alive until the end.
      let rejectNext: ((reason: Error) => void) | undefined;
      let stopped: { readonly reason: Error } | undefined;
      const stop = (reason: Error): void => {
        if (stopped !== undefined) return;
        stopped = { reason };
        rejectNext?.(reason);
        void Promise.resolve(iterator.return?.()).catch(() => undefined);
      };
      const onAbort = (): void => stop(signal.reason as Error);
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
      return {
        next: () =>
          new Promise((resolve, reject) => {
            if (stopped !== undefined) {
              reject(stopped.reason);
              return;
            }
            rejectNext = (reason): void => {
              clock?.stop();
              reject(reason);
            };
            clock?.start(stop);
            iterator.next().then((result) => {
              const tooSlow = clock?.stop(result.done === true ? undefined : result.value.length);
              if (tooSlow !== undefined) stop(tooSlow);
              else resolve(result);
            }, rejectNext);
          }),
        async return(): Promise<IteratorResult<Uint8Array>> {
          clock?.stop();
          signal.removeEventListener('abort', onAbort);
          if (stopped === undefined) await iterator.return?.();
          return { done: true, value: undefined };
        },
      };
    },
  };
}

/** Measures the time for which a reader waits. */
interface IdleClock {
  /** Somebody waits from now on; `onIdle` is called when that takes too long. */
  start(onIdle: (error: SparsecopyError) => void): void;
  /** Nobody waits any more; `length` bytes have come. Gives the error when, all in all, too little comes. */
  stop(length?: number): SparsecopyError | undefined;
}

/** `undefined` where there is no limit. */
function makeIdleClock({ name, limits }: Patience): IdleClock | undefined {
  const { idleTime, minimumRate } = limits;
  if (idleTime * 1000 > LONGEST_TIMER) return undefined;
  let timer: NodeJS.Timeout | undefined;
  let started = 0;
  /** Of the time that is being judged: seconds for which was waited, and bytes that came. */
  let waited = 0;
  let came = 0;
  return {
    start(onIdle): void {
      started = performance.now();
      const tell = (): void =>
        onIdle(
          new SparsecopyError('LIMIT', `gave nothing for ${idleTime} seconds`, {
            source: name,
            limit: 'idleTime',
            expected: idleTime,
          }),
        );
      timer = setTimeout(tell, idleTime * 1000).unref();
    },
    stop(length): SparsecopyError | undefined {
      clearTimeout(timer);
      if (length === undefined) return undefined;
      waited += (performance.now() - started) / 1000;
      came += length;
      if (waited < idleTime) return undefined;
      const rate = came / waited;
      waited = came = 0;
      if (rate >= minimumRate) return undefined;
      const found = Math.round(rate);
      return new SparsecopyError(
        'LIMIT',
        `gave ${found} bytes a second for ${idleTime} seconds, at least ${minimumRate} are expected`,
        { source: name, limit: 'minimumRate', expected: minimumRate, found },
      );
    },
  };
}

/** `bytes`, calling `count` with the length of each piece. */
export async function* countedBytes(
  bytes: ByteStream,
  count: (length: number) => void,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const piece of bytes) {
    count(piece.length);
    yield piece;
  }
}

/** Each piece of `bytes` as a run. */
export async function* runsOf(bytes: ByteStream): AsyncGenerator<Run, void, void> {
  for await (const piece of bytes) if (piece.length > 0) yield { kind: 'data', bytes: piece };
}

/** `runs` for whoever keeps their bytes. */
export async function* ownRuns(runs: AsyncIterable<Run>): AsyncGenerator<Run, void, void> {
  for await (const run of runs) {
    yield run.kind === 'zero' ? run : { kind: 'data', bytes: unshared(run.bytes, run.release) };
  }
}

/** Shared by all; never written to. */
const zeros = Buffer.alloc(64 * 1024);

/** `runs` as bytes: the zeros that nobody made are made now. */
export async function* bytesOfRuns(
  runs: AsyncIterable<Run>,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const run of runs) {
    if (run.kind === 'data') yield unshared(run.bytes, run.release);
    else {
      for (let left = run.length; left > 0; left -= zeros.length) {
        yield left < zeros.length ? zeros.subarray(0, left) : zeros;
      }
    }
  }
}

/**
 * The first `length` bytes of `runs` (fewer when they end before), and the whole of `runs` again, from its start.
 * The caller must consume or return the second, which then closes `runs`.
 */
export async function peekRuns(
  runs: AsyncIterable<Run>,
  length: number,
): Promise<{ head: Uint8Array; runs: AsyncGenerator<Run, void, void> }> {
  const iterator = runs[Symbol.asyncIterator]();
  const seen: Run[] = [];
  const head = Buffer.alloc(length);
  let filled = 0;
  let ended = false;
  try {
    while (filled < length) {
      const next = await iterator.next();
      if (next.done === true) {
        ended = true;
        break;
      }
      const run = next.value;
      seen.push(run);
      if (run.kind === 'data') {
        head.set(run.bytes.subarray(0, length - filled), filled);
        filled += run.bytes.length;
      } else filled += run.length;
    }
  } catch (error) {
    await Promise.resolve(iterator.return?.()).catch(() => undefined);
    throw error;
  }
  return { head: head.subarray(0, Math.min(filled, length)), runs: replay(seen, iterator, ended) };
}

async function* replay(
  seen: Run[],
  iterator: AsyncIterator<Run>,
  ended: boolean,
): AsyncGenerator<Run, void, void> {
  try {
    for (let run = seen.shift(); run !== undefined; run = seen.shift()) yield run;
    while (!ended) {
      const next = await iterator.next();
      if (next.done === true) ended = true;
      else yield next.value;
    }
  } finally {
    if (!ended) await iterator.return?.();
  }
}
