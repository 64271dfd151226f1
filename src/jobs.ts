/** What threads are asked to do; any thread can do it. */

import type { Ask, JobName } from './threads.ts';
import type { Job, JobResult } from './types.ts';

/** Each is loaded when it is first wanted. */
const jobs: Readonly<Record<JobName, () => Promise<Job>>> = {
  move: async () => (await import('./sink/mover-job.ts')).move,
  'move-clusters': async () => (await import('./format/qcow2/clusters-move.ts')).moveClusters,
  clusters: async () => (await import('./format/qcow2/clusters-job.ts')).decodeClusters,
  'place-clusters': async () => (await import('./format/qcow2/clusters-job.ts')).placeClusters,
  decode: async () => (await import('./codec/decode-job.ts')).decodeStream,
};

const loaded = new Map<JobName, Job>();

let last: Promise<unknown> = Promise.resolve();

/** Does `job` on this thread, when what was asked before is done: jobs keep memory that they use again. @throws what the job throws. */
export function doJob(job: JobName, message: unknown): Promise<JobResult> {
  const done = last.then(async () => {
    let run = loaded.get(job);
    if (run === undefined) {
      run = await jobs[job]();
      loaded.set(job, run);
    }
    return run(message as never);
  });
  last = done.catch(() => undefined);
  return done;
}

/** As `ask` of a thread, for the thread that asks: nothing is handed over. */
export const askHere: Ask = async <Answer>(job: JobName, message: unknown): Promise<Answer> => {
  const { answer } = await doJob(job, message);
  return answer as Answer;
};
