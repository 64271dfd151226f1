#!/usr/bin/env node
/** The command: argv to one call, its result to text, its failure to an exit status. */

import { readFileSync } from 'node:fs';
import { sparsecopy, type CopyOptions } from '../copy.ts';
import { quoteUntrusted } from '../errors.ts';
import { info, map } from '../inspect.ts';
import type { OpenOptions } from '../open.ts';
import type { FormatName } from '../types.ts';
import { EXIT_USAGE, errorLine, exitStatus } from './exit.ts';
import { UsageError, helpText, parseCommandLine, type OptionName } from './options.ts';
import { makeProgressBar } from './progress.ts';
import { parseSize } from './size.ts';
import { MAP_HEADING, closingLine, extentLine, infoText, makeStrip } from './text.ts';

type Options = ReadonlyMap<OptionName, string>;

const DEFAULT_BLOCK_SIZE = 512;
const formatNames: readonly string[] = ['raw', 'qcow2'] satisfies FormatName[];

/** Runs the command and sets the exit status. */
async function main(argv: readonly string[]): Promise<void> {
  let source = '';
  let destination = '';
  try {
    const { options, operands } = parseCommandLine(argv);
    if (options.has('help')) process.stdout.write(helpText());
    else if (options.has('version')) process.stdout.write(`sparsecopy ${version()}\n`);
    else if (operands[0] === 'info' || operands[0] === 'map') {
      source = onlyOperand(operands);
      await (operands[0] === 'info' ? printInfo(source, options) : printMap(source, options));
    } else {
      if (operands.length !== 2) {
        throw new UsageError(`SOURCE and DEST are needed, found ${operands.length} operands`);
      }
      [source = '', destination = ''] = operands;
      await copy(source, destination, options);
    }
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`sparsecopy: ${error.message}\nTry 'sparsecopy --help'.\n`);
      process.exitCode = EXIT_USAGE;
    } else {
      process.stderr.write(
        `sparsecopy: ${errorLine(error, nameOf(source), nameOf(destination))}\n`,
      );
      process.exitCode = exitStatus(error);
    }
  }
}

async function copy(source: string, destination: string, options: Options): Promise<void> {
  const sizes = sizeOptions(options);
  if (options.has('json') && destination === '-') {
    throw new UsageError('--json and DEST - both want standard output');
  }
  const stop = stopOnSignals();
  const bar = options.has('progress') && process.stderr.isTTY ? await makeProgressBar() : undefined;
  try {
    const report = await sparsecopy(source, destination, {
      ...openOptions(options),
      ...sizes,
      overlay: options.has('overlay'),
      nocheck: options.has('nocheck'),
      errorRemainder: options.has('errorremainder'),
      check: options.has('check'),
      onProgress: (progress) => bar?.show(progress),
      signal: stop.signal,
    });
    bar?.stop();
    if (options.has('json')) process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
    if (!options.has('quiet')) process.stderr.write(closingLine(report));
  } catch (error) {
    bar?.stop();
    throw error;
  } finally {
    stop.end();
  }
}

/** The options that are sizes; the block size first, because the others may be counted in it. */
function sizeOptions(options: Options): CopyOptions {
  const sizeOf = (name: OptionName, blockSize: number): number | undefined => {
    const text = options.get(name);
    if (text === undefined) return undefined;
    const size = parseSize(text, blockSize);
    if (size === undefined) throw new UsageError(`bad size '${text}' for --${name}`);
    return size;
  };
  const blockSize = sizeOf('blocksize', DEFAULT_BLOCK_SIZE) ?? DEFAULT_BLOCK_SIZE;
  if (blockSize === 0) throw new UsageError('bad block size 0');
  const syncEvery = sizeOf('syncevery', blockSize);
  return {
    blockSize,
    seek: sizeOf('seek', blockSize),
    finalSize: sizeOf('finalsize', blockSize),
    maxWrite: sizeOf('maxwrite', blockSize),
    syncEvery: syncEvery === 0 ? undefined : syncEvery,
  };
}

function openOptions(options: Options): OpenOptions {
  const format = options.get('format');
  if (format !== undefined && !formatNames.includes(format)) {
    throw new UsageError(`unknown format '${format}', known are ${formatNames.join(', ')}`);
  }
  return { format: format as FormatName | undefined, decompress: !options.has('no-decompress') };
}

function onlyOperand(operands: readonly string[]): string {
  const [command = '', image, ...more] = operands;
  if (image === undefined || more.length > 0) {
    throw new UsageError(`${command} takes one IMAGE, found ${operands.length - 1}`);
  }
  return image;
}

async function printInfo(image: string, options: Options): Promise<void> {
  const found = await info(image, openOptions(options));
  process.stdout.write(
    options.has('json')
      ? `${JSON.stringify(found, undefined, 2)}\n`
      : infoText(found, quoteUntrusted),
  );
}

async function printMap(image: string, options: Options): Promise<void> {
  const extents = [];
  for await (const extent of map(image, openOptions(options))) extents.push(extent);
  if (options.has('json')) {
    process.stdout.write(`[${extents.map((extent) => JSON.stringify(extent)).join(',\n')}]\n`);
    return;
  }
  if (process.stdout.isTTY) {
    const last = extents.at(-1);
    const strip = makeStrip(
      process.stdout.columns || 80,
      last === undefined ? 0 : last.offset + last.length,
    );
    for (const extent of extents) strip.add(extent);
    process.stdout.write(strip.text(process.env['NO_COLOR'] === undefined));
  }
  process.stdout.write(MAP_HEADING);
  process.stdout.write(extents.map(extentLine).join(''));
}

function nameOf(operand: string): string {
  return operand === '-' ? 'the standard stream' : operand;
}

function version(): string {
  const file = new URL('../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/**
 * The first SIGINT, SIGTERM or SIGHUP aborts what is under way, so that nothing partial is left; then the process dies of
 * that signal, as its parent expects.
 */
function stopOnSignals(): {
  readonly signal: AbortSignal;
  /** Lets signals be what they are again, and dies of the one that came. */
  end(): void;
} {
  const controller = new AbortController();
  let received: NodeJS.Signals | undefined;
  const names: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  const onSignal = (name: NodeJS.Signals): void => {
    received ??= name;
    controller.abort();
  };
  for (const name of names) process.on(name, onSignal);
  return {
    signal: controller.signal,
    end(): void {
      for (const name of names) process.off(name, onSignal);
      if (received !== undefined) process.kill(process.pid, received);
    },
  };
}

// A reader of our output that goes away is no failure of ours to describe at length.
process.stdout.on('error', () => undefined);
await main(process.argv.slice(2));
