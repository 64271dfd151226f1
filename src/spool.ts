/** Random access to something that passes once: its bytes are kept in a temporary file that has no name. */

import * as fs from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gather } from './chunk/gather.ts';
import { makeZeroSplitter, DEFAULT_GRAIN } from './chunk/zeros.ts';
import { makeWriter } from './sink/write.ts';
import type { Run } from './types.ts';
import { fileSource, type FileSource } from './source/file.ts';

const open = promisify(fs.open);
const close = promisify(fs.close);
const ftruncate = promisify(fs.ftruncate);

/**
 * Writes all of `runs` to a temporary file in `folder` (default the system's), with holes for zeros, and gives it as a Source.
 * The file is unlinked as soon as it is open, so that nothing is left whatever happens.
 */
export async function spool(
  runs: AsyncIterable<Run>,
  name: string,
  folder: string = tmpdir(),
): Promise<FileSource> {
  const path = join(folder, `sparsecopy-${process.pid}-${randomBytes(8).toString('hex')}`);
  const fd = await open(path, 'wx+', 0o600);
  try {
    await fs.promises.unlink(path);
    const writer = makeWriter(fd);
    const splitter = makeZeroSplitter(DEFAULT_GRAIN);
    let size = 0;
    try {
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
    } finally {
      await writer.settle();
    }
    await ftruncate(fd, size);
    return await fileSource(fd, name, () => close(fd));
  } catch (error) {
    await close(fd);
    throw error;
  }
}
