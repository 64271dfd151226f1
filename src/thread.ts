/** The code of a thread of `threads.ts`: takes one question after the other; nobody waits on it for anything else. */

import { parentPort } from 'node:worker_threads';
import { flattenError } from './errors.ts';
import { doJob } from './jobs.ts';
import type { Question, Reply } from './threads.ts';

async function answer({ id, job, message }: Question): Promise<void> {
  try {
    const { answer, transfer = [] } = await doJob(job, message);
    parentPort?.postMessage({ id, answer } satisfies Reply, transfer);
  } catch (error) {
    parentPort?.postMessage({ id, error: flattenError(error) } satisfies Reply);
  }
}

parentPort?.on('message', (question: Question) => void answer(question));
parentPort?.postMessage({ ready: true } satisfies Reply);
