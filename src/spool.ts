/** Random access to something that passes once: its bytes are kept in a temporary file that has no name. */

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gather } from './chunk/gather.ts';
import { makeZeroSplitter, DEFAULT_GRAIN } from './chunk/zeros.ts';
import { makeWriter, type Writer } from './sink/write.ts';
import type { Run } from './types.ts';
import { fileSource, type FileSource } from './source/file.ts';

const open = promisify(fs.open);
const close = promisify(fs.close);
const ftruncate = promisify(fs.ftruncate);

/** A temporary file without a name: nothing is left of it, whatever happens. */
export interface TemporaryFile {
  /** Open for reading and writing until `close`. */
  readonly fd: number;
  readonly writer: Writer;
  /** Waits for the writes in flight, and gives the file up. */
  close(): Promise<void>;
}

/** Makes one in `folder` (default the system's). The file is unlinked as soon as it is open. */
export async function openTemporary(folder: string = tmpdir()): Promise<TemporaryFile> {
  // A folder that others write to: whoever can foretell a name can take it.
  const { randomBytes } = await import('node:crypto');
  const path = join(folder, `sparsecopy-${process.pid}-${randomBytes(8).toString('hex')}`);
  const fd = await open(path, 'wx+', 0o600);
  try {
    await fs.promises.unlink(path);
  } catch (error) {
    await close(fd);
    throw error;
  }
  const writer = makeWriter(fd, { sync: false });
  let closed: Promise<void> | undefined;
  return {
    fd,
    writer,
    close: () => (closed ??= writer.settle().then(() => close(fd))),
  };
}

/**
 * Writes all of `runs` to a temporary file in `folder` (default the system's), with holes for zeros, and gives it as a
 * Source.
 */
export async function spool(
  runs: AsyncIterable<Run>,
  name: string,
  folder?: string,
): Promise<FileSource> {
  const file = await openTemporary(folder);
  const { fd, writer } = file;
  try {
    const splitter = makeZeroSplitter(DEFAULT_GRAIN);
    let size = 0;
    for await (const whole of gather(runs)) {
      size += whole.length;
      for (const chunk of splitter.push(whole)) {
        if (chunk.kind === 'data') await writer.write(chunk.bytes, chunk.offset, chunk.release);
      }
    }
    for (const chunk of splitter.end()) {
      if (chunk.kind === 'data') await writer.write(chunk.bytes, chunk.offset);
    }
    await writer.drain();
    await ftruncate(fd, size);
    return await fileSource(fd, name, () => file.close());
  } catch (error) {
    await file.close();
    throw error;
  }
}
