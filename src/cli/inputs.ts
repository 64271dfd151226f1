/** How the command's inputs are opened: from options to OpenOptions, the passphrase read from its file. */

import * as fs from 'node:fs';
import type { OpenOptions } from '../open.ts';
import { countThreads } from '../threads.ts';
import type { FormatName } from '../types.ts';
import { UsageError, type OptionName } from './options.ts';

export type Options = ReadonlyMap<OptionName, string>;

const formatNames: readonly string[] = ['raw', 'qcow2'] satisfies FormatName[];

/** No cryptsetup key file is larger; what is larger is a mistake, or has no end. */
const MAX_PASSPHRASE = 8 * 1024 * 1024;

/**
 * The options on how `inputs` (names as given) are opened.
 * @throws UsageError
 */
export async function openOptions(
  options: Options,
  inputs: readonly string[],
): Promise<OpenOptions> {
  const format = options.get('format');
  if (format !== undefined && !formatNames.includes(format)) {
    throw new UsageError(`unknown format '${format}', known are ${formatNames.join(', ')}`);
  }
  const tempDir = options.get('temp-dir');
  if (tempDir !== undefined && !isFolder(tempDir)) {
    throw new UsageError(`--temp-dir: '${tempDir}' is not a folder`);
  }
  const ratio = options.get('max-ratio');
  if (ratio !== undefined && !(Number(ratio) >= 1)) {
    throw new UsageError(`bad number '${ratio}' for --max-ratio, expected 1 or more`);
  }
  const threads = threadsOf(options.get('threads'));
  const readers = [...inputs, options.get('backing'), options.get('passphrase-file')];
  if (readers.filter((name) => name === '-').length > 1) {
    throw new UsageError('standard input can be read for one thing only');
  }
  const folder = options.get('allow-references');
  return {
    format: format as FormatName | undefined,
    decompress: !options.has('no-decompress'),
    policy: options.has('untrusted') ? 'untrusted' : 'default',
    ...(ratio === undefined ? {} : { limits: { ratio: Number(ratio) } }),
    allowCorrupt: options.has('allow-corrupt'),
    snapshot: options.get('snapshot'),
    allowReferences: folder === '' ? true : (folder ?? false),
    backing: options.get('backing'),
    passphrase: await passphraseOf(options),
    tempDir,
    threads,
  };
}

/** A number of threads, or what the environment says. @throws UsageError */
function threadsOf(text: string | undefined): number {
  try {
    return countThreads(text === undefined ? undefined : Number(text === '' ? NaN : text));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(text === undefined ? error.message : `bad number '${text}' for --threads`);
  }
}

function isFolder(path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** As given, or all of a file but the newline that editors leave at its end. */
async function passphraseOf(options: Options): Promise<string | Uint8Array | undefined> {
  const text = options.get('passphrase');
  const name = options.get('passphrase-file');
  if (name === undefined) return text;
  if (text !== undefined)
    throw new UsageError('--passphrase and --passphrase-file exclude each other');
  const pieces: Buffer[] = [];
  let size = 0;
  try {
    const stream = name === '-' ? process.stdin : fs.createReadStream(name);
    for await (const piece of stream as AsyncIterable<Buffer>) {
      size += piece.length;
      if (size > MAX_PASSPHRASE) {
        throw new Error(`it has more than ${MAX_PASSPHRASE} bytes`);
      }
      pieces.push(piece);
    }
  } catch (error) {
    throw new UsageError(`cannot read the passphrase: ${(error as Error).message}`);
  }
  const bytes = Buffer.concat(pieces);
  return bytes.at(-1) === 0x0a ? bytes.subarray(0, -1) : bytes;
}
