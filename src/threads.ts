/** Threads that work for whoever asks: started when they are first worth it, each asked one thing after the other. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import type * as WorkerThreads from 'node:worker_threads';
import { reviveError, type FlatError } from './errors.ts';

/** For what is loaded when the first thread is started, which does not wait. */
const require = createRequire(import.meta.url);

/** Threads that several copies can share; dispose of it when none needs it any more. */
export interface ThreadPool extends AsyncDisposable {
  /** How many threads there are at most; 0 for none: all work is done by the caller's. */
  readonly size: number;
}

/** What threads can be asked to do (`jobs.ts`). */
export type JobName = 'move' | 'move-clusters' | 'clusters' | 'place-clusters' | 'decode';

/** A pool as those use it who have work for it. */
export interface Threads extends ThreadPool {
  /** True when threads are to help with `length` bytes, where they are worth their start from `least` on. */
  areWorth(length: number, least: number): boolean;
  /** Starts `count` threads (default all), when that has not been done: it takes a tenth of a second until they work. */
  start(count?: number): void;
  /** True when something that is asked is begun at once; until then whoever can does it himself. */
  readonly isReady: boolean;
  /** Has the thread with the least to do answer; it is started when all others have something to do. */
  readonly ask: Ask;
  /** One thread, for questions that must all come to the same. */
  lane(): Lane;
}

/**
 * Has a thread answer `message`. What is in `transfer` goes over, and is lost here.
 * @throws what the job throws, with its fields and its step.
 */
export type Ask = <Answer>(
  job: JobName,
  message: unknown,
  transfer?: readonly ArrayBuffer[],
) => Promise<Answer>;

export interface Lane {
  /** Questions are answered in order. */
  readonly ask: Ask;
  /** Takes note that no more is asked. */
  close(): void;
}

/** What goes to a thread, and what comes back. */
export interface Question {
  readonly id: number;
  readonly job: JobName;
  readonly message: unknown;
}
export type Reply =
  | { readonly ready: true }
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: FlatError };

/** More threads than this win nothing: one thread writes, and memory grows with each. */
const MOST_BY_DEFAULT = 8;

/** More than this is a mistake. */
const MOST = 256;

/** The environment's word on the number of threads. */
const VARIABLE = 'SPARSECOPY_THREADS';

/**
 * How many threads a copy uses: `size`, or what `SPARSECOPY_THREADS` says, or as many as there are cores.
 * @throws RangeError when that is not a whole number from 0 to 256.
 */
export function countThreads(size: number | undefined): number {
  const word = process.env[VARIABLE];
  const hasWord = size === undefined && word !== undefined && word !== '';
  const wanted =
    size ?? (hasWord ? Number(word) : Math.min(availableParallelism(), MOST_BY_DEFAULT));
  if (Number.isInteger(wanted) && wanted >= 0 && wanted <= MOST) return wanted;
  const name = hasWord ? VARIABLE : 'threads';
  throw new RangeError(
    `${name} must be a whole number from 0 to ${MOST}, found ${hasWord ? word : wanted}`,
  );
}

/**
 * A pool of `size` threads (default `SPARSECOPY_THREADS`, or as many as there are cores, at most 8), for the option `threads` of several
 * copies. They start with the first work that is worth it, and keep no process alive that has nothing else to do.
 * @throws RangeError when `size` is not a whole number from 0 to 256.
 */
export function threadPool(size?: number): ThreadPool {
  return makeThreads(size);
}

/** The pool that `threads` is, or one of its own for this many threads, which whoever asked disposes of. */
export function threadsOf(threads: number | ThreadPool | undefined): {
  readonly threads: Threads;
  readonly isOwn: boolean;
} {
  if (typeof threads === 'object') return { threads: threads as Threads, isOwn: false };
  return { threads: makeThreads(threads), isOwn: true };
}

/** A thread that was started. */
interface Running {
  readonly worker: WorkerThreads.Worker;
  readonly asked: Map<number, (reply: Reply | { readonly lost: Error }) => void>;
  /** Questions without an answer. */
  load: number;
  /** Lanes that are open. */
  lanes: number;
  isReady: boolean;
  /** Why it answers no more. */
  lost?: Error;
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
}

/** The threads of `threadPool`; with `always` they are given all work, however little it is. */
export function makeThreads(wanted?: number, always = false): Threads {
  const size = countThreads(wanted);
  let running: Running[] = [];
  let isClosed = false;
  let lastId = 0;

  function start(count = size): void {
    if (isClosed) throw new Error('the threads have been closed');
    while (running.length < Math.min(count, size)) running.push(startOne());
  }

  function startOne(): Running {
    const { Worker } = require('node:worker_threads') as typeof WorkerThreads;
    const worker = new Worker(workerFile(), { name: 'sparsecopy' });
    const asked: Running['asked'] = new Map();
    const fail = (lost: Error): void => {
      thread.lost ??= lost;
      running = running.filter((other) => other !== thread);
      for (const settle of asked.values()) settle({ lost });
      asked.clear();
    };
    const ended = new Promise<void>((resolve) => {
      worker.on('exit', () => {
        fail(new Error('a thread has ended before its work'));
        resolve();
      });
    });
    const thread: Running = { worker, asked, load: 0, lanes: 0, isReady: false, ended };
    worker.on('error', fail).on('messageerror', fail);
    worker.on('message', (reply: Reply) => {
      if ('ready' in reply) {
        thread.isReady = true;
        return;
      }
      const settle = asked.get(reply.id);
      asked.delete(reply.id);
      settle?.(reply);
    });
    // Only what is asked keeps the process alive.
    worker.unref();
    return thread;
  }

  /** The thread for which `count` is the least; a new one rather than one for which it is not 0. */
  function least(count: (thread: Running) => number): Running {
    start(running.every((thread) => count(thread) > 0) ? running.length + 1 : running.length);
    const [first, ...others] = running;
    if (first === undefined) throw new TypeError('there are no threads to ask');
    return others.reduce((best, thread) => (count(thread) < count(best) ? thread : best), first);
  }

  function ask<Answer>(
    thread: Running,
    job: JobName,
    message: unknown,
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (thread.lost !== undefined) {
        reject(thread.lost);
        return;
      }
      const id = ++lastId;
      if (thread.asked.size === 0) thread.worker.ref();
      thread.load++;
      thread.asked.set(id, (reply) => {
        thread.load--;
        if (thread.asked.size === 0) thread.worker.unref();
        if ('answer' in reply) resolve(reply.answer as Answer);
        else if ('error' in reply) reject(reviveError(reply.error));
        else if ('lost' in reply) reject(reply.lost);
      });
      const question: Question = { id, job, message };
      thread.worker.postMessage(question, transfer);
    });
  }

  return {
    size,
    areWorth: (length, least) => size > 0 && (always || length >= least),
    start,
    get isReady(): boolean {
      return always || running.some((thread) => thread.isReady);
    },
    ask: async (job, message, transfer) =>
      ask(
        least(({ load }) => load),
        job,
        message,
        transfer,
      ),
    lane(): Lane {
      const thread = least(({ lanes }) => lanes);
      thread.lanes++;
      let isOpen = true;
      return {
        ask: async (job, message, transfer) => ask(thread, job, message, transfer),
        close(): void {
          if (isOpen) thread.lanes--;
          isOpen = false;
        },
      };
    },
    async [Symbol.asyncDispose](): Promise<void> {
      isClosed = true;
      await Promise.all(
        running.map(async ({ worker, ended }) => {
          await worker.terminate();
          await ended;
        }),
      );
    },
  };
}

/** The threads' code: beside this file when it is built; to sources (in tests) the built one serves as well. */
function workerFile(): URL {
  const beside = new URL('./thread.js', import.meta.url);
  return existsSync(beside) ? beside : new URL('../dist/thread.js', import.meta.url);
}
