/** Whether an image is consistent: its kinds of input and output; what is checked is the format's business. */

import { inStep, SparsecopyError } from './errors.ts';
import { checkQcow2, type CheckResult } from './format/qcow2/check.ts';
import { limitsOf, type Limits } from './limits.ts';
import { peel, type PeelOptions } from './peel.ts';
import type { Input } from './source/input.ts';
import { ownRuns } from './source/stream.ts';
import { spool } from './spool.ts';
import type { CodecName, FormatName } from './types.ts';

export interface CheckOptions extends PeelOptions {
  /** Limits that differ from those of the policy. */
  readonly limits?: Partial<Limits> | undefined;
  /** Folder for the temporary file that an image in a compression or a pipe is kept in; default the system's. */
  readonly tempDir?: string | undefined;
  /** How many problems are told of; all are counted. Default 100. */
  readonly maxProblems?: number | undefined;
}

/** What `check` has found. */
export interface CheckReport extends CheckResult {
  readonly name: string;
  readonly format: FormatName;
  /** The compressions around the image, outermost first. */
  readonly codecs: readonly CodecName[];
}

/** How many problems are told of, unless the caller wants more: the first few tell what happened. */
const MAX_PROBLEMS = 100;

/**
 * Checks whether all that the tables of an image say of its file fits together, as `qemu-img check` does. Data are not
 * read, no file that the image names is opened, and no passphrase is needed. An image in a compression, or from a pipe, is
 * first kept in a temporary file.
 * @throws SparsecopyError `UNSUPPORTED` with `feature: 'check'` for a format in which there is nothing to check; for an image
 * that is so wrong that there is no verdict what its parser throws; `LIMIT`.
 */
export function check(input: Input, options: CheckOptions = {}): Promise<CheckReport> {
  return inStep('source', checkInput(input, options));
}

async function checkInput(input: Input, options: CheckOptions): Promise<CheckReport> {
  const { maxProblems = MAX_PROBLEMS, signal } = options;
  const limits = limitsOf(options.policy, options.limits);
  await using peeled = await peel(input, options, limits);
  const { name, inside, format } = peeled;
  if (format.name !== 'qcow2') {
    throw new SparsecopyError('UNSUPPORTED', `is a ${format.name} image, which has no checks`, {
      source: name,
      feature: 'check',
    });
  }
  await using spooled =
    inside.source === undefined
      ? await spool(ownRuns(inside.runs), name, options.tempDir)
      : undefined;
  const file = spooled ?? inside.source;
  if (file === undefined) throw new TypeError('an input that passes once is spooled');
  const result = await checkQcow2(file, { limits, maxProblems, signal });
  return { name, format: format.name, codecs: inside.codecs, ...result };
}
