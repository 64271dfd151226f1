#!/usr/bin/env node
/** The command: argv to one call, its result to text, its failure to an exit status. */

import { readFileSync } from 'node:fs';
import { sparsecopy, type CopyOptions } from '../copy.ts';
import { quoteUntrusted } from '../errors.ts';
import {
  EXIT_DIFFERENT,
  checkStatuses,
  errorLine,
  exitStatus,
  usageStatus,
  type Command,
} from './exit.ts';
import { helpText } from './help.ts';
import { openOptions, type Options } from './inputs.ts';
import { UsageError, parseCommandLine, type OptionName } from './options.ts';
import { makeProgressBar } from './progress.ts';
import { parseSize } from './size.ts';
import {
  MAP_HEADING,
  checkText,
  closingLine,
  comparisonText,
  extentLine,
  infoText,
  makeStrip,
  spooledLine,
} from './text.ts';

const DEFAULT_BLOCK_SIZE = 512;

/** What each command takes, in words, and what runs it; copying has no name of its own, and is the only one that is loaded before it is wanted. */
const commands: Readonly<
  Record<
    Command,
    {
      readonly takes: readonly string[];
      readonly run: (operands: readonly string[], options: Options) => Promise<void>;
    }
  >
> = {
  copy: { takes: ['SOURCE', 'DEST'], run: copy },
  info: { takes: ['IMAGE'], run: printInfo },
  map: { takes: ['IMAGE'], run: printMap },
  check: { takes: ['IMAGE'], run: printCheck },
  compare: { takes: ['A', 'B'], run: printComparison },
};

/** Runs the command and sets the exit status. */
async function main(argv: readonly string[]): Promise<void> {
  // The status of a command line that cannot be parsed depends on the command, too.
  let command = commandOf(argv.find((word) => !word.startsWith('-')));
  let operands: readonly string[] = [];
  try {
    const line = parseCommandLine(argv);
    const { options } = line;
    if (options.has('help')) print(helpText());
    else if (options.has('version')) print(`sparsecopy ${version()}\n`);
    else {
      command = commandOf(line.operands[0]);
      operands = command === 'copy' ? line.operands : line.operands.slice(1);
      const { takes, run } = commands[command];
      if (operands.length !== takes.length) {
        throw new UsageError(
          `${command === 'copy' ? 'copying' : command} takes ${takes.join(' and ')}, found ${operands.length} operands`,
        );
      }
      if (options.has('strict') && command !== 'compare') {
        throw new UsageError('--strict is for compare only');
      }
      await run(operands, options);
    }
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`sparsecopy: ${error.message}\nTry 'sparsecopy --help'.\n`);
      process.exitCode = usageStatus(command);
      return;
    }
    const [first = '', second = ''] = operands.map(nameOf);
    const failure =
      command === 'compare' ? (await import('../compare.ts')).compareFailureOf(error) : undefined;
    const source = failure?.input === 'b' ? second : first;
    process.stderr.write(`sparsecopy: ${errorLine(error, source, second)}\n`);
    process.exitCode = exitStatus(error, command, failure);
  }
}

function commandOf(word: string | undefined): Command {
  return word !== undefined && word !== 'copy' && Object.hasOwn(commands, word)
    ? (word as Command)
    : 'copy';
}

async function copy(
  [source = '', destination = '']: readonly string[],
  options: Options,
): Promise<void> {
  const sizes = sizeOptions(options);
  if (options.has('json') && destination === '-') {
    throw new UsageError('--json and DEST - both want standard output');
  }
  const opening = await openOptions(options, [source]);
  const stop = stopOnSignals();
  const bar = options.has('progress') && process.stderr.isTTY ? await makeProgressBar() : undefined;
  try {
    const report = await sparsecopy(source, destination, {
      ...opening,
      ...sizes,
      overlay: options.has('overlay'),
      nocheck: options.has('nocheck'),
      errorRemainder: options.has('errorremainder'),
      check: options.has('check'),
      sync: !options.has('no-sync'),
      blocking: true,
      onProgress: (progress) => bar?.show(progress),
      signal: stop.signal,
    });
    bar?.stop();
    if (options.has('json')) print(`${JSON.stringify(report, undefined, 2)}\n`);
    if (!options.has('quiet')) process.stderr.write(closingLine(report) + spooledLine(report));
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

async function printInfo([image = '']: readonly string[], options: Options): Promise<void> {
  const { info } = await import('../inspect.ts');
  const found = await info(image, await openOptions(options, [image]));
  print(
    options.has('json')
      ? `${JSON.stringify(found, undefined, 2)}\n`
      : infoText(found, quoteUntrusted),
  );
}

async function printMap([image = '']: readonly string[], options: Options): Promise<void> {
  const { map } = await import('../inspect.ts');
  const extents = [];
  const opening = await openOptions(options, [image]);
  for await (const extent of map(image, opening)) extents.push(extent);
  if (options.has('json')) {
    print(`[${extents.map((extent) => JSON.stringify(extent)).join(',\n')}]\n`);
    return;
  }
  if (process.stdout.isTTY) {
    const last = extents.at(-1);
    const strip = makeStrip(
      process.stdout.columns || 80,
      last === undefined ? 0 : last.offset + last.length,
    );
    for (const extent of extents) strip.add(extent);
    print(strip.text(process.env['NO_COLOR'] === undefined));
  }
  print(MAP_HEADING);
  print(extents.map(extentLine).join(''));
}

async function printCheck([image = '']: readonly string[], options: Options): Promise<void> {
  const { check } = await import('../check.ts');
  const report = await check(image, await openOptions(options, [image]));
  if (options.has('json')) print(`${JSON.stringify(report, undefined, 2)}\n`);
  else if (!options.has('quiet')) print(checkText(report));
  process.exitCode = checkStatuses[report.verdict];
}

async function printComparison(
  [a = '', b = '']: readonly string[],
  options: Options,
): Promise<void> {
  const opening = await openOptions(options, [a, b]);
  const { compare } = await import('../compare.ts');
  const comparison = await compare(a, b, {
    ...opening,
    // These are said of one image; both can be exchanged.
    b: { format: undefined, snapshot: undefined, backing: undefined },
    strict: options.has('strict'),
  });
  if (options.has('json')) print(`${JSON.stringify(comparison, undefined, 2)}\n`);
  else if (!options.has('quiet')) print(comparisonText(comparison));
  if (!comparison.identical) process.exitCode = EXIT_DIFFERENT;
}

/** Whether `print` has been called. */
let hasPrinted = false;

/** Writes to standard output, which is not opened before, because that takes a tenth of the time that a small copy takes. */
function print(text: string): void {
  // A reader that goes away is no failure of ours to describe at length.
  if (!hasPrinted) process.stdout.on('error', () => undefined);
  hasPrinted = true;
  process.stdout.write(text);
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

await main(process.argv.slice(2));
