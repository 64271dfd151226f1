/**
 * Opens mutants in every way and judges what comes of each: bytes, or a SparsecopyError, and nothing else. It runs as a
 * process of its own, so that one that never returns, or takes all memory, is the mutant's fault and not the test's.
 *
 * `node --import tsx test/fuzz-child.ts FOLDER FIRST STEP END [NAME]`: the cases FIRST, FIRST + STEP ... before END, of
 * the bases in FOLDER (or only of NAME, and then FIRST is the seed).
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { check, info, map, type CopyOptions, type Input } from '../src/index.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { digestOfFile } from './digest.ts';
import { readBases, type OpenableBase } from './fuzz-bases.ts';
import { makeRandom, mutate, type Mutant, type Random } from './mutations.ts';
import {
  copyToFile,
  copyToStream,
  disagreements,
  outcomeOf,
  comparable,
  pipeOf,
  tell,
  type Outcome,
} from './ways.ts';

/** What the child tells its parent. */
export type Message =
  | { readonly kind: 'begin'; readonly id: string; readonly number: number }
  | { readonly kind: 'end'; readonly verdict: Verdict };

export interface Verdict {
  readonly id: string;
  readonly format: string;
  readonly steps: readonly string[];
  /** What is wrong, in words; empty if nothing is. */
  readonly failures: readonly string[];
  /** The code of the refusal by the default policy; absent where it was read. */
  readonly refused: string | undefined;
  /** A native tool gave a second opinion. */
  readonly compared: boolean;
  readonly milliseconds: number;
}

/** Larger disks than this are refused: each is written as a flat stream. */
const VIRTUAL_SIZE = 2 ** 28;
/** A mutant comes in about so many pieces at most. */
const PIECES = 1024;
/** How much more memory than an idle process a case may take. */
const MEMORY = 256 * 2 ** 20;
/** One of so many mutants that are read is shown to a native tool. */
const COMPARED = 20;

const [folder = '', first = '0', step = '1', end = '0', only] = process.argv.slice(2);
const scratch = mkdtempSync(join(folder, 'scratch-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

let failures: string[] = [];
process.on('unhandledRejection', (reason) => {
  failures.push(`unhandled rejection: ${(reason as Error).stack ?? String(reason)}`);
});
process.on('uncaughtException', (error) => {
  failures.push(`uncaught exception: ${error.stack ?? error.message}`);
});
process.on('warning', (warning) => {
  if (warning.name === 'MaxListenersExceededWarning') failures.push(warning.message);
});

const send = (message: Message): void => {
  process.send?.(message);
};

/** Count of open files of ours: inputs, outputs, temporary ones. The loader of modules has its own. */
function descriptors(): number {
  return readdirSync('/proc/self/fd').filter((descriptor) => {
    try {
      const target = readlinkSync(join('/proc/self/fd', descriptor));
      return target.startsWith(folder);
    } catch {
      return false; // closed by now
    }
  }).length;
}

/** What came of something that is not a copy: a SparsecopyError is fine. */
async function expectSound(what: string, done: Promise<unknown>): Promise<Outcome | undefined> {
  try {
    await done;
    return undefined;
  } catch (error) {
    const outcome = outcomeOf(error);
    if (outcome.kind === 'wrong') failures.push(`${what}: ${outcome.message}`);
    return outcome;
  }
}

/** Size of the disk that `map` tells of, and how much of it is data. */
async function mapped(input: Input, options: CopyOptions): Promise<{ size: number; data: number }> {
  let size = 0;
  let data = 0;
  for await (const extent of map(input, options)) {
    if (extent.offset !== size || extent.length <= 0) {
      failures.push(`map: extent of ${extent.length} at ${extent.offset} follows ${size}`);
    }
    size += extent.length;
    if (extent.kind === 'data') data += extent.length;
  }
  return { size, data };
}

interface Looking {
  readonly seekable: () => Input;
  readonly pipe: () => Input;
  readonly options: CopyOptions;
  readonly untrusted: CopyOptions;
}

/** Looks at what came out as `outcome` when it was copied, in a few of the other ways to look at it. */
async function look(
  outcome: Outcome,
  { seekable, pipe, options, untrusted }: Looking,
  random: Random,
): Promise<void> {
  const isRead = outcome.kind === 'ok';
  if (random.once(2)) {
    const refusal = await expectSound('info', info(seekable(), options));
    // info is of the disk as it is now
    if (isRead && refusal !== undefined && options.snapshot === undefined) {
      failures.push(`info: ${tell(refusal, true)}, but copied`);
    }
  }
  if (random.once(3)) {
    let extents = { size: -1, data: -1 };
    const keep = mapped(seekable(), options).then((found) => (extents = found));
    const refusal = await expectSound('map', keep);
    if (isRead && refusal !== undefined) failures.push(`map: ${tell(refusal, true)}, but copied`);
    if (
      isRead &&
      refusal === undefined &&
      (extents.size !== outcome.size || extents.data < outcome.diskSize)
    ) {
      failures.push(`map: ${JSON.stringify(extents)}, but ${tell(outcome)}`);
    }
  }
  if (random.once(2)) await expectSound('check', check(seekable(), options));
  if (random.once(4)) await expectSound('info, piped', info(pipe(), options));
  if (random.once(4)) await expectSound('info, untrusted', info(seekable(), untrusted));
  if (random.once(4)) await expectSound('map, piped', mapped(pipe(), options));
  if (random.once(4)) await expectSound('check, untrusted, piped', check(pipe(), untrusted));
}

/** nb_snapshots is not 0. */
function hasSnapshots({ kind, bytes }: OpenableBase): boolean {
  return kind === 'qcow2' && bytes.readUInt32BE(60) > 0;
}

async function judge(base: OpenableBase, { bytes }: Mutant, seed: number): Promise<Outcome> {
  const random = makeRandom(seed ^ 0x5eed);
  const { passphrase, backing, reference } = base.opening;
  const path = join(scratch, `mutant.${base.kind}`);
  const options: CopyOptions = {
    limits: { virtualSize: VIRTUAL_SIZE },
    tempDir: scratch,
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(backing === undefined ? {} : { backing: join(folder, backing) }),
    ...(reference === undefined ? {} : { resolveReference: () => join(folder, reference) }),
    ...(base.kind === 'qcow2' && random.once(2) ? { format: 'qcow2' } : {}),
    ...(hasSnapshots(base) && random.once(2) ? { snapshot: '1' } : {}),
    ...(random.once(4) ? { allowCorrupt: true } : {}),
  };
  const untrusted: CopyOptions = {
    ...options,
    policy: 'untrusted',
    ...(base.kind === 'qcow2' ? {} : { format: 'raw' }),
  };
  const copies = mkdtempSync(join(scratch, 'copies-'));
  const to = { folder: copies, options };
  const copy = random.once(2) ? copyToFile : copyToStream;
  const otherCopy = random.once(2) ? copyToFile : copyToStream;
  const seekable = (): Input => {
    if (random.once(2)) return bufferSource(bytes, 'mutant');
    writeFileSync(path, bytes);
    return path;
  };
  const size = Math.max(random.pick([17, 512, 4096, 65_536, 2 ** 20]), bytes.length / PIECES);
  const sizes = (): number => (isEven ? Math.ceil(size) : 1 + random.below(2 * size));
  const isEven = random.once(2);
  const pipe = (): Input => pipeOf(bytes, sizes);

  const outcomes = new Map<string, Outcome>();
  outcomes.set('seeking', await copy(seekable(), to));
  outcomes.set('piped', await otherCopy(pipe(), to));
  if (random.once(4)) {
    const packed = pipeOf(gzipSync(bytes, { level: 1 }), sizes);
    outcomes.set('in gzip', await copy(packed, to));
  }
  const outcome = outcomes.get('seeking') as Outcome;
  const strict = new Map<string, Outcome>();
  if (random.once(2)) {
    strict.set('untrusted', await otherCopy(seekable(), { folder: copies, options: untrusted }));
    strict.set('untrusted, piped', await copy(pipe(), { folder: copies, options: untrusted }));
  }
  rmSync(copies, { recursive: true });

  for (const [way, { kind, ...rest }] of [...outcomes, ...strict]) {
    if (kind === 'wrong') failures.push(`${way}: ${JSON.stringify(rest)}`);
  }
  failures.push(...disagreements(comparable(outcomes)));
  failures.push(...disagreements(comparable(strict)));
  const trusted = strict.get('untrusted');
  if (trusted?.kind === 'ok' && tell(trusted) !== tell(outcome)) {
    failures.push(`untrusted: ${tell(trusted)}, but by default: ${tell(outcome, true)}`);
  }

  await look(outcome, { seekable, pipe, options, untrusted }, random);
  return outcome;
}

const natively: Readonly<Record<string, string>> = {
  qcow2: 'exec qemu-img convert -f qcow2 -O raw "$1" "$2"',
  gzip: 'exec gzip -dc < "$1" > "$2"',
  xz: 'exec xz -dc --format=xz < "$1" > "$2"',
  lz4: 'exec lz4 -dcq < "$1" > "$2"',
  zstd: 'exec zstd -dcq < "$1" > "$2"',
};

/** What a native tool makes of the same bytes, where it accepts them too: a few tools run away, so time and memory are short. */
async function compare(base: OpenableBase, bytes: Buffer, outcome: Outcome): Promise<boolean> {
  const script = natively[base.kind];
  if (outcome.kind !== 'ok' || script === undefined) return false;
  // These are opened with options that the tools would have to be told, too.
  if (Object.keys(base.opening).length > 0 || hasSnapshots(base)) return false;
  // A mutant without the magic is raw, and the tool was told otherwise.
  if (base.kind === 'qcow2' && bytes.toString('latin1', 0, 4) !== 'QFI\xfb') return false;
  const input = join(scratch, `native.${base.kind}`);
  const output = join(scratch, 'native.raw');
  writeFileSync(input, bytes);
  rmSync(output, { force: true });
  const limited = `ulimit -v 2000000; ulimit -f 1000000; ${script}`;
  const result = spawnSync('timeout', [
    '-s',
    'KILL',
    '5',
    'bash',
    '-c',
    limited,
    'bash',
    input,
    output,
  ]);
  if (result.status !== 0) return false;
  const theirs = await digestOfFile(output);
  rmSync(output);
  // qemu-img leaves out what follows the last whole sector of a disk.
  const isShorter = base.kind === 'qcow2' && outcome.size % 512 !== 0;
  if (
    isShorter ? theirs.size !== outcome.size - (outcome.size % 512) : theirs.size !== outcome.size
  ) {
    failures.push(`${theirs.size} bytes by the native tool, ${outcome.size} by us`);
  } else if (!isShorter && theirs.blocks !== outcome.blocks) {
    failures.push(`blocks ${theirs.blocks} by the native tool, ${outcome.blocks} by us`);
  }
  return true;
}

const bases = readBases(folder).filter(({ name }) => only === undefined || name === only);
const idle = process.memoryUsage.rss();
let read = 0;
for (let number = Number(first); number < Number(end); number += Number(step)) {
  const base = bases[number % bases.length] as OpenableBase;
  const id = `${base.name}:${number}`;
  send({ kind: 'begin', id, number });
  const started = performance.now();
  failures = [];
  const open = descriptors();
  const mutant = mutate(base, number, bases);
  const outcome = await judge(base, mutant, number);
  let compared = false;
  if (outcome.kind === 'ok' && (only !== undefined || read++ % COMPARED === 0)) {
    compared = await compare(base, mutant.bytes, outcome);
  }
  // What is closed or rejected late is noticed in the next turns of the event loop.
  for (let turn = 0; turn < 100 && (turn < 2 || descriptors() > open); turn++) {
    await new Promise((resolve) => setTimeout(resolve, turn < 2 ? 0 : 5));
  }
  if (descriptors() > open) failures.push(`${descriptors() - open} descriptors are left open`);
  const taken = process.resourceUsage().maxRSS * 1024 - idle;
  if (taken > MEMORY) failures.push(`takes ${Math.round(taken / 2 ** 20)} MiB`);
  send({
    kind: 'end',
    verdict: {
      id,
      format: base.kind,
      steps: mutant.steps,
      failures,
      refused: outcome.kind === 'refused' ? outcome.code : undefined,
      compared,
      milliseconds: performance.now() - started,
    },
  });
  // The most that was ever taken would be held against the next ones too.
  if (taken > MEMORY) break;
}
if (process.connected) process.disconnect();
