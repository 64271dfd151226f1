/** The bytes of an open pipe, read ahead: while somebody works on some of them, more come in. */

import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net';

/** Bytes are read into buffers of this size, from a pipe that gives 64 KiB at a time. */
const BUFFER_SIZE = 256 * 1024;

/** A buffer with less room than this is not read into any more. */
const LEAST_ROOM = 32 * 1024;

/** So much is read before it is wanted, in bytes; what writers of images have under way must not wait for its first byte. */
const AHEAD = 4 * 1024 * 1024;

/** Bytes that pass once; whoever ends before they do calls `destroy`. */
export interface PipeBytes extends AsyncIterableIterator<Uint8Array> {
  /** Closes the pipe; nobody waits for it any more. */
  destroy(): void;
}

/** The bytes of the pipe or socket that is open as `fd`, which is closed at their end. Errors are the system's. */
export function pipeBytes(fd: number): PipeBytes {
  /** What has come and was not taken yet. */
  const pieces: Buffer[] = [];
  let length = 0;
  let buffer = Buffer.alloc(0);
  let hasEnded = false;
  let failure: { readonly error: unknown } | undefined;
  let wake: (() => void) | undefined;

  const tell = (): void => {
    wake?.();
    wake = undefined;
  };
  // The types lack `onread` here; the constructor has it as `connect` does.
  const socketOptions: SocketConstructorOpts & { readonly onread: OnReadOpts } = {
    fd,
    readable: true,
    writable: false,
    onread: {
      buffer(): Uint8Array {
        if (buffer.length < LEAST_ROOM) buffer = Buffer.allocUnsafeSlow(BUFFER_SIZE);
        return buffer;
      },
      callback(count: number): boolean {
        const last = pieces.at(-1);
        const piece = buffer.subarray(0, count);
        buffer = buffer.subarray(count);
        // Neighbours in one buffer are one piece.
        const isNext =
          last?.buffer === piece.buffer && last.byteOffset + last.length === piece.byteOffset;
        if (isNext) {
          pieces[pieces.length - 1] = Buffer.from(
            piece.buffer,
            last.byteOffset,
            last.length + count,
          );
        } else pieces.push(piece);
        length += count;
        tell();
        return length < AHEAD;
      },
    },
  };
  const socket = new Socket(socketOptions);
  const finish = (): void => {
    hasEnded = true;
    tell();
  };
  socket.once('end', finish).once('close', finish);
  socket.once('error', (error) => {
    failure = { error };
    tell();
  });
  const destroy = (): void => {
    pieces.length = 0;
    socket.destroy();
  };

  return {
    async next(): Promise<IteratorResult<Uint8Array>> {
      for (;;) {
        const piece = pieces.shift();
        if (piece !== undefined) {
          const wasFull = length >= AHEAD;
          length -= piece.length;
          if (wasFull && length < AHEAD) socket.resume();
          return { done: false, value: piece };
        }
        if (failure !== undefined) throw failure.error;
        if (hasEnded) return { done: true, value: undefined };
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    return(): Promise<IteratorResult<Uint8Array>> {
      destroy();
      return Promise.resolve({ done: true, value: undefined });
    },
    [Symbol.asyncIterator]() {
      return this;
    },
    destroy,
  };
}
