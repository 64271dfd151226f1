/** Moves ranges from one open file to another in threads of its own: read, zero test, tally and write in one place. */

import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { SparsecopyError, markStep } from '../errors.ts';

/** A range of one file that is to become a range of another, in bytes. */
export interface MoveRange {
  readonly fromOffset: number;
  readonly toOffset: number;
  readonly length: number;
}

/** Ranges to move between two open files. */
export interface Move {
  /** Descriptors. */
  readonly from: number;
  readonly to: number;
  readonly ranges: readonly MoveRange[];
  /** What becomes a hole when it is zero, and what counts as a block. */
  readonly grain: number;
  readonly blockSize: number;
}

/** What a move did. */
interface Moved {
  readonly bytesWritten: number;
  /** Bytes in blocks that are not all zero. */
  readonly diskSize: number;
}

/** How a worker tells of its failure: errors do not keep their fields on the way between threads. */
export interface MoveFailure {
  readonly step: 'source' | 'write';
  readonly message: string;
  readonly fields: { code?: string; errno?: number; syscall?: string };
  /** Where the source ended early. */
  readonly end?: number;
}

export type MoveAnswer = Moved | { readonly failure: MoveFailure };

export interface Mover {
  /** @throws what reading or writing throws, marked with its step; `TRUNCATED` when the source has become shorter. */
  move(move: Move, name: string): Promise<Moved>;
  /** Ends the threads, after what they are doing. */
  close(): Promise<void>;
}

/** Two: writes to one file exclude each other, so the second one reads while the first one writes. */
export const MOVER_THREADS = 2;

/**
 * Starts the threads. Going from thread to thread for each read and write costs more than the copying itself where
 * waking a thread is dear (virtual machines); a thread that does all of it for megabytes at a time need not.
 */
export function makeMover(): Mover {
  const idle: Worker[] = [];
  const waiting: ((worker: Worker) => void)[] = [];
  const workers = Array.from({ length: MOVER_THREADS }, () => {
    const worker = new Worker(workerFile());
    idle.push(worker);
    return worker;
  });
  const give = (worker: Worker): void => {
    const next = waiting.shift();
    if (next === undefined) idle.push(worker);
    else next(worker);
  };

  return {
    async move(move, name): Promise<Moved> {
      const worker = idle.pop() ?? (await new Promise<Worker>((resolve) => waiting.push(resolve)));
      try {
        const answer = await ask(worker, move);
        if (!('failure' in answer)) return answer;
        throw errorOf(answer.failure, name);
      } finally {
        give(worker);
      }
    },
    async close(): Promise<void> {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}

/** The thread's code: beside this file when it is built; to sources (in tests) the built one serves as well. */
function workerFile(): URL {
  const beside = new URL('./mover-worker.js', import.meta.url);
  return existsSync(beside) ? beside : new URL('../../dist/mover-worker.js', import.meta.url);
}

function ask(worker: Worker, move: Move): Promise<MoveAnswer> {
  return new Promise((resolve, reject) => {
    const end = (settle: () => void): void => {
      worker.off('message', onMessage).off('error', onError).off('exit', onExit);
      settle();
    };
    const onMessage = (answer: MoveAnswer): void => end(() => resolve(answer));
    const onError = (error: Error): void => end(() => reject(error));
    const onExit = (): void => end(() => reject(new Error('a thread that copies has ended')));
    worker.on('message', onMessage).on('error', onError).on('exit', onExit);
    worker.postMessage(move);
  });
}

function errorOf({ step, message, fields, end }: MoveFailure, name: string): unknown {
  const error =
    end === undefined
      ? Object.assign(new Error(message), fields)
      : new SparsecopyError(
          'TRUNCATED',
          `has become shorter: expected bytes at ${end}, found the end`,
          { source: name, offset: end, found: end },
        );
  return markStep(error, step);
}
