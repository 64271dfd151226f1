/** What a caller may hand over as input, and what can be had of it: bytes at any offset, or bytes that pass once. */

import * as fs from 'node:fs';
import { Readable } from 'node:stream';
import { SparsecopyError } from '../errors.ts';
import { checkFileOrDevice, checkUnchanged, kindOf, stateOf, type FileIdentity } from '../stat.ts';
import type { ByteStream, Source } from '../types.ts';
import { fileSource, openFile, type FileSource } from './file.ts';

/** What can be opened: a path, `-` (standard input), a stream or async iterable of bytes, or a Source. */
export type Input = string | Readable | AsyncIterable<Uint8Array> | Source;

/** An input before anything is known of its content: something that can seek, or something that passes once. */
export type FoundInput = {
  readonly name: string;
  /** The file or device that is read, if it is one. */
  readonly identity?: FileIdentity | undefined;
  /** Tells whether a file was changed since it was found, as far as that matters; see `checkUnchanged` in `stat.ts`. */
  readonly checkUnchanged?: (strict: boolean) => Promise<void>;
  readonly dispose: () => PromiseLike<void>;
} & (
  | { readonly source: Source; readonly bytes?: undefined }
  | { readonly bytes: ByteStream; readonly source?: undefined }
);

function isSource(input: object): input is Source {
  return 'extents' in input && 'read' in input && 'size' in input;
}

/**
 * Finds out what `input` is, and opens it if it is a name; with `untrusted`, names of pipes and character devices are refused.
 * @throws SparsecopyError `SOURCE` for what cannot be read as an image; system errors as they come.
 */
export async function findInput(input: Input, untrusted = false): Promise<FoundInput> {
  if (typeof input !== 'string') {
    if (isSource(input)) {
      // The caller's, who also disposes of it.
      return { name: input.name, source: input, dispose: () => Promise.resolve() };
    }
    return streamInput(input, 'input stream');
  }
  if (input === '-') return standardInput();
  const stats = await fs.promises.stat(input);
  if (untrusted) checkFileOrDevice(input, stats);
  if (stats.isFile() || stats.isBlockDevice()) {
    return fileInput(await openFile(input), (source) => source[Symbol.asyncDispose]());
  }
  if (stats.isCharacterDevice() || stats.isFIFO()) {
    return streamInput(fs.createReadStream(input), input);
  }
  throw new SparsecopyError('SOURCE', `is ${kindOf(stats)}, which cannot be read as an image`, {
    source: input,
    found: kindOf(stats),
  });
}

async function fileInput(
  source: FileSource,
  dispose: (source: FileSource) => PromiseLike<void>,
): Promise<FoundInput> {
  const { fd, identity, name } = source;
  const before = await stateOf(fd);
  return {
    name,
    source,
    identity,
    checkUnchanged: (strict) => checkUnchanged(before, fd, name, strict),
    dispose: () => dispose(source),
  };
}

function streamInput(bytes: Readable | AsyncIterable<Uint8Array>, name: string): FoundInput {
  return {
    name,
    bytes,
    dispose: () => {
      if (bytes instanceof Readable) bytes.destroy();
      return Promise.resolve();
    },
  };
}

/** Standard input: seekable where it is a file that nobody has read from yet, else a stream. */
async function standardInput(): Promise<FoundInput> {
  const name = 'standard input';
  const stats = fs.fstatSync(0);
  if ((stats.isFile() || stats.isBlockDevice()) && (await positionOf(0)) === 0) {
    const source = await fileSource(0, name, () => Promise.resolve());
    return fileInput(source, () => Promise.resolve());
  }
  if (stats.isDirectory()) {
    throw new SparsecopyError('SOURCE', 'is a directory, which cannot be read as an image', {
      source: name,
      found: 'a directory',
    });
  }
  if (!stats.isFIFO()) return streamInput(process.stdin, name);
  const { pipeBytes } = await import('./pipe.ts');
  const bytes = pipeBytes(0);
  return {
    name,
    bytes,
    dispose: () => {
      bytes.destroy();
      return Promise.resolve();
    },
  };
}

/** Where the open descriptor `fd` stands, as far as the system tells. */
async function positionOf(fd: number): Promise<number | undefined> {
  const info = await fs.promises.readFile(`/proc/self/fdinfo/${fd}`, 'latin1').catch(() => '');
  const position = /^pos:\s*(\d+)$/m.exec(info)?.[1];
  return position === undefined ? undefined : Number(position);
}
