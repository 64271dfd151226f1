/** The code of a thread of `threads.ts`: takes one question after the other; nobody waits on it for anything else. */

import { parentPort } from 'node:worker_threads';
import { flattenError } from './errors.ts';
import type { JobName, Question, Reply } from './threads.ts';
import type { Job } from './types.ts';

/** Each is loaded with its first question. */
const jobs: Readonly<Record<JobName, () => Promise<Job>>> = {
  move: async () => (await import('./sink/mover-job.ts')).move,
  'move-clusters': async () => (await import('./format/qcow2/clusters-move.ts')).moveClusters,
  clusters: async () => (await import('./format/qcow2/clusters-job.ts')).decodeClusters,
  decode: async () => (await import('./codec/decode-job.ts')).decodeStream,
};

const loaded = new Map<JobName, Job>();

async function answer({ id, job, message }: Question): Promise<void> {
  try {
    let run = loaded.get(job);
    if (run === undefined) {
      run = await jobs[job]();
      loaded.set(job, run);
    }
    const result = run(message as never);
    const { answer, transfer = [] } = result instanceof Promise ? await result : result;
    parentPort?.postMessage({ id, answer } satisfies Reply, transfer);
  } catch (error) {
    parentPort?.postMessage({ id, error: flattenError(error) } satisfies Reply);
  }
}

let last: Promise<void> = Promise.resolve();
parentPort?.on('message', (question: Question) => {
  last = last.then(() => answer(question));
});
parentPort?.postMessage({ ready: true } satisfies Reply);
