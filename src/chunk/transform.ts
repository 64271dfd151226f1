/** A function of one chunk as a Node Transform: objects on both sides, and only one waiting on each. */

import { Transform } from 'node:stream';
import type { Chunk } from '../types.ts';

type Done = (error?: Error | null) => void;

/**
 * A Transform that passes what `stage` makes of each chunk, and what `end` adds at the end. It holds one chunk a side (the
 * default of 16 would mean 16 MiB at every stage), and takes from a long iterable only as its reader asks for more.
 */
export function chunkTransform(
  stage: (chunk: Chunk) => Iterable<unknown>,
  end?: () => Iterable<unknown>,
  options: { readableObjectMode?: boolean; readableHighWaterMark?: number } = {},
): Transform {
  /** What is left of an iterable that the reader was not ready for. */
  let waiting: (() => void) | undefined;

  const pass = (stream: Transform, items: Iterable<unknown>, done: Done): void => {
    const iterator = items[Symbol.iterator]();
    let next = iterator.next();
    const goOn = (): void => {
      waiting = undefined;
      try {
        while (next.done !== true) {
          const item = next.value;
          // One ahead: a Transform must call back right after its last push, not when it is read again.
          next = iterator.next();
          const isFull = !stream.push(item);
          if (isFull && next.done !== true) {
            waiting = goOn;
            return;
          }
        }
      } catch (error) {
        done(error as Error);
        return;
      }
      done();
    };
    goOn();
  };

  return new Transform({
    writableObjectMode: true,
    writableHighWaterMark: 1,
    readableObjectMode: true,
    readableHighWaterMark: 1,
    ...options,
    transform(this: Transform, chunk: Chunk, _encoding, done: Done): void {
      try {
        pass(this, stage(chunk), done);
      } catch (error) {
        done(error as Error);
      }
    },
    flush(this: Transform, done: Done): void {
      pass(this, end?.() ?? [], done);
    },
    read(this: Transform, size): void {
      if (waiting !== undefined) waiting();
      else Transform.prototype._read.call(this, size);
    },
  });
}
