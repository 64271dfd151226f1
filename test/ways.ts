/** One input copied in every way there is, and what came of each: the same content and sizes, or the same refusal. */

import {
  createReadStream,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  unlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { sparsecopy, SparsecopyError, type CopyOptions, type Input } from '../src/index.ts';
import { digestOfFile, digestSink, type Digest } from './digest.ts';

/** A folder for many short-lived files: in memory where the system has such a thing, since each copy is synced. */
export function fastTempDir(): string {
  return existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
}

/** What came of one copy. */
export type Outcome =
  | ({ readonly kind: 'ok'; readonly diskSize: number } & Digest)
  | { readonly kind: 'refused'; readonly code: string; readonly message: string }
  /** What must never be. */
  | { readonly kind: 'wrong'; readonly message: string };

/** `error` as an outcome: only a SparsecopyError is a refusal. */
export function outcomeOf(error: unknown): Outcome {
  if (error instanceof SparsecopyError) {
    return { kind: 'refused', code: error.code, message: error.message };
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { kind: 'wrong', message: `not a SparsecopyError: ${text}` };
}

/** The outcome in a line that two ways must have in common; with the message for people where `long`. */
export function tell(outcome: Outcome, long = false): string {
  if (outcome.kind === 'wrong') return outcome.message;
  if (outcome.kind === 'refused') return `${outcome.code}${long ? ` (${outcome.message})` : ''}`;
  return `${outcome.size} bytes, ${outcome.diskSize} of data, blocks ${outcome.blocks}`;
}

export interface CopyTo {
  /** A folder that is empty before and after. */
  readonly folder: string;
  readonly options?: CopyOptions;
  /** Make the sha256 of all bytes too. */
  readonly whole?: boolean;
}

/** Copies `input` to a new file; a refusal must leave nothing behind. */
export async function copyToFile(
  input: Input,
  { folder, options, whole }: CopyTo,
): Promise<Outcome> {
  const tempDir = mkdtempSync(join(folder, 'out-'));
  const path = join(tempDir, 'disk.raw');
  let outcome: Outcome;
  try {
    const report = await sparsecopy(input, path, { tempDir, ...options });
    const digest = await digestOfFile(path, whole);
    unlinkSync(path);
    outcome = { kind: 'ok', diskSize: report.diskSize, ...digest };
    if (report.virtualSize !== digest.size) {
      outcome = wrong(`reports ${report.virtualSize} bytes, wrote ${digest.size}`);
    }
  } catch (error) {
    outcome = outcomeOf(error);
  }
  const left = readdirSync(tempDir);
  if (left.length > 0) outcome = wrong(`left ${left.join(', ')} behind, ${tell(outcome, true)}`);
  rmSync(tempDir, { recursive: true });
  return outcome;
}

/** Copies `input` to a stream that only hashes. */
export async function copyToStream(
  input: Input,
  { folder, options, whole }: CopyTo,
): Promise<Outcome> {
  const sink = digestSink(whole);
  try {
    const report = await sparsecopy(input, sink, { tempDir: folder, ...options });
    if (sink.digest === undefined) return wrong('the stream was not ended');
    return { kind: 'ok', diskSize: report.diskSize, ...sink.digest };
  } catch (error) {
    return outcomeOf(error);
  }
}

function wrong(message: string): Outcome {
  return { kind: 'wrong', message };
}

/** `bytes` as a Readable in pieces of `size` bytes. */
export function pipeOf(bytes: Uint8Array, size: number | (() => number)): Readable {
  function* pieces(): Generator<Uint8Array> {
    for (let at = 0; at < bytes.length;) {
      const end = at + (typeof size === 'number' ? size : size());
      yield bytes.subarray(at, end);
      at = end;
    }
  }
  return Readable.from(pieces(), { objectMode: false, highWaterMark: 1 });
}

/** The sizes of pieces in which oslo feeds its inspector (security.md, section 5). */
export const PIECES = [17, 512, 65_536, 1_048_576] as const;

/** What a stream reads of a file at a time. */
const PIPE = 65_536;

/** So much of the start of a file, and so much of its end, comes in the smallest pieces: headers, tables and trailers. */
const START = 65_536;
const END = 16_384;
/** Sizes of the pieces in between, at least. */
const BETWEEN = 4096;

/** `bytes` in pieces of `size` bytes; where that would be very many, the middle comes in larger ones. */
function inPiecesOf(bytes: Uint8Array, size: number): Readable {
  let at = 0;
  return pipeOf(bytes, () => {
    const isBetween = at >= START && at < bytes.length - END;
    const length = isBetween ? Math.max(size, BETWEEN) : size;
    at += length;
    return length;
  });
}

/** What to do differently where the input passes once. */
export interface Piped {
  readonly options?: CopyOptions;
  /** Sizes of pieces to try besides a pipe of the usual 64 KiB. */
  readonly pieces: readonly number[];
}

/**
 * Copies the file `path` seeking, from a pipe to a file, and from a pipe in pieces to files and streams in turn.
 * The first outcome is the seeking one.
 */
export async function everyWay(
  path: string,
  to: CopyTo,
  piped: Piped,
): Promise<Map<string, Outcome>> {
  const outcomes = new Map<string, Outcome>();
  outcomes.set('seeking', await copyToFile(path, to));
  const once: CopyTo = {
    folder: to.folder,
    ...((piped.options ?? to.options) && { options: piped.options ?? to.options ?? {} }),
  };
  outcomes.set('piped', await copyToFile(createReadStream(path), once));
  if (piped.pieces.length === 0) return outcomes;
  const bytes = readFileSync(path);
  // A small file comes from a pipe in one piece already.
  const sizes = piped.pieces.filter((size) => size < bytes.length || bytes.length > PIPE);
  for (const [index, size] of sizes.entries()) {
    const copy = index % 2 === 0 ? copyToStream : copyToFile;
    outcomes.set(`in pieces of ${size}`, await copy(inPiecesOf(bytes, size), once));
  }
  return outcomes;
}

/** The ways whose outcome is not that of the first, in words. */
export function disagreements(outcomes: ReadonlyMap<string, Outcome>): string[] {
  const [first] = outcomes.entries();
  if (first === undefined) return [];
  const [name, wanted] = first;
  return [...outcomes]
    .filter(([, outcome]) => tell(outcome) !== tell(wanted))
    .map(([way, outcome]) => `${way}: ${tell(outcome, true)}, but ${name}: ${tell(wanted, true)}`);
}

/**
 * `outcomes` as far as all of them must agree: refusals have one code, since which it is may depend on what is noticed first,
 * and the one that only an input that passes once has is left out: bytes that are both a table and data, or data twice, are
 * gone when they are needed again.
 */
export function comparable(outcomes: ReadonlyMap<string, Outcome>): Map<string, Outcome> {
  const alike = new Map<string, Outcome>();
  for (const [way, outcome] of outcomes) {
    if (outcome.kind !== 'refused') alike.set(way, outcome);
    else if (!(outcome.code === 'UNSUPPORTED' && /where something else is/.test(outcome.message))) {
      const message = `${outcome.code}: ${outcome.message}`;
      alike.set(way, { kind: 'refused', code: 'refused', message });
    }
  }
  return alike;
}
