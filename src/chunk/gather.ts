/** Runs as chunks: bytes that come in pieces of any size become aligned chunks of a useful length. */

import { asBuffer } from '../bytes.ts';
import type { Chunk, ChunkPool, Run } from '../types.ts';
import { makePool } from './pool.ts';

/** A piece this long goes on as it is: copying it would cost more than handling one more chunk. */
const PASS_LENGTH = 256 * 1024;

/** What is passed on without a copy starts and ends at a multiple of this, so that no later stage has to join it. */
const PASS_ALIGNMENT = 4096;

/**
 * `runs` as chunks from offset 0 on, ascending and gapless. Small pieces are copied together, so that what a later
 * stage sees does not depend on how the bytes happened to arrive. It ends when the chunks reach `end`, without waiting for
 * more; the last chunk may go past it.
 */
export async function* gather(
  runs: AsyncIterable<Run>,
  pool: ChunkPool = makePool(),
  end = Infinity,
): AsyncGenerator<Chunk, void, void> {
  let offset = 0; // of the first byte not yet yielded
  let pending = pool.take();
  let filled = 0;

  const flush = (): Chunk => {
    const buffer = pending;
    const chunk: Chunk = {
      kind: 'data',
      offset,
      length: filled,
      bytes: buffer.subarray(0, filled),
      release: () => pool.give(buffer),
    };
    offset += filled;
    filled = 0;
    pending = pool.take();
    return chunk;
  };

  try {
    for await (const run of runs) {
      if (run.kind === 'zero') {
        let { length } = run;
        if (filled > 0) {
          // The zeros up to the next aligned offset belong to a block that has begun.
          const gap = Math.min(
            length,
            (PASS_ALIGNMENT - (filled % PASS_ALIGNMENT)) % PASS_ALIGNMENT,
          );
          pending.fill(0, filled, filled + gap);
          filled += gap;
          length -= gap;
          if (length > 0) yield flush();
        }
        if (length === 0) continue;
        const whole = length - (length % PASS_ALIGNMENT);
        if (whole > 0) {
          yield { kind: 'zero', offset, length: whole };
          offset += whole;
        }
        pending.fill(0, 0, length - whole);
        filled = length - whole;
        if (offset + filled >= end) break;
        continue;
      }
      const bytes = asBuffer(run.bytes);
      let at = 0;
      /** Parts of the run that have been passed on, and the loop itself. */
      let users = 1;
      const release = (): void => {
        if (--users === 0) run.release?.();
      };
      while (at < bytes.length) {
        const rest = bytes.length - at;
        if (filled === 0 && rest >= PASS_LENGTH) {
          const length = Math.min(rest - (rest % PASS_ALIGNMENT), pool.bufferSize);
          const part = bytes.subarray(at, at + length);
          users++;
          yield { kind: 'data', offset, length, bytes: part, release };
          offset += length;
          at += length;
          continue;
        }
        const taken = Math.min(rest, pool.bufferSize - filled);
        bytes.copy(pending, filled, at, at + taken);
        filled += taken;
        at += taken;
        if (filled === pool.bufferSize) yield flush();
      }
      release();
      if (offset + filled >= end) break;
    }
    if (filled > 0) yield flush();
  } finally {
    pool.give(pending);
  }
}
