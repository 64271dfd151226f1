/** What every sink has: a Writable of chunks that completes its output in `final` and undoes it in `destroy`. */

import { Writable } from 'node:stream';
import type { Chunk } from '../types.ts';

/** A Writable of chunks. Its figures are complete once it has finished. */
export interface Sink extends Writable {
  /** Bytes written to the output. */
  readonly bytesWritten: number;
  /** Bytes that the output occupies (`st_blocks * 512`); `undefined` where that means nothing. */
  readonly sizeOnDisk: number | undefined;
  /** Bytes of zero blocks that were written because the output was not zero there. */
  readonly nonZeroDestination: number;
}

/** What a sink does; each step may take its time. */
export interface SinkWork {
  /** Acquires the output. */
  open(onError: (error: unknown) => void): Promise<void>;
  write(chunk: Chunk): Promise<void>;
  /** Completes the output. */
  finish(): Promise<void>;
  /** Gives everything up, also after `finish`; `isComplete` tells whether the output stands. Must not throw. */
  close(isComplete: boolean): Promise<void>;
  readonly figures: () => Pick<Sink, 'bytesWritten' | 'sizeOnDisk' | 'nonZeroDestination'>;
}

/** `work` as a Sink. */
export function makeSink(work: SinkWork): Sink {
  let isComplete = false;
  const settle = (promise: Promise<void>, done: (error?: Error | null) => void): void => {
    promise.then(
      () => done(),
      (error: unknown) => done(error as Error),
    );
  };
  const sink = new Writable({
    objectMode: true,
    highWaterMark: 1,
    construct(done): void {
      settle(
        work.open((error) => sink.destroy(error as Error)),
        done,
      );
    },
    write(chunk: Chunk, _encoding, done): void {
      settle(work.write(chunk), done);
    },
    final(done): void {
      settle(
        work.finish().then(() => {
          isComplete = true;
        }),
        done,
      );
    },
    destroy(error, done): void {
      settle(
        work.close(isComplete).then(() => {
          if (error !== null) throw error;
        }),
        done,
      );
    },
  });
  for (const key of ['bytesWritten', 'sizeOnDisk', 'nonZeroDestination'] as const) {
    Object.defineProperty(sink, key, { get: () => work.figures()[key] });
  }
  return sink as Sink;
}
