/** Takes bytes out of a byte stream in exact amounts, whatever the size of the pieces they come in. */

import { SparsecopyError } from '../errors.ts';
import type { ByteStream } from '../types.ts';

/**
 * A byte stream that is read in exact amounts, by one caller at a time. What it hands out is not written to or
 * reused by it, and may be a part of a piece as it came: small things that are kept for long are better copied.
 * An error of the stream passes unchanged.
 */
export interface ByteReader extends AsyncDisposable {
  /** For messages only. */
  readonly name: string;
  /** Of the next byte in the input: bytes consumed so far, unless the reader starts elsewhere. */
  readonly offset: number;
  /**
   * The next `length` bytes, exactly. Memory is taken as bytes arrive, so a `length` that lies costs nothing.
   * `what` names the thing for the message.
   * @throws SparsecopyError `TRUNCATED` when the stream ends before.
   */
  read(length: number, what?: string): Promise<Uint8Array>;
  /** The next `length` bytes without consuming them; fewer when the stream ends before. */
  peek(length: number): Promise<Uint8Array>;
  /** Whatever is at hand, from 1 to `max` bytes (default: all of it), or undefined at the end. Never copies. */
  take(max?: number): Promise<Uint8Array | undefined>;
  /**
   * Consumes `length` bytes without keeping them.
   * @throws SparsecopyError `TRUNCATED` when the stream ends before.
   */
  skip(length: number, what?: string): Promise<void>;
  /** True when all bytes are consumed and the stream has ended. */
  atEnd(): Promise<boolean>;
  /**
   * Closes the stream if it has not ended. An error while closing is dropped: nothing more is wanted of the
   * stream, and the error that led here must not be hidden by it.
   */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Largest first size of a buffer that gathers, in bytes. It doubles from there, so the work stays linear in the bytes. */
const FIRST_BUFFER = 1024 * 1024;

const NONE = new Uint8Array(0);

/** A reader of `bytes`, whose first is at `start` of the input called `name`, for its messages. */
export function makeReader(bytes: ByteStream, name: string, start = 0): ByteReader {
  const iterator = bytes[Symbol.asyncIterator]();
  let ended = false;
  let offset = start;
  /** What is at hand, in order: `current`, then `following` (non-empty only while `current` was gathered). */
  let current: Uint8Array = NONE;
  let following: Uint8Array = NONE;

  /** The next piece that is not empty, or undefined at the end. */
  async function pull(): Promise<Uint8Array | undefined> {
    while (!ended) {
      try {
        const result = await iterator.next();
        if (result.done === true) ended = true;
        else if (result.value.length > 0) return result.value;
      } catch (error) {
        ended = true;
        throw error;
      }
    }
    return undefined;
  }

  /** Makes `current` non-empty; false at the end. */
  async function refill(): Promise<boolean> {
    if (current.length > 0) return true;
    current = following;
    following = NONE;
    if (current.length > 0) return true;
    current = (await pull()) ?? NONE;
    return current.length > 0;
  }

  /** Brings `length` bytes together in `current`, or all that are left. */
  async function gather(length: number): Promise<void> {
    if (!(await refill()) || current.length >= length) return;
    if (ended && following.length === 0) return;
    let buffer = NONE;
    let held = 0;
    let piece: Uint8Array | undefined = current;
    try {
      while (piece !== undefined) {
        const part = Math.min(piece.length, length - held);
        if (held + part > buffer.length) {
          const size = Math.max(
            held + part,
            Math.min(length, Math.max(FIRST_BUFFER, 2 * buffer.length)),
          );
          // Not cleared before: only what was filled is ever handed out.
          const larger = Buffer.allocUnsafeSlow(size);
          larger.set(buffer.subarray(0, held));
          buffer = larger;
        }
        buffer.set(part === piece.length ? piece : piece.subarray(0, part), held);
        held += part;
        if (held === length) {
          if (part < piece.length) following = piece.subarray(part);
          else if (piece === following) following = NONE;
          break;
        }
        if (piece === following) following = NONE;
        piece = following.length > 0 ? following : await pull();
      }
    } finally {
      current = buffer.subarray(0, held);
    }
  }

  function consume(length: number): Uint8Array {
    const taken = length === current.length ? current : current.subarray(0, length);
    current = length === current.length ? NONE : current.subarray(length);
    offset += length;
    return taken;
  }

  function truncated(place: number, length: number, found: number, what: string): SparsecopyError {
    return new SparsecopyError(
      'TRUNCATED',
      `${what} at ${place} needs ${length} bytes, input ends at ${place + found}`,
      { source: name, offset: place, expected: length, found },
    );
  }

  return {
    name,
    get offset(): number {
      return offset;
    },
    async read(length, what = 'data'): Promise<Uint8Array> {
      if (length === 0) return NONE;
      if (current.length < length) await gather(length);
      if (current.length < length) throw truncated(offset, length, current.length, what);
      return consume(length);
    },
    async peek(length): Promise<Uint8Array> {
      if (current.length < length) await gather(length);
      return current.length <= length ? current : current.subarray(0, length);
    },
    async take(max = Infinity): Promise<Uint8Array | undefined> {
      if (!(await refill())) return undefined;
      return consume(Math.min(max, current.length));
    },
    async skip(length, what = 'data'): Promise<void> {
      const place = offset;
      while (offset - place < length) {
        const left = length - (offset - place);
        if (!(await refill())) throw truncated(place, length, offset - place, what);
        consume(Math.min(left, current.length));
      }
    },
    async atEnd(): Promise<boolean> {
      return !(await refill());
    },
    async [Symbol.asyncDispose](): Promise<void> {
      current = following = NONE;
      if (ended) return;
      ended = true;
      try {
        await iterator.return?.();
      } catch {
        // see the contract
      }
    },
  };
}
