/** Outputs that cannot seek: standard output, a pipe, a character device, a stream of the caller's. Zeros are sent. */

import { once } from 'node:events';
import * as fs from 'node:fs';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { unshared } from '../bytes.ts';
import { SparsecopyError, inStep } from '../errors.ts';
import type { Chunk } from '../types.ts';
import { makeSink, type Sink } from './sink.ts';

/** Zeros are sent in pieces of it. */
const zeros = Buffer.alloc(64 * 1024);

/**
 * A sink that sends the disk as bytes, in order, to `target` (a stream, or the path of a FIFO or character device).
 * A stream of the caller's is ended, unless it is standard output or standard error.
 * @throws SparsecopyError `UNSUPPORTED` (as the stream's error) when chunks do not come in disk order.
 */
export function flat(target: Writable | string): Sink {
  let output: Writable | undefined;
  let bytesWritten = 0;
  let failure: { error: unknown } | undefined;
  let ended: Promise<void> | undefined;
  /** Called when the output takes more, or never will. */
  let goOn = (): void => undefined;

  const send = async (bytes: Uint8Array): Promise<void> => {
    if (failure !== undefined) throw failure.error;
    if (output === undefined) return;
    if (!output.write(bytes)) await new Promise<void>((resolve) => (goOn = resolve));
    bytesWritten += bytes.length;
  };

  let offset = 0;
  return makeSink({
    async open(onError): Promise<void> {
      if (typeof target === 'string') {
        const stream = fs.createWriteStream(target, { flags: 'r+' });
        output = stream;
        await inStep('destination', once(stream, 'open'));
      } else output = target;
      ended = inStep('write', finished(output, { readable: false }));
      output.on('drain', () => {
        goOn();
      });
      ended.catch((error: unknown) => {
        failure = { error };
        goOn();
        onError(error);
      });
    },
    async write(chunk: Chunk): Promise<void> {
      if (chunk.offset !== offset) throw outOfOrder(offset, chunk.offset);
      offset += chunk.length;
      if (chunk.kind === 'data') {
        // The stream may keep the bytes after `write`, so the buffer is not released.
        await inStep('write', send(unshared(chunk.bytes, chunk.release)));
        return;
      }
      for (let left = chunk.length; left > 0; left -= zeros.length) {
        await inStep('write', send(left < zeros.length ? zeros.subarray(0, left) : zeros));
      }
    },
    async finish(): Promise<void> {
      if (output === undefined) return;
      if (output === process.stdout || output === process.stderr) {
        // These cannot be ended; an empty write calls back when all before it has gone.
        await inStep(
          'write',
          new Promise<void>((resolve, reject) => {
            output?.write('', (error) => (error ? reject(error) : resolve()));
          }),
        );
        return;
      }
      output.end();
      await ended;
    },
    close(isComplete): Promise<void> {
      if (!isComplete && output !== process.stdout) output?.destroy();
      return Promise.resolve();
    },
    figures: () => ({ bytesWritten, sizeOnDisk: undefined, nonZeroDestination: 0 }),
  });
}

function outOfOrder(expected: number, found: number): SparsecopyError {
  return new SparsecopyError(
    'UNSUPPORTED',
    `an output that cannot seek needs the disk in order: expected offset ${expected}, found ${found}`,
    { feature: 'chunks out of order', offset: found, expected, found },
  );
}
