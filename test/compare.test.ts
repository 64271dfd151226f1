/** Comparing two inputs: the verdict and the place of `qemu-img compare`, whatever holds the disks. */

import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  createReadStream,
  mkdtempSync,
  openSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isZero } from '../src/bytes.ts';
import { compare, compareFailureOf, type CompareOptions, type Comparison } from '../src/compare.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { fileExtents } from '../src/source/holes.ts';
import type { Input } from '../src/source/input.ts';
import type { Extent, Source } from '../src/types.ts';
import { inPieces, noise, rejection, tempDir, watchedSource } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const MiB = 2 ** 20;
const SECTOR = 512;

/** Data, zeros and data again, none of it aligned to more than a sector; 2.5 MiB and three sectors. */
const base = Buffer.concat([
  noise(700 * 1024 + SECTOR, 1),
  Buffer.alloc(900 * 1024),
  noise(960 * 1024 + 2 * SECTOR, 2),
]);

/** `base`, changed by XOR at each of `places`. */
function changed(...places: number[]): Buffer {
  const bytes = Buffer.from(base);
  for (const at of places) bytes[at] = (bytes[at] ?? 0) ^ 0x55;
  return bytes;
}

function longer(...tail: Uint8Array[]): Buffer {
  return Buffer.concat([base, ...tail]);
}

/** What the second image holds, and where it differs from `base`. */
const contents: Record<string, { bytes: Buffer; offset: number | undefined }> = {
  'the same': { bytes: base, offset: undefined },
  'another first byte': { bytes: changed(0), offset: 0 },
  'another last byte': { bytes: changed(base.length - 1), offset: base.length - 1 },
  'two other bytes amid data': { bytes: changed(123_457, 300_000), offset: 123_457 },
  'a byte amid zeros': { bytes: changed(MiB + 7), offset: MiB + 7 },
  'a zero tail': { bytes: longer(Buffer.alloc(MiB)), offset: undefined },
  'a tail that starts with data': {
    bytes: longer(noise(SECTOR), Buffer.alloc(MiB)),
    offset: base.length,
  },
  'a tail that ends with data': {
    bytes: longer(Buffer.alloc(MiB - 1), noise(1)),
    offset: base.length + MiB - 1,
  },
  'a difference, and a tail of data': {
    bytes: Buffer.concat([changed(5), noise(SECTOR)]),
    offset: 5,
  },
};

/** Ways to keep a disk; each makes a file out of the dense raw one. */
const forms: Record<string, (raw: string, path: string) => unknown> = {
  dense: copyFileSync,
  sparse: (raw, path) => run('cp', ['--sparse=always', raw, path]),
  qcow2: (raw, path) => convert(raw, path),
  'dense qcow2': (raw, path) => convert(raw, path, '-S', '0'),
  'compressed qcow2': (raw, path) => convert(raw, path, '-c', '-o', 'cluster_size=4k'),
};

function convert(raw: string, path: string, ...more: string[]): Buffer {
  return run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...more, raw, path]);
}

/** Makes a file in each form of `disk` in `folder`, and gives the name of each. */
function makeForms(disk: Buffer, folder: string, prefix: string): (form: string) => string {
  const raw = join(folder, `${prefix}.raw`);
  const at = (form: string): string => join(folder, `${prefix}-${form.replaceAll(' ', '-')}`);
  writeFileSync(raw, disk);
  for (const [form, make] of Object.entries(forms)) make(raw, at(form));
  return at;
}

/** What qemu-img says; the offset where it gives one. */
function qemu(a: string, b: string, ...options: string[]): { status: number; offset?: number } {
  const format = (path: string): string => (path.endsWith('qcow2') ? 'qcow2' : 'raw');
  const { status, stdout } = spawnSync(
    'qemu-img',
    ['compare', ...options, '-f', format(a), '-F', format(b), a, b],
    { encoding: 'utf8' },
  );
  const offset = /offset (\d+)/i.exec(stdout)?.[1];
  return { status: status ?? -1, ...(offset === undefined ? {} : { offset: Number(offset) }) };
}

function verdict({ identical, difference }: Comparison): { status: number; offset?: number } {
  if (difference === undefined) return { status: identical ? 0 : -1 };
  return { status: 1, offset: difference.offset - (difference.offset % SECTOR) };
}

/** Where qemu-img sees data, zero or not, as `data` of its map. */
function dataOf(path: string): string {
  const format = path.endsWith('qcow2') ? 'qcow2' : 'raw';
  const map = JSON.parse(
    run('qemu-img', ['map', '--output=json', '-f', format, path]).toString(),
  ) as { start: number; length: number; data: boolean }[];
  const joined: { start: number; end: number }[] = [];
  for (const { start, length, data } of map) {
    if (!data) continue;
    const last = joined.at(-1);
    if (last?.end === start) last.end += length;
    else joined.push({ start, end: start + length });
  }
  return JSON.stringify(joined);
}

describeWith(['qemu-img'], 'as qemu-img compare', () => {
  const formNames = Object.keys(forms);
  let folder = '';
  let atA = (form: string): string => form;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'sparsecopy-test-'));
    atA = makeForms(base, folder, 'a');
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const rows = Object.entries(contents).map(([name, content], row) => ({ name, row, ...content }));

  test.each(rows)('$name, in all forms', async ({ row, bytes, offset }) => {
    const atB = makeForms(bytes, tempDir(), 'b');
    for (const [index, formA] of formNames.entries()) {
      // Every pair of forms has its turn with some of the contents.
      for (const shift of [row, row + 2]) {
        const formB = formNames[(index + shift) % formNames.length] ?? '';
        const what = `${formA} against ${formB}`;
        const found = await compare(atA(formA), atB(formB));
        expect(found.difference, what).toEqual(
          offset === undefined ? undefined : { kind: 'content', offset },
        );
        const sizes = [found.a.virtualSize, found.b.virtualSize];
        expect(sizes, what).toEqual([base.length, bytes.length]);
        expect(verdict(found), what).toEqual(qemu(atA(formA), atB(formB)));
      }
    }
    // What is first and what is second makes no difference.
    const turned = await compare(atB('dense'), atA('qcow2'));
    expect(turned.difference?.offset).toBe(offset);
  });

  test('strict: the same sizes, and data in the same places', async () => {
    const folder = tempDir();
    const paths: string[] = [];
    const raw = join(folder, 'raw');
    const add = (name: string, make: (path: string) => void): void => {
      paths.push(join(folder, name));
      make(join(folder, name));
    };
    writeFileSync(raw, Buffer.concat([base, Buffer.alloc(MiB - (base.length % MiB))]));
    for (const [form, make] of Object.entries(forms)) {
      add(`one-${form.replaceAll(' ', '-')}`, (path) => void make(raw, path));
    }
    const size = '3M';
    const create = (path: string, ...more: string[]): unknown =>
      run('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, path, size]);
    add('empty.qcow2', (path) => void create(path));
    add('preallocated.qcow2', (path) => void create(path, '-o', 'preallocation=full'));
    add('zero-clusters.qcow2', (path) => {
      create(path);
      run('qemu-io', ['-f', 'qcow2', '-c', `write -z 0 ${size}`, path]);
    });
    add('zeros.raw', (path) => writeFileSync(path, Buffer.alloc(3 * MiB)));
    const hasHoles = await knowsHoles(join(folder, 'one-sparse'));
    const readable = paths.filter((path) => hasHoles || !path.endsWith('one-sparse'));
    const data = new Map(readable.map((path) => [path, dataOf(path)]));
    let different = 0;
    for (const [at, a] of readable.entries()) {
      for (const b of readable.slice(at)) {
        const what = `${a} against ${b}`;
        const found = await compare(a, b, { strict: true });
        const isSame = a.includes('one-') === b.includes('one-');
        expect(found.identical, what).toBe(isSame && data.get(a) === data.get(b));
        // qemu-img also tells holes, unallocated and zero clusters from each other.
        const { status } = qemu(a, b, '-s');
        if (!found.identical) {
          different++;
          expect(status, what).toBe(1);
        }
        if (status === 0) expect(found.identical, what).toBe(true);
      }
    }
    expect(different).toBeGreaterThan(10);
  });

  test('images from pipes, strict or not, as the same images seeking', async () => {
    const atB = makeForms(contents['a byte amid zeros']?.bytes ?? base, tempDir(), 'b');
    for (const form of ['qcow2', 'dense qcow2', 'compressed qcow2']) {
      for (const strict of [false, true]) {
        for (const b of [atA('qcow2'), atA('dense'), atB('qcow2'), atB(form)]) {
          const what = `${form} against ${b}${strict ? ', strict' : ''}`;
          const seeking = await compare(atA(form), b, { strict });
          const piped = await compare(createReadStream(atA(form)), b, { strict });
          const turned = await compare(b, createReadStream(atA(form)), { strict });
          expect(piped.difference, what).toEqual(seeking.difference);
          expect(turned.difference, what).toEqual(seeking.difference);
        }
      }
    }
  });

  test('strict: sizes', async () => {
    const folder = tempDir();
    const [a, b] = [join(folder, 'a.raw'), join(folder, 'b.raw')];
    writeFileSync(a, base);
    writeFileSync(b, base);
    truncateSync(b, 4 * MiB);
    expect(qemu(a, b, '-s').status).toBe(1);
    expect(await compare(a, b, { strict: true })).toMatchObject({
      identical: false,
      difference: { kind: 'size', offset: base.length },
      a: { virtualSize: base.length },
      b: { virtualSize: 4 * MiB },
    });
    // A stream's size shows at its end only.
    const stream = compare(createReadStream(b), a, { strict: true });
    expect(await stream).toMatchObject({ difference: { kind: 'size', offset: base.length } });
  });
});

/** Whether holes can be found here (fs-ext, and a file system that has them). */
async function knowsHoles(path: string): Promise<boolean> {
  const fd = openSync(path, 'r');
  try {
    let count = 0;
    for await (const extent of fileExtents(fd, 0, base.length)) count += extent.length > 0 ? 1 : 0;
    return count > 1;
  } finally {
    closeSync(fd);
  }
}

/** A function for whole numbers from 0 to `end` (exclusive), the same on each run. */
function randomNumbers(seed: number): (end: number) => number {
  let state = seed;
  return (end) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * end);
  };
}

/** `content` as a source that knows some of its zeros, with extents of random lengths. */
function patchwork(content: Buffer, random: (end: number) => number): Source {
  const extents: Extent[] = [];
  for (let offset = 0; offset < content.length;) {
    const length = Math.min(1 + random(400_000), content.length - offset);
    const hasNothing = isZero(content, offset, offset + length);
    const kind = hasNothing && random(3) > 0 ? 'zero' : 'data';
    const last = extents.at(-1);
    if (last?.kind === kind)
      extents[extents.length - 1] = { ...last, length: last.length + length };
    else extents.push({ kind, offset, length });
    offset += length;
  }
  return {
    ...bufferSource(content, 'patchwork'),
    async *extents(start = 0, end = content.length): AsyncGenerator<Extent> {
      await Promise.resolve();
      for (const { kind, offset, length } of extents) {
        const from = Math.max(start, offset);
        const to = Math.min(end, offset + length);
        if (from < to) yield { kind, offset: from, length: to - from };
      }
    },
  };
}

const packedBefore = new Map<string, Map<Buffer, Buffer>>();

/** `bytes` compressed by `tool`; the same bytes only once. */
function packed(tool: 'gzip' | 'xz', bytes: Buffer): Buffer {
  const known = packedBefore.get(tool) ?? new Map<Buffer, Buffer>();
  packedBefore.set(tool, known);
  const result = known.get(bytes) ?? run(tool, ['-c1'], bytes);
  known.set(bytes, result);
  return result;
}

describe('any two inputs', () => {
  /** Everything that can be handed over, holding `bytes`. */
  const inputs: Record<string, (bytes: Buffer) => Input> = {
    'a source': (bytes) => bufferSource(bytes, 'source'),
    'a stream in pieces of 1000 bytes': (bytes) => inPieces(bytes, 1000),
    'a stream in pieces of 1 MiB': (bytes) => inPieces(bytes, MiB),
    'a gzip stream': (bytes) => inPieces(packed('gzip', bytes), 4096),
    'an xz source': (bytes) => bufferSource(packed('xz', bytes), 'xz'),
    'a file': (bytes) => {
      const path = join(tempDir(), 'raw');
      writeFileSync(path, bytes);
      return path;
    },
  };
  const names = Object.keys(inputs);
  const pairs = names.flatMap((a) => names.map((b) => ({ a, b })));
  const keys = ['another last byte', 'a byte amid zeros', 'a tail that ends with data'];

  describeWith(['gzip', 'xz'], 'pairs', () => {
    test.each(pairs.map((pair, at) => ({ ...pair, at })))('$a and $b', async ({ a, b, at }) => {
      const [makeA, makeB] = [inputs[a], inputs[b]];
      if (makeA === undefined || makeB === undefined) throw new Error('no such input');
      const same = await compare(makeA(base), makeB(base));
      expect(same).toMatchObject({
        identical: true,
        difference: undefined,
        a: { virtualSize: base.length },
        b: { virtualSize: base.length },
      });
      const { bytes, offset } = contents[keys[at % keys.length] ?? ''] ?? {
        bytes: base,
        offset: -1,
      };
      const found = await compare(makeA(base), makeB(bytes));
      expect(found.difference).toEqual({ kind: 'content', offset });
      expect(found.identical).toBe(false);
    });

    test('strict: a stream of raw bytes is all allocated, compressed or not', async () => {
      const zeros = Buffer.alloc(4 * MiB);
      const strict = { strict: true };
      const dense = (): Input => bufferSource(zeros, 'dense');
      const squeezed = (): Input => inPieces(packed('xz', zeros), 4096);
      expect((await compare(squeezed(), dense(), strict)).identical).toBe(true);
      expect((await compare(squeezed(), squeezed(), strict)).identical).toBe(true);
    });
  });

  test('however the two are cut', async () => {
    const random = randomNumbers(42);
    for (let round = 0; round < 60; round++) {
      const bytes = Buffer.alloc(random(3 * MiB));
      for (let part = random(6); part > 0; part--) {
        const start = random(bytes.length);
        bytes.set(noise(Math.min(random(200_000), bytes.length - start), part + round), start);
      }
      const other = Buffer.from(bytes.subarray(0, bytes.length - random(2) * random(bytes.length)));
      for (let change = random(3); change > 0; change--) {
        other[random(other.length)] = random(256);
      }
      const size = Math.max(bytes.length, other.length);
      let offset: number | undefined;
      for (let at = 0; at < size && offset === undefined; at++) {
        if ((bytes[at] ?? 0) !== (other[at] ?? 0)) offset = at;
      }
      const make = (content: Buffer): Input =>
        random(2) === 0
          ? patchwork(content, random)
          : inPieces(content, 1 + random(random(2) === 0 ? 300_000 : 2 * MiB));
      const found = await compare(make(bytes), make(other));
      expect(found.difference, `round ${round}`).toEqual(
        offset === undefined ? undefined : { kind: 'content', offset },
      );
    }
  });

  test('nothing against nothing, and nothing against zeros', async () => {
    const nothing = (): Input => bufferSource(Buffer.alloc(0), 'nothing');
    expect((await compare(nothing(), nothing())).identical).toBe(true);
    const zeros = bufferSource(Buffer.alloc(3000), 'zeros');
    expect((await compare(nothing(), zeros)).identical).toBe(true);
    expect((await compare(nothing(), zeros, { strict: true })).difference).toEqual({
      kind: 'size',
      offset: 0,
    });
    const one = bufferSource(Buffer.from([0, 0, 1]), 'one');
    expect((await compare(one, inPieces(Buffer.alloc(0), 1))).difference).toEqual({
      kind: 'content',
      offset: 2,
    });
  });

  test('each side has its own options', async () => {
    const bytes = packed('gzip', base);
    const as = (options: CompareOptions): Promise<Comparison> =>
      compare(bufferSource(bytes, 'a'), bufferSource(bytes, 'b'), options);
    expect((await as({})).a).toMatchObject({ codecs: ['gzip'], virtualSize: base.length });
    const mixed = await as({ b: { decompress: false } });
    expect([mixed.a.codecs, mixed.b.codecs]).toEqual([['gzip'], []]);
    expect(mixed.identical).toBe(false);
    const both = await as({ decompress: false });
    expect(both).toMatchObject({ identical: true, a: { codecs: [] }, b: { codecs: [] } });
  });
});

/** 64 MiB of data. */
function large(): Buffer {
  return Buffer.alloc(64 * MiB, noise(MiB, 3));
}

describe('cost', () => {
  test('ranges that both know to be zero are not read', async () => {
    const folder = tempDir();
    const [a, b] = [join(folder, 'a'), join(folder, 'b')];
    for (const path of [a, b]) {
      const fd = openSync(path, 'w');
      writeSync(fd, noise(MiB), 0, MiB, 5 * MiB);
      closeSync(fd);
      truncateSync(path, 64 * MiB);
    }
    // Where holes are not known, they are read: that would take minutes.
    const holesAreKnown = await knowsHoles(a);
    if (holesAreKnown) for (const path of [a, b]) truncateSync(path, 2 ** 40);
    const found = await compare(a, b);
    expect(found.identical).toBe(true);
    if (holesAreKnown) expect(found.a.bytesRead).toBeLessThanOrEqual(2 * MiB);
  });

  test('the first difference ends it', async () => {
    const a = large();
    const b = Buffer.from(a);
    b[MiB] = (b[MiB] ?? 0) ^ 1;
    const found = await compare(bufferSource(a, 'a'), bufferSource(b, 'b'));
    expect(found.difference).toEqual({ kind: 'content', offset: MiB });
    expect(found.a.bytesRead).toBeLessThan(16 * MiB);
  });

  test('an input does not run ahead of one that sleeps; abort ends the wait', async () => {
    const fast = watchedSource(bufferSource(large(), 'fast'));
    const controller = new AbortController();
    let closed = false;
    async function* slow(): AsyncGenerator<Uint8Array> {
      try {
        yield large().subarray(0, 2 * MiB);
        await sleep(60_000, undefined, { signal: controller.signal });
      } finally {
        closed = true;
      }
    }
    const comparison = rejection(compare(slow(), fast, { signal: controller.signal }));
    await sleep(300);
    expect(fast.bytes).toBeGreaterThan(2 * MiB);
    expect(fast.bytes).toBeLessThan(16 * MiB);
    controller.abort(new Error('enough'));
    expect((await comparison).message).toBe('enough');
    await sleep(10);
    expect(closed).toBe(true);
  });

  test('a difference ends the wait for an input that sleeps', async () => {
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield noise(MiB, 7);
      await sleep(60_000, undefined, { ref: false });
    }
    const found = await compare(slow(), bufferSource(noise(MiB, 8), 'other'));
    expect(found.difference).toEqual({ kind: 'content', offset: 0 });
    expect(found.a.virtualSize).toBeUndefined();
  }, 10_000);

  /** Gives nothing, ever. */
  async function* silent(): AsyncGenerator<Uint8Array> {
    await sleep(60_000, undefined, { ref: false });
    yield noise(1);
  }

  test('an input that cannot be opened ends the wait for one that sleeps', async () => {
    expect((await rejection(compare(silent(), '/nowhere'))).code).toBe('ENOENT');
    expect((await rejection(compare('/nowhere', silent()))).code).toBe('ENOENT');
  }, 10_000);

  test('abort while opening', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 100);
    const { signal } = controller;
    expect((await rejection(compare(silent(), silent(), { signal }))).message).toBe('enough');
  }, 10_000);

  test('limits hold: time, and data for each byte of input', async () => {
    const late = await rejection(
      compare(silent(), silent(), { b: { limits: { totalTime: 0.1 } } }),
    );
    expect(late).toMatchObject({ code: 'LIMIT', limit: 'totalTime' });
    expect(compareFailureOf(late)).toEqual({ input: 'b', step: 'read' });

    const text = Buffer.alloc(4 * MiB, 'text that can be compressed. ');
    const squeezed = (): Input => inPieces(packed('gzip', text), 4096);
    const limits = { ratio: 10, ratioFloor: MiB };
    expect((await compare(squeezed(), squeezed())).identical).toBe(true);
    const grown = await rejection(compare(bufferSource(text, 'a'), squeezed(), { limits }));
    expect(grown).toMatchObject({ code: 'LIMIT', limit: 'ratio' });
    expect(compareFailureOf(grown)).toEqual({ input: 'b', step: 'read' });
  }, 10_000);

  test('a signal that has aborted: nothing is opened', async () => {
    const signal = AbortSignal.abort(new Error('before'));
    expect((await rejection(compare('/nowhere', '/nowhere', { signal }))).message).toBe('before');
  });
});

describe('failures', () => {
  test('which input, and in which step', async () => {
    const good = (): Input => bufferSource(noise(4 * MiB), 'good');
    const missing = await rejection(compare(good(), '/nowhere'));
    expect(missing.code).toBe('ENOENT');
    expect(compareFailureOf(missing)).toEqual({ input: 'b', step: 'open' });
    const first = await rejection(compare('/nowhere', '/nowhere'));
    expect(compareFailureOf(first)).toEqual({ input: 'a', step: 'open' });

    // The first read is that of the head.
    for (let failAt = 1; failAt <= 4; failAt++) {
      const failing = watchedSource(bufferSource(noise(4 * MiB), 'failing'), failAt);
      const broken = await rejection(compare(good(), failing));
      expect(broken.code).toBe('EIO');
      expect(compareFailureOf(broken)).toEqual({ input: 'b', step: 'read' });
    }
    expect(compareFailureOf(new Error('another'))).toBeUndefined();
  });

  describeWith(['qemu-img', 'qemu-io'], 'tables', () => {
    test('are read when opening, data later', async () => {
      const folder = tempDir();
      const image = join(folder, 'image.qcow2');
      const raw = join(folder, 'raw');
      writeFileSync(raw, Buffer.concat([noise(2 * MiB), Buffer.alloc(2 * MiB)]));
      run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
      // The one L2 table lies in cluster 4; entry 16 is for the guest's second MiB.
      const fd = openSync(image, 'r+');
      writeSync(fd, Buffer.from('8000000000050200', 'hex'), 0, 8, 4 * 65536 + 16 * 8);
      closeSync(fd);
      const error = await rejection(compare(image, raw));
      expect(error.code).toBe('CORRUPT');
      expect(compareFailureOf(error)).toEqual({ input: 'a', step: 'open' });

      const packed = join(folder, 'packed.qcow2');
      writeFileSync(raw, Buffer.alloc(4 * MiB, 'text that can be compressed. '));
      run('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, packed]);
      const other = openSync(packed, 'r+');
      writeSync(other, Buffer.alloc(200, 0xff), 0, 200, 5 * 65536);
      closeSync(other);
      expect(qemu(raw, packed).status).toBe(4);
      const unreadable = await rejection(compare(raw, packed));
      expect(unreadable.code).toBe('CORRUPT');
      expect(compareFailureOf(unreadable)).toEqual({ input: 'b', step: 'read' });
    });
  });

  test('one stream cannot be both inputs', async () => {
    expect(await rejection(compare('-', '-'))).toMatchObject({ code: 'SOURCE' });
    const stream = inPieces(base, 1000);
    expect(await rejection(compare(stream, stream))).toMatchObject({ code: 'SOURCE' });
    const source = bufferSource(base, 'source');
    expect((await compare(source, source)).identical).toBe(true);
  });
});
