/** The one error class, its closed set of codes, and the step of a copy in which an error happened. */

/**
 * - `TRUNCATED` the input ends before what it promises
 * - `CORRUPT` it contradicts itself, its checksums or its specification
 * - `UNSUPPORTED` a feature that is known but not implemented
 * - `LIMIT` more than `limits` (or an option such as `maxWrite`) allows
 * - `REFERENCE` the image names another file, and nothing an image names is opened
 * - `FORMAT` declared and found differ, or nothing known was found
 * - `DESTINATION` the destination may not or cannot be written so
 * - `DIGEST` a digest that the caller demanded differs
 * - `SOURCE` the source is of a kind that cannot be read, or changed while it was read
 * - `FORBIDDEN` a policy refuses it
 */
export type ErrorCode =
  | 'TRUNCATED'
  | 'CORRUPT'
  | 'UNSUPPORTED'
  | 'LIMIT'
  | 'REFERENCE'
  | 'FORMAT'
  | 'DESTINATION'
  | 'DIGEST'
  | 'SOURCE'
  | 'FORBIDDEN';

/** Where an error happened and what was there. */
export interface ErrorDetails {
  /** Name of the input or output; it becomes the start of the message. */
  readonly source?: string;
  /** In the file or stream named by `source`, in bytes. */
  readonly offset?: number;
  /** The feature that is not supported. */
  readonly feature?: string;
  /** The name of the limit in `limits.ts`, or of the option, that was exceeded. */
  readonly limit?: string;
  readonly found?: string | number | bigint;
  readonly expected?: string | number | bigint;
  readonly cause?: unknown;
}

/** Every refusal of this package. System errors (`ENOSPC`, `EIO`, `AbortError`) are not wrapped: they pass as they came. */
export class SparsecopyError extends Error {
  readonly code: ErrorCode;
  readonly source: string | undefined;
  readonly offset: number | undefined;
  readonly feature: string | undefined;
  readonly limit: string | undefined;
  readonly found: string | number | bigint | undefined;
  readonly expected: string | number | bigint | undefined;

  /** `sentence` gives the place, what was expected and what was found; `details.source` is put before it. */
  constructor(code: ErrorCode, sentence: string, details: ErrorDetails = {}) {
    super(
      details.source === undefined ? sentence : `${details.source}: ${sentence}`,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.name = 'SparsecopyError';
    this.code = code;
    this.source = details.source;
    this.offset = details.offset;
    this.feature = details.feature;
    this.limit = details.limit;
    this.found = details.found;
    this.expected = details.expected;
  }
}

/** True for errors of this package, optionally of one of `codes`. */
export function isSparsecopyError(error: unknown, ...codes: ErrorCode[]): error is SparsecopyError {
  return error instanceof SparsecopyError && (codes.length === 0 || codes.includes(error.code));
}

/** A name or text from inside an image, made safe to print: JSON escapes, at most 64 characters (security.md T38). */
export function quoteUntrusted(text: string): string {
  return JSON.stringify(text.length > 64 ? `${text.slice(0, 61)}...` : text);
}

/** The step of a copy in which an error happened; the command's exit code follows from it. */
export type Step =
  | 'source'
  | 'destination'
  | 'seek'
  | 'check-read'
  | 'check-found'
  | 'write'
  | 'truncate'
  | 'remainder';

const steps = new WeakMap<object, Step>();

/** Notes in which step `error` happened, unless that is known already, and gives `error` back unchanged. */
export function markStep(error: unknown, step: Step): unknown {
  if (typeof error === 'object' && error !== null && !steps.has(error)) steps.set(error, step);
  return error;
}

/** The step noted for `error` by the innermost part that knew it. */
export function stepOf(error: unknown): Step | undefined {
  return typeof error === 'object' && error !== null ? steps.get(error) : undefined;
}

/** Awaits `promise`; if it rejects, the error is marked with `step` and thrown on. */
export async function inStep<T>(step: Step, promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw markStep(error, step);
  }
}

/** An error on its way between threads, on which errors do not keep their fields. */
export interface FlatError {
  readonly name: string;
  readonly message: string;
  readonly step: Step | undefined;
  /** Of this package's errors; what they have but a cause. */
  readonly details: ErrorDetails | undefined;
  /** Of the system's errors and others: `code`, `errno`, `syscall`. */
  readonly fields: Readonly<Record<string, string | number | undefined>>;
  readonly cause: FlatError | undefined;
}

/** `error` as something that can be sent to another thread. */
export function flattenError(error: unknown): FlatError {
  if (!(error instanceof Error)) return flattenError(new Error(String(error)));
  const { name, message, cause } = error;
  const { code, errno, syscall, path } = error as NodeJS.ErrnoException;
  const isOwn = error instanceof SparsecopyError;
  const { source, offset, feature, limit, found, expected } = (isOwn ? error : {}) as ErrorDetails;
  return {
    name,
    message,
    step: stepOf(error),
    details: isOwn ? { source, offset, feature, limit, found, expected } : undefined,
    fields: { code, errno, syscall, path },
    cause: cause === undefined ? undefined : flattenError(cause),
  };
}

/** The error that `flat` was. */
export function reviveError(flat: FlatError): Error {
  const cause = flat.cause === undefined ? undefined : reviveError(flat.cause);
  const error = makeAnew(flat, cause);
  if (flat.step !== undefined) markStep(error, flat.step);
  return error;
}

function makeAnew({ name, message, details, fields }: FlatError, cause: Error | undefined): Error {
  if (details !== undefined) {
    const { source, ...others } = details;
    // The message starts with the source already.
    const error = new SparsecopyError(fields['code'] as ErrorCode, message, { ...others, cause });
    return Object.assign(error, { source });
  }
  const known = Object.entries(fields).filter(([, value]) => value !== undefined);
  const error = new Error(message, cause === undefined ? undefined : { cause });
  return Object.assign(error, { name }, Object.fromEntries(known));
}
