/** What a failure looks like from outside: the exit status of the C tool, and one line that says what went wrong. */

import { getSystemErrorMap } from 'node:util';
import type { CheckReport } from '../check.ts';
import type { CompareFailure } from '../compare.ts';
import { SparsecopyError, stepOf, type Step } from '../errors.ts';

/** What the command was asked for. */
export type Command = 'copy' | 'info' | 'map' | 'check' | 'compare';

/** qemu-img's status for two images that differ; hence no error of `compare` may have it. */
export const EXIT_DIFFERENT = 1;

/** qemu-img's statuses of `check`. */
export const checkStatuses: Readonly<Record<CheckReport['verdict'], number>> = {
  clean: 0,
  failed: 1,
  corrupt: 2,
  leaks: 3,
};

/** qemu-img's status of `check` for a format that has none. */
const EXIT_NO_CHECKS = 63;

/** qemu-img's statuses of `compare`. It has 3 for tables that it meets on its way, which are read when opening here. */
const compareStatuses: Readonly<Record<CompareFailure['step'], number>> = { open: 2, read: 4 };

/** For a command line that cannot be understood. */
export function usageStatus(command: Command): number {
  return command === 'compare' ? compareStatuses.open : 1;
}

/** The C tool's exit status for each step. Its 7 and 8 (seek) cannot happen here: all reads and writes are positioned. */
const statuses: Readonly<Record<Step, number>> = {
  source: 2,
  destination: 3,
  seek: 4,
  'check-read': 6,
  write: 9,
  truncate: 10,
  'check-found': 11,
  remainder: 12,
};

/** The C tool's status for memory that cannot be had. */
const EXIT_MEMORY = 5;

/** What happened, in words that name the file. */
const places: Readonly<Record<Step, (source: string, destination: string) => string>> = {
  source: (source) => `cannot read ${source}`,
  destination: (_source, destination) => `cannot open ${destination}`,
  seek: (_source, destination) => `cannot seek in ${destination}`,
  'check-read': (_source, destination) => `cannot read ${destination}`,
  write: (_source, destination) => `cannot write ${destination}`,
  truncate: (_source, destination) => `cannot set the size of ${destination}`,
  'check-found': (_source, destination) => destination,
  remainder: (source) => source,
};

/** For `error`, which ended `command`; `failure` is what `compare` knows of it. */
export function exitStatus(
  error: unknown,
  command: Command,
  failure: CompareFailure | undefined,
): number {
  if (command === 'check') {
    const hasNone = error instanceof SparsecopyError && error.feature === 'check';
    return hasNone ? EXIT_NO_CHECKS : checkStatuses.failed;
  }
  if (command === 'compare') return compareStatuses[failure?.step ?? 'open'];
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ERR_MEMORY_ALLOCATION_FAILED' || code === 'ENOMEM') return EXIT_MEMORY;
  if (error instanceof RangeError && /allocation/.test(error.message)) return EXIT_MEMORY;
  const step = stepOf(error);
  if (step !== undefined) return statuses[step];
  return error instanceof SparsecopyError && error.code === 'DESTINATION'
    ? statuses.destination
    : statuses.source;
}

/**
 * One line without a stack: our own messages as they are, a system error with the file it is about. `source` and
 * `destination` are the names of what was read and written.
 */
export function errorLine(error: unknown, source: string, destination: string): string {
  if (error instanceof SparsecopyError) return error.message;
  const { code, message } = error as NodeJS.ErrnoException;
  const reason = [...getSystemErrorMap().values()].find(([name]) => name === code)?.[1];
  if (reason === undefined || code === undefined) return message.replace(/\n[^]*/, '');
  return `${places[stepOf(error) ?? 'source'](source, destination)}: ${reason} (${code})`;
}
