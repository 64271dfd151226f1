import { fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CopyOptions } from '../src/index.ts';
import { hasCorpus, unpack } from './corpora.ts';
import type { Message, Verdict } from './fuzz-child.ts';
import { makeBases, readBases, type OpenableBase } from './fuzz-bases.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { cuts, makeBase, mutate, VECTOR, writeField, type Field } from './mutations.ts';
import { fixture } from './qcow2-helpers.ts';
import { describeWith } from './tools.ts';
import {
  comparable,
  copyToStream,
  disagreements,
  fastTempDir,
  pipeOf,
  tell,
  type Outcome,
} from './ways.ts';

/** So many mutants: half a minute's worth. */
const DEFAULT_CASES = 700;
/** More with `npm run fuzz`, which sets the environment variable. */
const CASES = Number(process.env['SPARSECOPY_FUZZ_CASES'] ?? DEFAULT_CASES);
/** Which seeds: another start gives other mutants. */
const START = Number(process.env['SPARSECOPY_FUZZ_START'] ?? 0);
/** `NAME:SEED`, as a failure has it: only this mutant. */
const ONLY = process.env['SPARSECOPY_FUZZ_CASE'];
/** Folder in which mutants that fail are kept, as candidates for `fixtures/bad`. */
const SAVE = process.env['SPARSECOPY_FUZZ_SAVE'];

/** A case that says nothing for so long never ends; most take a hundredth of a second. In milliseconds. */
const WATCHDOG = 20_000;
/** A child may take so long to load the sources. In milliseconds. */
const START_TIME = 60_000;
/** Children under way at once. */
const CHILDREN = 2;
/** So many failures are enough to go on with. */
const ENOUGH = 20;

const folder = mkdtempSync(join(fastTempDir(), 'sparsecopy-bases-'));
const root = join(import.meta.dirname, '..');
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Size of the largest disk that is read here: each is written as a flat stream. */
const limits = { virtualSize: 2 ** 26 };

/** `bytes` read seeking and from a pipe, by both policies. @throws what must not be. */
async function readEveryWay(bytes: Buffer, piece = 4096): Promise<Outcome> {
  const found = new Map<string, Outcome>();
  for (const policy of ['default', 'untrusted'] as const) {
    const to = { folder, options: { policy, limits, format: 'qcow2' } } as const;
    const outcomes = new Map([
      [policy, await copyToStream(bufferSource(bytes, 'mutant'), to)],
      [`${policy}, piped`, await copyToStream(pipeOf(bytes, piece), to)],
    ]);
    for (const [way, outcome] of outcomes) {
      if (outcome.kind === 'wrong') throw new Error(`${way}: ${outcome.message}`);
    }
    const [difference] = disagreements(comparable(outcomes));
    if (difference !== undefined) throw new Error(difference);
    found.set(policy, outcomes.get(policy) as Outcome);
  }
  const trusted = found.get('untrusted') as Outcome;
  const outcome = found.get('default') as Outcome;
  if (trusted.kind === 'ok' && tell(trusted) !== tell(outcome)) {
    throw new Error(`untrusted: ${tell(trusted)}, but by default: ${tell(outcome, true)}`);
  }
  return outcome;
}

/** In milliseconds; the machine may be busy. */
const TIME = 120_000 + CASES * 200;

describe('qcow2 whose fields have any value', { timeout: TIME }, () => {
  const runs = { numRuns: Math.max(100, CASES / 10), seed: START + 1, endOnFailure: true };
  const header = makeBase('plain', 'qcow2', fixture('good', 'plain')).fields.filter(
    ({ at, width }) => at > 0 && at + width <= 105,
  );

  test('any bytes behind the magic', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(2, 3, 3, 3, 4),
        fc.uint8Array({ maxLength: 2048 }),
        async (version, rest) => {
          const magic = Buffer.from([...Buffer.from('QFI\xfb', 'latin1'), 0, 0, 0, version]);
          await readEveryWay(Buffer.concat([magic, rest]));
        },
      ),
      runs,
    );
  });

  test('any header fields of these values', async () => {
    const change = fc.tuple(fc.constantFrom(...header), fc.constantFrom(...VECTOR));
    const changes = fc.array(change, { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('plain', 'deflate', 'mixed', 'snapshot', 'zstd', 'plain-v2'),
        changes,
        async (name, fields) => {
          const bytes = Buffer.from(fixture('good', name));
          for (const [field, value] of fields) writeField(bytes, field, value);
          await readEveryWay(bytes);
        },
      ),
      runs,
    );
  });

  /** An entry as it might be: flags, reserved bits, an offset that is in the file or not, aligned or not. */
  const entry = fc
    .record({
      flags: fc.constantFrom(
        0n,
        1n,
        2n,
        1n << 9n,
        1n << 56n,
        1n << 61n,
        1n << 62n,
        1n << 63n,
        3n << 62n,
      ),
      cluster: fc.oneof(fc.bigInt(0n, 64n), fc.constantFrom(...VECTOR)),
      rest: fc.constantFrom(0n, 0n, 0n, 0n, 1n, 256n),
    })
    .map(({ flags, cluster, rest }) => BigInt.asUintN(64, flags | (cluster << 9n) | rest));

  test('any entries of tables', async () => {
    let read = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('plain', 'deflate', 'zstd', 'mixed', 'preallocated', 'reversed'),
        fc.array(fc.tuple(fc.nat(63), entry), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 5000 }),
        async (name, changes, piece) => {
          const { bytes, fields } = makeBase(name, 'qcow2', Buffer.from(fixture('good', name)));
          const entries = fields.filter(({ at, width }) => width === 8 && at >= 512);
          for (const [index, value] of changes) {
            writeField(bytes, entries[index % entries.length] as Field, value);
          }
          const outcome = await readEveryWay(bytes, piece);
          if (outcome.kind === 'ok') read++;
        },
      ),
      runs,
    );
    expect(read).toBeGreaterThan(0);
  });
});

/** That of xz, in bytes. */
const LONGEST_MAGIC = 6;

/** Asserts that `base`, cut anywhere, is refused, or gives the disk of the whole. */
async function expectRefusedWhenCut(base: OpenableBase): Promise<void> {
  const { passphrase, backing, reference } = base.opening;
  const options: CopyOptions = {
    limits,
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(backing === undefined ? {} : { backing: join(folder, backing) }),
    ...(reference === undefined ? {} : { resolveReference: () => join(folder, reference) }),
    format: base.kind === 'qcow2' ? 'qcow2' : 'raw',
  };
  const to = { folder, options };
  const whole = await copyToStream(bufferSource(base.bytes, base.name), to);
  expect(whole, base.name).toMatchObject({ kind: 'ok' });
  let refused = 0;
  // Less than a codec's magic is no stream at all, but a raw disk.
  const step = base.bytes.length < 2 ** 16 || CASES > DEFAULT_CASES ? 512 : 4096;
  const ends = cuts(base, step).filter((end) => base.kind === 'qcow2' || end >= LONGEST_MAGIC);
  for (const [index, end] of ends.entries()) {
    const cut = base.bytes.subarray(0, end);
    // both ways at the same place are compared by the mutants
    const input = index % 2 === 0 ? bufferSource(cut, base.name) : pipeOf(cut, 4096);
    const outcome = await copyToStream(input, to);
    if (outcome.kind === 'refused') refused++;
    else expect(tell(outcome), `${base.name} cut at ${end}`).toBe(tell(whole));
  }
  expect(refused, base.name).toBeGreaterThan(4);
}

/** The cases from `first` on in steps of `step`, in one child after the other. */
async function runChildren(
  first: number,
  step: number,
  end: number,
  only?: string,
): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  for (let next = first; next < end;) {
    const args = [folder, `${next}`, `${step}`, `${end}`, ...(only === undefined ? [] : [only])];
    const child = fork(join(root, 'test', 'fuzz-child.ts'), args, {
      cwd: root,
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    });
    const seen = { begun: 'its start', ended: false, complaints: '', killed: false };
    let dog: NodeJS.Timeout | undefined;
    const watch = (time: number): void => {
      clearTimeout(dog);
      dog = setTimeout(() => {
        seen.killed = true;
        child.kill('SIGKILL');
      }, time);
    };
    watch(START_TIME);
    child.stderr?.on(
      'data',
      (text: Buffer) => (seen.complaints = (seen.complaints + text.toString()).slice(-4000)),
    );
    child.on('message', (message: Message) => {
      watch(WATCHDOG);
      if (message.kind === 'begin') {
        seen.begun = message.id;
        next = message.number + step;
      } else verdicts.push(message.verdict);
      seen.ended = message.kind === 'end';
    });
    const status = await new Promise<string>((resolve) => {
      child.on('close', (code, signal) => resolve(signal ?? `exit ${code ?? -1}`));
    });
    clearTimeout(dog);
    if (status === 'exit 0' && seen.ended) {
      if (verdicts.at(-1)?.failures.length === 0) break;
    } else {
      const what = seen.killed
        ? `hangs for ${WATCHDOG / 1000} s`
        : `ends the process: ${status} ${seen.complaints}`;
      verdicts.push({
        ...{ id: seen.begun, format: '', steps: [], failures: [what] },
        ...{ refused: undefined, compared: false, milliseconds: WATCHDOG },
      });
      if (seen.begun === 'its start') break;
    }
    if (verdicts.filter(({ failures }) => failures.length > 0).length > ENOUGH) break;
  }
  return verdicts;
}

/** What failed, one line each, with what it takes to see it again. */
function report(verdicts: readonly Verdict[], bases: readonly OpenableBase[]): string[] {
  return verdicts
    .filter(({ failures }) => failures.length > 0)
    .map(({ id, failures }) => {
      const at = id.lastIndexOf(':');
      const base = bases.find(({ name }) => name === id.slice(0, at));
      const mutant = base && mutate(base, Number(id.slice(at + 1)), bases);
      if (SAVE !== undefined && base !== undefined && mutant !== undefined) {
        mkdirSync(SAVE, { recursive: true });
        writeFileSync(join(SAVE, `${id.slice(at + 1)}-${base.name}`), mutant.bytes);
      }
      return `SPARSECOPY_FUZZ_CASE=${id} (${mutant?.steps.join('; ') ?? ''}): ${failures.join('; ')}`;
    });
}

describeWith(['qemu-img', 'qemu-io', 'gzip', 'xz', 'lz4', 'zstd'], 'mutants', () => {
  let bases: OpenableBase[] = [];
  beforeAll(() => {
    if (hasCorpus('hostile.tar.xz')) {
      using hostile = unpack('hostile.tar.xz');
      makeBases(folder, join(root, 'fixtures', 'good'), hostile.folder);
    } else makeBases(folder, join(root, 'fixtures', 'good'), undefined);
    bases = readBases(folder);
  });

  test('whatever is cut is refused, or did not need the rest', async () => {
    for (const base of bases) if (!base.isJoined) await expectRefusedWhenCut(base);
  });

  test(
    `${CASES} of them: bytes or a refusal, the same in every way`,
    async () => {
      if (ONLY !== undefined) {
        const at = ONLY.lastIndexOf(':');
        const seed = Number(ONLY.slice(at + 1));
        const verdicts = await runChildren(seed, 1, seed + 1, ONLY.slice(0, at));
        expect(verdicts).toHaveLength(1);
        expect(report(verdicts, bases)).toEqual([]);
        return;
      }
      const first = START;
      const all = await Promise.all(
        Array.from({ length: CHILDREN }, (_, index) =>
          runChildren(first + index, CHILDREN, first + CASES),
        ),
      );
      const verdicts = all.flat();
      expect(report(verdicts, bases)).toEqual([]);
      expect(verdicts).toHaveLength(CASES);
      if (CASES < DEFAULT_CASES) return;
      // It would be easy to agree if nothing were ever read, or nothing ever refused.
      for (const kind of ['qcow2', 'gzip', 'xz', 'lz4', 'zstd']) {
        const ofKind = verdicts.filter(({ format }) => format === kind);
        const refused = ofKind.filter((verdict) => verdict.refused !== undefined).length;
        expect(refused, `${kind} refused`).toBeGreaterThan(ofKind.length / 10);
        expect(ofKind.length - refused, `${kind} read`).toBeGreaterThan(0);
      }
      expect(verdicts.filter(({ compared }) => compared).length).toBeGreaterThan(CASES / 500);
    },
    TIME,
  );
});
