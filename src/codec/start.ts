/** The first bytes of a stream, and all of it again: how long it is at least, and what it starts with. */

import type { ByteStream } from '../types.ts';

/** How long may be waited for the next piece of a stream before it is taken to be a long one, in milliseconds. */
const PAUSE = 50;

/** What a codec looks at to tell whether it has parts, in bytes. */
export const HEAD = 64;

/**
 * The start of `bytes`: until there are `wanted` or all of them, or it takes long. `length` is how many there are, or `Infinity` when it took
 * long. All of `bytes` comes again, which the caller must consume or return.
 */
export async function readStart(
  bytes: ByteStream,
  wanted: number,
): Promise<{
  readonly length: number;
  readonly head: Uint8Array;
  readonly bytes: AsyncGenerator<Uint8Array, void, void>;
}> {
  const iterator = bytes[Symbol.asyncIterator]();
  const pieces: Uint8Array[] = [];
  let length = 0;
  let hasEnded = false as boolean;
  /** The piece that took long. */
  let pending: Promise<IteratorResult<Uint8Array>> | undefined;
  while (length < wanted && !hasEnded) {
    pending ??= iterator.next();
    const next = length < HEAD ? await pending : await orPause(pending);
    if (next === undefined) {
      length = Infinity;
      break;
    }
    pending = undefined;
    if (next.done === true) hasEnded = true;
    else {
      pieces.push(next.value);
      length += next.value.length;
    }
  }
  async function* again(): AsyncGenerator<Uint8Array, void, void> {
    try {
      for (let piece = pieces.shift(); piece !== undefined; piece = pieces.shift()) yield piece;
      while (!hasEnded) {
        const next = await (pending ?? iterator.next());
        pending = undefined;
        if (next.done === true) hasEnded = true;
        else yield next.value;
      }
    } finally {
      if (!hasEnded) await iterator.return?.();
    }
  }
  return { length, head: Buffer.concat(pieces.slice(0, HEAD), HEAD), bytes: again() };
}

/** What `promise` resolves with, unless that takes long. */
async function orPause<T>(promise: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const pause = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), PAUSE);
  });
  try {
    return await Promise.race([promise, pause]);
  } finally {
    clearTimeout(timer);
  }
}
