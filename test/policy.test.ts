/** What is refused of strangers' images, and when: the rules of src/policy.ts and what they are made of. */

import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { makeEdgeKeeper } from '../src/chunk/edges.ts';
import { gather } from '../src/chunk/gather.ts';
import { makeRatioGuard } from '../src/chunk/ratio.ts';
import { makeCounter } from '../src/chunk/tally.ts';
import { detectCodec } from '../src/codec/index.ts';
import { isSparsecopyError, SparsecopyError } from '../src/errors.ts';
import { HEAD_LENGTH, TAIL_LENGTH } from '../src/format/signatures.ts';
import { defaultLimits, limitsOf, untrustedLimits, type Limits } from '../src/limits.ts';
import {
  checkDisk,
  checkedRuns,
  checkImage,
  checkSize,
  limitTime,
  makeOutputGuard,
} from '../src/policy.ts';
import { bufferSource } from '../src/source/buffer.ts';
import { cancellable, peekRuns, runsOf } from '../src/source/stream.ts';
import { checkFileOrDevice, checkUnchanged, stateOf } from '../src/stat.ts';
import type { Chunk, FormatName, Run } from '../src/types.ts';
import { describeCorpus, readExpectations, unpack, type Unpacked } from './corpora.ts';
import { inPieces, noise, rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const MiB = 2 ** 20;

/** The code of what `checkImage` throws for the whole of `bytes`, or `ok`. */
function verdict(bytes: Uint8Array, declared?: FormatName): string {
  try {
    checkImage(
      'image',
      { head: bytes.subarray(0, HEAD_LENGTH), tail: bytes.subarray(-TAIL_LENGTH) },
      declared,
    );
    return 'ok';
  } catch (error) {
    if (error instanceof SparsecopyError) return error.code;
    throw error;
  }
}

/** The same for bytes that pass once, in pieces of `size` bytes, as they pass. */
async function passingVerdict(
  bytes: Uint8Array,
  size: number,
  declared?: FormatName,
): Promise<string> {
  try {
    const head = bytes.subarray(0, HEAD_LENGTH);
    checkImage('image', { head, tail: undefined }, declared);
    let length = 0;
    for await (const run of checkedRuns(runsOf(inPieces(bytes, size)), head, 'image', declared)) {
      length += run.kind === 'data' ? run.bytes.length : run.length;
    }
    expect(length).toBe(bytes.length);
    return 'ok';
  } catch (error) {
    if (error instanceof SparsecopyError) return error.code;
    throw error;
  }
}

/** `size` bytes with `signatures` in them; negative places are from the end. */
function make(
  size: number,
  ...signatures: readonly (readonly [at: number, text: string])[]
): Buffer {
  const bytes = Buffer.alloc(size);
  for (const [at, text] of signatures) bytes.write(text, at < 0 ? size + at : at, 'latin1');
  return bytes;
}

const qcow2Header = [0, 'QFI\xfb\0\0\0\x03'] as const;
const clusterBits = [23, '\x10'] as const;
const mbr = [510, '\x55\xaa'] as const;
const iso = [32769, 'CD001'] as const;
const gpt = [512, 'EFI PART'] as const;
const vhdFooter = [-512, 'conectix'] as const;

describe('what an image may be', () => {
  const rows: readonly (readonly [
    what: string,
    image: Buffer,
    declared: FormatName | undefined,
    verdict: string,
  ])[] = [
    // T7
    ['qcow2, declared so', make(MiB, qcow2Header, clusterBits), 'qcow2', 'ok'],
    ['qcow2, not declared', make(MiB, qcow2Header, clusterBits), undefined, 'ok'],
    ['qcow2, declared raw', make(MiB, qcow2Header, clusterBits), 'raw', 'FORMAT'],
    ['a disk, declared qcow2', make(MiB, mbr), 'qcow2', 'FORMAT'],
    ['vmdk, declared qcow2', make(MiB, [0, 'KDMV']), 'qcow2', 'FORMAT'],
    ['vmdk, declared raw', make(MiB, [0, 'KDMV']), 'raw', 'FORMAT'],
    ['LUKS, declared raw', make(MiB, [0, 'LUKS\xba\xbe']), 'raw', 'FORMAT'],
    ['a fixed VHD, declared raw', make(MiB, mbr, vhdFooter), 'raw', 'FORMAT'],
    // T8
    ['qcow2 and MBR', make(MiB, qcow2Header, clusterBits, mbr), 'qcow2', 'FORMAT'],
    ['qcow2 and ISO', make(MiB, qcow2Header, clusterBits, iso), undefined, 'FORMAT'],
    [
      'qcow2 with clusters of 32 KiB and an ISO on its disk',
      make(MiB, qcow2Header, [23, '\x0f'], iso),
      undefined,
      'ok',
    ],
    ['qcow2 and VHD', make(MiB, qcow2Header, clusterBits, vhdFooter), undefined, 'FORMAT'],
    ['VDI and MBR', make(MiB, [64, '\x7f\x10\xda\xbe'], mbr), undefined, 'FORMAT'],
    ['ISO and GPT and MBR', make(MiB, mbr, gpt, iso), undefined, 'ok'],
    ['ISO and GPT and MBR, declared raw', make(MiB, mbr, gpt, iso), 'raw', 'ok'],
    // T9
    ['noise', noise(MiB), undefined, 'FORMAT'],
    ['noise, declared raw', noise(MiB), 'raw', 'ok'],
    ['text', Buffer.from('Not Found\n'), undefined, 'FORMAT'],
    ['zeros', Buffer.alloc(MiB), undefined, 'ok'],
    ['zeros, declared raw', Buffer.alloc(MiB), 'raw', 'ok'],
    ['zip', make(MiB, [0, 'PK\x03\x04']), undefined, 'UNSUPPORTED'],
    ['zip, declared raw', make(MiB, [0, 'PK\x03\x04']), 'raw', 'ok'],
    ['gzip that nobody is to unpack', make(MiB, [0, '\x1f\x8b\x08']), undefined, 'UNSUPPORTED'],
    ['a program', make(MiB, [0, '\x7fELF']), undefined, 'FORMAT'],
    ['a disk that begins as a program does', make(MiB, [0, '\x7fELF'], iso), undefined, 'ok'],
    // formats and things that are known, and not read
    ['vmdk', make(MiB, [0, 'KDMV']), undefined, 'UNSUPPORTED'],
    ['a fixed VHD', make(MiB, mbr, vhdFooter), undefined, 'UNSUPPORTED'],
    ['qcow2 of version 1', make(MiB, [0, 'QFI\xfb\0\0\0\x01']), undefined, 'UNSUPPORTED'],
    ['LUKS', make(MiB, [0, 'LUKS\xba\xbe']), undefined, 'UNSUPPORTED'],
    // nothing
    ['nothing', Buffer.alloc(0), undefined, 'FORMAT'],
    ['nothing, declared raw', Buffer.alloc(0), 'raw', 'FORMAT'],
    ['nothing, declared qcow2', Buffer.alloc(0), 'qcow2', 'FORMAT'],
  ];

  test.each(rows)('%s', async (_, image, declared, expected) => {
    expect(verdict(image, declared)).toBe(expected);
    for (const size of [MiB, 65536, 1000]) {
      expect(await passingVerdict(image, size, declared)).toBe(expected);
    }
  });

  test('what is refused says what was found and what was expected', () => {
    const thrown = (bytes: Uint8Array, declared?: FormatName): unknown => {
      try {
        checkImage('x.img', { head: bytes, tail: bytes }, declared);
      } catch (error) {
        return error;
      }
      return undefined;
    };
    expect(thrown(make(1000, qcow2Header), 'raw')).toMatchObject({
      message: 'x.img: was declared to be raw, and has the signature of qcow2',
      source: 'x.img',
      expected: 'raw',
      found: 'qcow2',
    });
    expect(thrown(make(1000, [0, 'vhdxfile']))).toMatchObject({
      message: 'x.img: is vhdx, expected one of qcow2, raw',
      feature: 'vhdx',
    });
    expect(thrown(Buffer.from('<html>'))).toMatchObject({
      message: 'x.img: is no disk image, but html',
    });
    expect(thrown(make(1000, [0, 'LUKS\xba\xbe']))).toMatchObject({ feature: 'encryption' });
  });

  test('an image that passes is not read further than its reader wants, and closed', async () => {
    let closed = false;
    const endless = async function* (): AsyncGenerator<Run> {
      try {
        for (;;) yield await Promise.resolve({ kind: 'data' as const, bytes: Buffer.alloc(512) });
      } finally {
        closed = true;
      }
    };
    for await (const run of checkedRuns(endless(), Buffer.alloc(512), 'x', 'raw')) {
      expect(run.kind).toBe('data');
      break;
    }
    expect(closed).toBe(true);
  });
});

describe('what is written is no image', () => {
  const disk = (...signatures: readonly (readonly [number, string])[]): Buffer =>
    make(200_000, ...signatures);

  const chunk = (bytes: Uint8Array, offset: number, length: number): Chunk => ({
    kind: 'data',
    offset,
    length,
    bytes: bytes.subarray(offset, offset + length),
  });

  test('the edges of a disk are kept, whatever the order and the size of its chunks', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ length: fc.integer({ min: 1, max: 40 }), isZero: fc.boolean() }), {
          maxLength: 20,
        }),
        fc.infiniteStream(fc.nat()),
        (parts, order) => {
          let size = 0;
          const chunks: Chunk[] = parts.map(({ length, isZero }, index) => {
            const offset = size;
            size += length;
            return isZero
              ? { kind: 'zero', offset, length }
              : { kind: 'data', offset, length, bytes: noise(length, index + 1) };
          });
          const whole = Buffer.alloc(size);
          for (const one of chunks) if (one.kind === 'data') whole.set(one.bytes, one.offset);
          const keeper = makeEdgeKeeper(50, 30);
          const left = [...chunks];
          for (const number of order) {
            const [next] = left.splice(number % Math.max(1, left.length), 1);
            if (next === undefined) break;
            keeper.pass(next);
          }
          const edges = keeper.edges();
          expect(edges.size).toBe(size);
          expect(Buffer.from(edges.head)).toEqual(whole.subarray(0, 50));
          expect(Buffer.from(edges.tail)).toEqual(whole.subarray(Math.max(0, size - 30)));
        },
      ),
    );
  });

  test.each([
    ['a qcow2 image', disk(qcow2Header), 'qcow2'],
    ['a VMDK descriptor', disk([0, '# Disk DescriptorFile\nversion=1\n']), 'vmdk'],
    ['a VHD footer', disk(mbr, vhdFooter), 'vpc'],
    ['a UDIF trailer', disk([-512, 'koly\0\0\0\x04\0\0\x02\0']), 'dmg'],
  ])('%s is refused, passing or not', async (_, bytes, found) => {
    const error = await rejection(checkDisk('x', bufferSource(bytes)));
    expect(error).toMatchObject({ code: 'FORMAT', found, source: 'x' });
    const guard = makeOutputGuard('x');
    const offsets = Array.from({ length: 200 }, (_unused, index) => index * 1000);
    for (const offset of [...offsets.slice(77), ...offsets.slice(0, 77)]) {
      guard.pass(chunk(bytes, offset, 1000));
    }
    expect(() => guard.end()).toThrow(error.message);
  });

  test.each([
    ['a disk', disk(mbr, gpt)],
    [
      'a file system with an image a bit further',
      disk([1080, '\x53\xef'], [4096, 'QFI\xfb\0\0\0\x03']),
    ],
    ['noise', noise(200_000)],
    ['zeros', Buffer.alloc(200_000)],
    ['nothing', Buffer.alloc(0)],
    ['a byte', Buffer.alloc(1, 1)],
  ])('%s is not', async (_, bytes) => {
    await checkDisk('x', bufferSource(bytes));
    const guard = makeOutputGuard('x');
    for (let at = 0; at < bytes.length; at += 777) {
      guard.pass(chunk(bytes, at, Math.min(777, bytes.length - at)));
    }
    expect(() => guard.end()).not.toThrow();
  });
});

describe('how much', () => {
  const GiB = 1024 * MiB;
  const guardOf = (
    sourceSize: number | undefined,
    bytesRead: number,
    limits: Limits = untrustedLimits,
  ): ((size: number) => void) => makeRatioGuard({ name: 'x', sourceSize, bytesRead }, limits);

  test('a disk may be the ratio times its image, and up to the floor what it likes', () => {
    expect(() => guardOf(1000, 1000)(64 * MiB)).not.toThrow();
    expect(() => guardOf(1000, 1000)(64 * MiB + 1)).toThrow('more than 100 for each');
    expect(() => guardOf(MiB, MiB)(100 * MiB)).not.toThrow();
    expect(() => guardOf(MiB, MiB)(100 * MiB + 1)).toThrow(/^x: has become 104857601 bytes/);
    expect(() => guardOf(MiB, MiB, defaultLimits)(1000 * MiB)).not.toThrow();
    expect(() => guardOf(MiB, MiB, defaultLimits)(1000 * MiB + 1)).toThrow('more than 1000');
    // of a pipe, what has come counts; of a file that is read over and over, its size
    expect(() => guardOf(undefined, 100 * MiB)(2 * GiB)).not.toThrow();
    expect(() => guardOf(undefined, MiB)(2 * GiB)).toThrow('out of 1048576');
    expect(() => guardOf(MiB, GiB)(2 * GiB)).toThrow('out of 1048576');
  });

  test('what was read counts as it is when asked', () => {
    const input = { name: 'x', sourceSize: undefined, bytesRead: MiB };
    const guard = makeRatioGuard(input, untrustedLimits);
    expect(() => guard(150 * MiB)).toThrow(SparsecopyError);
    input.bytesRead *= 2;
    expect(() => guard(150 * MiB)).not.toThrow();
  });

  test('limits are those of the policy, and of the caller', () => {
    expect(limitsOf()).toEqual(defaultLimits);
    expect(limitsOf('default')).toEqual(defaultLimits);
    expect(limitsOf('untrusted')).toEqual(untrustedLimits);
    expect(limitsOf('untrusted', { ratio: 7 })).toEqual({ ...untrustedLimits, ratio: 7 });
    const none: Partial<Limits> = JSON.parse('{}') as Partial<Limits>;
    expect(limitsOf('untrusted', { ...none, ratio: undefined as unknown as number }).ratio).toBe(
      100,
    );
    for (const ratio of [-1, NaN, '5' as unknown as number]) {
      expect(() => limitsOf('default', { ratio })).toThrow(RangeError);
    }
    // no limit is looser where less is trusted, but for the rate, which is a least one
    for (const [name, value] of Object.entries(untrustedLimits) as [keyof Limits, number][]) {
      if (name === 'minimumRate') expect(value).toBeGreaterThan(defaultLimits[name]);
      else expect(value, name).toBeLessThanOrEqual(defaultLimits[name]);
    }
  });

  test('sizes', () => {
    checkSize('x', 'virtualSize', 2 ** 40, untrustedLimits);
    expect(() => checkSize('x', 'virtualSize', 2 ** 40 + 1, untrustedLimits)).toThrow(
      'x: holds a disk of 1099511627777 bytes or more, the limit is 1099511627776',
    );
    expect(() => checkSize('x', 'sourceSize', 65 * GiB, untrustedLimits)).toThrow(
      'x: is 69793218560',
    );
    checkSize('x', 'sourceSize', 65 * GiB, defaultLimits);
  });
});

describe('how long', () => {
  const never = new AbortController().signal;

  /** The output of `script` while it runs. */
  function outputOf(script: string): AsyncIterable<Uint8Array> {
    const child = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    return child.stdout;
  }

  async function lengthOf(bytes: AsyncIterable<Uint8Array>, pause = 0): Promise<number> {
    let length = 0;
    for await (const piece of bytes) {
      length += piece.length;
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return length;
  }

  const patience = (idleTime: number, minimumRate = 0) => ({
    name: 'pipe',
    limits: { idleTime, minimumRate },
  });

  test('a pipe that gives nothing is given up', async () => {
    const started = performance.now();
    const bytes = cancellable(outputOf('printf abc; exec sleep 60'), never, patience(0.3));
    expect(await rejection(lengthOf(bytes))).toMatchObject({
      code: 'LIMIT',
      limit: 'idleTime',
      message: 'pipe: gave nothing for 0.3 seconds',
    });
    expect(performance.now() - started).toBeGreaterThan(290);
  });

  test('a reader may be as slow as it likes', async () => {
    const bytes = cancellable(outputOf('printf abc; sleep 0.1; printf def'), never, patience(2));
    expect(await lengthOf(bytes, 1200)).toBe(6);
  });

  test('a pipe that gives too little is given up, one that gives enough is not', async () => {
    const drip = 'while :; do printf x; sleep 0.02; done';
    const error = await rejection(
      lengthOf(cancellable(outputOf(drip), never, patience(0.5, 1000))),
    );
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'minimumRate', expected: 1000 });
    const some = 'for i in 1 2 3 4 5 6; do printf 0123456789; sleep 0.1; done';
    expect(await lengthOf(cancellable(outputOf(some), never, patience(0.3, 5)))).toBe(60);
  });

  test('without a limit nothing is measured; an abort still ends the wait', async () => {
    const stop = new AbortController();
    const bytes = cancellable(outputOf('exec sleep 60'), stop.signal, patience(Infinity));
    setTimeout(() => stop.abort(new Error('enough')), 50);
    expect((await rejection(lengthOf(bytes))).message).toBe('enough');
  });

  test('errors of the input pass as they came', async () => {
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(Buffer.from('x'));
      throw new Error('EIO');
    };
    expect((await rejection(lengthOf(cancellable(failing(), never, patience(1))))).message).toBe(
      'EIO',
    );
  });

  test('the whole may take only so long', async () => {
    const error = await new Promise<SparsecopyError>((resolve) => {
      limitTime('x', { totalTime: 0.05 }, resolve);
      setTimeout(() => undefined, 500); // what is measured would keep the process alive
    });
    expect(error).toMatchObject({ code: 'LIMIT', limit: 'totalTime' });
    for (const totalTime of [0.05, Infinity, 1e9]) {
      const end = limitTime('x', { totalTime }, () => expect.unreachable());
      end();
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  });
});

describe('which files', () => {
  test('regular files and nothing that never ends', () => {
    const folder = tempDir();
    const fifo = join(folder, 'fifo');
    run('mkfifo', [fifo]);
    checkFileOrDevice('x', fs.statSync(import.meta.filename));
    for (const [path, kind] of [
      ['/dev/zero', 'a character device'],
      [fifo, 'a FIFO'],
      [folder, 'a directory'],
    ] as const) {
      expect(() => checkFileOrDevice('x', fs.statSync(path))).toThrow(
        `x: is ${kind}, expected a regular file or a block device`,
      );
    }
  });

  test('a file that changes while it is read', async () => {
    const path = join(tempDir(), 'file');
    const check = async (change: () => void, strict: boolean): Promise<string> => {
      fs.writeFileSync(path, noise(1000));
      fs.utimesSync(path, 1000, 1000);
      const fd = fs.openSync(path, 'r');
      try {
        const before = await stateOf(fd);
        change();
        await checkUnchanged(before, fd, 'x', strict);
        return 'ok';
      } catch (error) {
        if (isSparsecopyError(error)) return error.code;
        throw error;
      } finally {
        fs.closeSync(fd);
      }
    };
    const rows: readonly (readonly [change: () => void, normal: string, strict: string])[] = [
      [() => void fs.readFileSync(path), 'ok', 'ok'],
      [() => fs.truncateSync(path, 999), 'SOURCE', 'SOURCE'],
      [() => fs.appendFileSync(path, 'x'), 'ok', 'SOURCE'],
      [() => fs.writeFileSync(path, 'x', { flag: 'r+' }), 'ok', 'SOURCE'],
      // what is open is still there
      [() => fs.unlinkSync(path), 'ok', 'ok'],
    ];
    for (const [change, normal, strict] of rows) {
      expect(await check(change, false), String(change)).toBe(normal);
      expect(await check(change, true), String(change)).toBe(strict);
    }
  });
});

describeWith(['lz4'], 'legacy LZ4', () => {
  test('is read, but not from strangers', async () => {
    const packed = run('lz4', ['-l', '-c'], noise(10_000));
    const codec = detectCodec(packed);
    const decode = async (untrusted: boolean): Promise<number> => {
      let length = 0;
      const context = { name: 'x', limits: untrustedLimits, untrusted };
      for await (const piece of codec?.decode(inPieces(packed, 5000), context) ?? []) {
        length += piece.kind === 'data' ? piece.bytes.length : piece.length;
      }
      return length;
    };
    expect(await decode(false)).toBe(10_000);
    expect(await rejection(decode(true))).toMatchObject({
      code: 'UNSUPPORTED',
      feature: 'legacy LZ4 frame',
      offset: 0,
    });
  });
});

/** What the reasons of security.md that concern this are among our codes. */
const codeOf: Readonly<Record<string, string>> = {
  '-': 'ok',
  ERR_FORMAT_AMBIGUOUS: 'FORMAT',
  ERR_FORMAT_UNKNOWN: 'FORMAT',
  ERR_EMPTY_IMAGE: 'FORMAT',
  ERR_FORMAT_UNSUPPORTED: 'UNSUPPORTED',
  ERR_FEATURE_UNSUPPORTED: 'UNSUPPORTED',
  ERR_ENCRYPTED: 'UNSUPPORTED',
  ERR_TRUNCATED: 'TRUNCATED',
  ERR_CORRUPT_DATA: 'CORRUPT',
  ERR_CORRUPT_HEADER: 'CORRUPT',
  ERR_TRAILING_DATA: 'CORRUPT',
  ERR_LIMIT_RATIO: 'LIMIT',
  ERR_LIMIT_MEMORY: 'LIMIT',
  ERR_LIMIT_VIRTUAL_SIZE: 'LIMIT',
};

/** Rows of empty members without end: the limit on them is reached before anybody can know that all of it is empty. */
const endlessly = /^z(14|34|57)-/;

describeCorpus('hostile.tar.xz', 'hostile images, from strangers', () => {
  let hostile: Unpacked;
  const rowsOf = (files: RegExp): ReturnType<typeof readExpectations> =>
    readExpectations(hostile.folder).filter(({ file }) => files.test(file));
  beforeAll(() => {
    hostile = unpack('hostile.tar.xz');
  });
  afterAll(() => hostile[Symbol.dispose]());

  test('raw, and what is taken for it', async () => {
    const rows = rowsOf(/^p/);
    expect(rows.length).toBe(13);
    const wrong: string[] = [];
    for (const { file, declared, reason } of rows) {
      const bytes = fs.readFileSync(join(hostile.folder, file));
      const format = declared === 'raw' ? 'raw' : undefined;
      const found = [
        verdict(bytes, format),
        ...(await Promise.all(
          [512, 4097, 65536, MiB].map((size) => passingVerdict(bytes, size, format)),
        )),
      ];
      if (found.some((code) => code !== codeOf[reason])) wrong.push(`${file}: ${found.join()}`);
    }
    expect(wrong).toEqual([]);
  });

  test('images of formats that are not read are named', () => {
    const kinds = { vmdk: 'vmdk', vhd: 'vpc', vhdx: 'vhdx', vdi: 'vdi' };
    for (const [ending, format] of Object.entries(kinds)) {
      const rows = rowsOf(new RegExp(`\\.${ending}$`));
      expect(rows.length).toBeGreaterThan(10);
      for (const { file } of rows) {
        const bytes = fs.readFileSync(join(hostile.folder, file));
        expect(() => verdict(bytes), file).not.toThrow();
        expect(verdict(bytes), file).toBe('UNSUPPORTED');
        expect(verdict(bytes, 'raw'), `${file} as raw, ${format}`).toBe('FORMAT');
      }
    }
  });

  test('qcow2 images are nothing else', () => {
    for (const { file } of rowsOf(/^q/)) {
      const bytes = fs.readFileSync(join(hostile.folder, file));
      expect(verdict(bytes, 'qcow2'), file).toBe('ok');
      expect(verdict(bytes), file).toBe('ok');
    }
  });

  /** Decodes as `open` does: one compression, checked, counted. */
  async function decoded(path: string, limits: Limits): Promise<string> {
    const packed = fs.readFileSync(path);
    let bytesRead = 0;
    const input = {
      name: 'x',
      sourceSize: packed.length,
      get bytesRead() {
        return bytesRead;
      },
    };
    const counted = async function* (): AsyncGenerator<Uint8Array> {
      for await (const piece of inPieces(packed, 65536)) {
        bytesRead += piece.length;
        yield piece;
      }
    };
    const checkRatio = makeRatioGuard(input, limits);
    const counter = makeCounter(512);
    const codec = detectCodec(packed);
    if (codec === undefined) return 'no codec';
    try {
      const context = { name: 'x', limits, untrusted: true };
      const { head, runs } = await peekRuns(codec.decode(counted(), context), HEAD_LENGTH);
      checkImage('x', { head, tail: undefined }, 'raw');
      for await (const chunk of gather(checkedRuns(runs, head, 'x', 'raw'))) {
        counter.count(chunk);
        if (chunk.kind === 'data') chunk.release?.();
        checkRatio(counter.totals().diskSize);
      }
      return detectCodec(head) === undefined ? 'ok' : 'compressed again';
    } catch (error) {
      if (!isSparsecopyError(error)) throw error;
      return error.limit === undefined ? error.code : `${error.code} ${error.limit}`;
    }
  }

  test('streams', async () => {
    const rows = rowsOf(/^z/);
    expect(rows.length).toBe(36);
    const wrong: string[] = [];
    for (const { file, reason } of rows) {
      const found = await decoded(join(hostile.folder, file), untrustedLimits);
      // what is compressed twice is refused by whoever looks for a second codec
      const wanted =
        reason === 'ERR_LIMIT_NESTING'
          ? 'compressed again'
          : endlessly.test(file)
            ? 'LIMIT emptyMembers'
            : reason === 'ERR_LIMIT_RATIO'
              ? 'LIMIT ratio'
              : (codeOf[reason] ?? reason);
      if (wanted === 'LIMIT' ? !found.startsWith('LIMIT') : found !== wanted) {
        wrong.push(`${file}: ${found}, expected ${wanted}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test('read to its end, a stream that holds nothing is an empty image', async () => {
    const limits = limitsOf('untrusted', { emptyMembers: 65_536 });
    const rows = rowsOf(endlessly);
    expect(rows.length).toBe(3);
    for (const { file } of rows) {
      expect(await decoded(join(hostile.folder, file), limits), file).toBe('FORMAT');
    }
  });
});
