/** What a failure looks like from outside: the exit status of the C tool, and one line that says what went wrong. */

import { getSystemErrorMap } from 'node:util';
import { SparsecopyError, stepOf, type Step } from '../errors.ts';

export const EXIT_USAGE = 1;

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

export function exitStatus(error: unknown): number {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ERR_MEMORY_ALLOCATION_FAILED' || code === 'ENOMEM') return EXIT_MEMORY;
  if (error instanceof RangeError && /allocation/.test(error.message)) return EXIT_MEMORY;
  const step = stepOf(error);
  if (step !== undefined) return statuses[step];
  return error instanceof SparsecopyError && error.code === 'DESTINATION'
    ? statuses.destination
    : statuses.source;
}

/** One line without a stack: our own messages as they are, a system error with the file it is about. */
export function errorLine(error: unknown, source: string, destination: string): string {
  if (error instanceof SparsecopyError) return error.message;
  const { code, message } = error as NodeJS.ErrnoException;
  const reason = [...getSystemErrorMap().values()].find(([name]) => name === code)?.[1];
  const step = stepOf(error);
  if (step === undefined || reason === undefined || code === undefined) return message;
  return `${places[step](source, destination)}: ${reason} (${code})`;
}
