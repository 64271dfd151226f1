/** Threads: whatever their number, the bytes, sizes and errors are the same; a pool can be shared, and nothing hangs or stays. */

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import {
  chunksOf,
  map,
  sparsecopy,
  SparsecopyError,
  threadPool,
  type Chunk,
  type Progress,
  type Report,
} from '../src/index.ts';
import { flattenError, markStep, reviveError, stepOf } from '../src/errors.ts';
import { makeThreads, type Threads } from '../src/threads.ts';
import { command, shell } from './command.ts';
import { makeDisk } from './disk.ts';
import { noise, rejection, sha256, tempDir } from './helpers.ts';
import { run } from './native.ts';
import { describeWith } from './tools.ts';
import { copyToFile, copyToStream, fastTempDir, pipeOf, tell, type Outcome } from './ways.ts';

const MiB = 2 ** 20;
const COUNTS = [1, 2, 8] as const;

/** By their number, these do all work that threads can do, however little it is. */
const pools = new Map<number, Threads>();
beforeAll(() => {
  for (const count of COUNTS) pools.set(count, makeThreads(count, true));
});
afterAll(async () => {
  for (const pool of pools.values()) await pool[Symbol.asyncDispose]();
});

/** What comes of `path`, read as a file and from a pipe in odd pieces, into a file and into a stream. */
async function outcomesOf(path: string, threads: Threads | 0): Promise<readonly string[]> {
  const folder = tempDir();
  const bytes = readFileSync(path);
  const to = { folder, options: { threads }, whole: true };
  const outcomes: Outcome[] = [
    await copyToFile(path, to),
    await copyToFile(path, { ...to, options: { threads, blocking: true } }),
    await copyToStream(path, to),
    await copyToFile(pipeOf(bytes, 60_001), to),
    await copyToStream(pipeOf(bytes, 60_001), to),
  ];
  return outcomes.map((outcome) =>
    outcome.kind === 'ok' ? JSON.stringify(outcome) : tell(outcome, true),
  );
}

/** What the descriptor `name` of this process is open to. */
function linkOf(name: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${name}`);
  } catch {
    return '';
  }
}

/** An image in `folder`, called src, of 4 MiB in compressed clusters: text of noise. */
function makeCompressed(folder: string): string {
  const [src, raw] = [join(folder, 'src'), join(folder, 'raw')];
  writeFileSync(raw, noise(3 * MiB).toString('base64'));
  run('qemu-img', ['convert', '-c', '-O', 'qcow2', '-f', 'raw', raw, src]);
  rmSync(raw);
  return src;
}

/** The first bytes of a compressed stream of data, and then nothing. */
function stalling(bytes: Uint8Array): Readable {
  let isSent = false;
  return new Readable({
    read(): void {
      if (!isSent) this.push(bytes);
      isSent = true;
    },
  });
}

const fixtures = join(import.meta.dirname, '..', 'fixtures');
const images = ['good', 'bad'].flatMap((kind) =>
  readdirSync(join(fixtures, kind))
    .filter((name) => !name.endsWith('.json') && !name.endsWith('.md'))
    .map((name) => join(kind, name)),
);

describe('every fixture gives the same with 1, 2 and 8 threads as with none', () => {
  test.each(images)('%s', async (name) => {
    const path = join(fixtures, name);
    const wanted = await outcomesOf(path, 0);
    for (const [count, pool] of pools) {
      expect(await outcomesOf(path, pool), `${count} threads`).toEqual(wanted);
    }
  });
});

describeWith(['qemu-img', 'gzip', 'xz', 'lz4', 'zstd', 'mkfs.ext4'], 'a real disk', () => {
  const commands = {
    'plain.qcow2': 'qemu-img convert -O qcow2 disk.raw plain.qcow2',
    'deflate.qcow2': 'qemu-img convert -c -O qcow2 disk.raw deflate.qcow2',
    'shuffled.qcow2': 'qemu-img convert -c -W -m 16 -O qcow2 disk.raw shuffled.qcow2',
    'zstd.qcow2': 'qemu-img convert -c -O qcow2 -o compression_type=zstd disk.raw zstd.qcow2',
    'small.qcow2': 'qemu-img convert -c -O qcow2 -o cluster_size=4k disk.raw small.qcow2',
    'large.qcow2': 'qemu-img convert -c -O qcow2 -o cluster_size=2M disk.raw large.qcow2',
    'disk.raw.gz': 'gzip -1 -k disk.raw',
    'disk.raw.xz': 'xz -0 -k disk.raw',
    'blocks.raw.xz': 'xz -0 -T2 --block-size=1MiB -c disk.raw > blocks.raw.xz',
    'disk.raw.lz4': 'lz4 -q disk.raw disk.raw.lz4',
    'disk.raw.zst': 'zstd -q -k disk.raw',
    'deflate.qcow2.xz': 'xz -0 -k deflate.qcow2',
    'deflate.qcow2.zst': 'zstd -q -k deflate.qcow2',
  };

  test('the same bytes and sizes, whatever the number of threads, its way in and its way out', async () => {
    const folder = tempDir();
    const at = (name: string): string => join(folder, name);
    makeDisk(at('disk.raw'), { size: 64 * MiB, data: 8e6 });
    const wanted = sha256(readFileSync(at('disk.raw')));
    for (const [name, line] of Object.entries(commands)) {
      run('sh', ['-c', `cd ${folder} && ${line}`]);
      const sizes = new Set<string>();
      for (const threads of [0, ...pools.values()]) {
        const label = `${name} with ${typeof threads === 'number' ? 0 : threads.size} threads`;
        for (const [source, blocking] of [
          [at(name), false],
          [at(name), true],
          [pipeOf(readFileSync(at(name)), 65_536), false],
        ] as const) {
          const report = await sparsecopy(source, at('out'), { threads, blocking });
          expect(sha256(readFileSync(at('out'))), label).toBe(wanted);
          const { virtualSize, diskSize, bytesWritten } = report;
          sizes.add(JSON.stringify({ virtualSize, diskSize }));
          expect(bytesWritten, label).toBeLessThan(16e6);
          rmSync(at('out'));
        }
      }
      expect([...sizes], name).toHaveLength(1);
    }
  });
});

describeWith(['qemu-img', 'xz', 'zstd'], 'damage', () => {
  const kinds = {
    'blocks.xz': 'xz -0 -T2 --block-size=64KiB -c part > blocks.xz',
    'filtered.xz': 'xz -T2 --block-size=64KiB --x86 --lzma2=preset=0 -c part > filtered.xz',
    'whole.xz': 'xz -0 -T1 -c part > whole.xz',
    'part.zst': 'zstd -q part',
    'deflate.qcow2': 'qemu-img convert -c -O qcow2 part deflate.qcow2',
    'zstd.qcow2': 'qemu-img convert -c -O qcow2 -o compression_type=zstd part zstd.qcow2',
  };

  test.each(Object.entries(kinds))(
    '%s: the same error, or the same bytes, with threads as without',
    async (name, line) => {
      const folder = tempDir();
      const at = join(folder, name);
      const text = Buffer.from('a line that comes again and again\n'.repeat(4000));
      const part = Buffer.concat([noise(150_000), text, Buffer.alloc(200_704), noise(100_000, 7)]);
      writeFileSync(join(folder, 'part'), part.subarray(0, -(part.length % 512)));
      run('sh', ['-c', `cd ${folder} && ${line}`]);
      const good = readFileSync(at);
      const codes = new Set<string>();
      let state = 1;
      const random = (below: number): number => {
        state = (state * 48_271) % 0x7fffffff;
        return state % below;
      };
      for (let mutant = 0; mutant < 40; mutant++) {
        const bad = Buffer.from(
          good.subarray(0, mutant % 4 === 0 ? random(good.length) : undefined),
        );
        for (let flips = mutant % 4; flips > 0; flips--) {
          const place = random(bad.length);
          bad[place] = (bad[place] ?? 0) ^ (1 << random(8));
        }
        writeFileSync(at, bad);
        const wanted = await copyToStream(at, { folder, options: { threads: 0 }, whole: true });
        codes.add(wanted.kind === 'refused' ? wanted.code : wanted.kind);
        for (const [count, threads] of pools) {
          const outcome = await copyToStream(at, { folder, options: { threads }, whole: true });
          expect(outcome, `mutant ${mutant}, ${count} threads`).toEqual(wanted);
        }
      }
      // Not all were refused, nor for one reason, nor taken.
      expect(codes.size).toBeGreaterThan(1);
    },
  );
});

describeWith(['xz', 'zstd', 'lz4', 'qemu-img'], 'bytes that are handed out', () => {
  test("are the receiver's, who may keep them", async () => {
    const folder = tempDir();
    const at = (name: string): string => join(folder, name);
    const part = Buffer.concat([noise(3 * MiB), Buffer.alloc(2 * MiB), noise(3 * MiB, 5)]);
    writeFileSync(at('part'), part);
    const lines = {
      'blocks.xz': 'xz -0 -T2 --block-size=1MiB -c part > blocks.xz',
      'part.zst': 'zstd -q part',
      'part.lz4': 'lz4 -q part part.lz4',
      'part.qcow2.zst': 'qemu-img convert -O qcow2 part part.qcow2 && zstd -q part.qcow2',
    };
    for (const [name, line] of Object.entries(lines)) {
      run('sh', ['-c', `cd ${folder} && ${line}`]);
      for (const threads of pools.values()) {
        const chunks: Chunk[] = [];
        for await (const chunk of chunksOf(at(name), { threads })) chunks.push(chunk as Chunk);
        const bytes = chunks.map((chunk) => {
          if (chunk.kind === 'zero') return Buffer.alloc(chunk.length);
          expect(chunk.bytes.buffer).toBeInstanceOf(ArrayBuffer);
          return chunk.bytes;
        });
        expect(Buffer.concat(bytes).equals(part), name).toBe(true);
        const kept: Buffer[] = [];
        const keeper = new Writable({
          write(piece: Buffer, _encoding, callback): void {
            kept.push(piece);
            callback();
          },
        });
        await sparsecopy(at(name), keeper, { threads });
        expect(Buffer.concat(kept).equals(part), name).toBe(true);
      }
    }
  });
});

describe('a pool', () => {
  test('is shared by copies that run at the same time, and outlives them', async () => {
    const folder = tempDir();
    const pool = makeThreads(2, true);
    onTestFinished(() => pool[Symbol.asyncDispose]());
    const names = ['deflate.qcow2', 'mixed.qcow2', 'deflate-4k.qcow2', 'plain.qcow2'];
    for (let turn = 0; turn < 3; turn++) {
      await Promise.all(
        names.map((name) =>
          sparsecopy(join(fixtures, 'good', name), join(folder, name), { threads: pool }),
        ),
      );
    }
    for (const name of names) {
      const json = readFileSync(join(fixtures, 'good', name.replace('.qcow2', '.json')), 'utf8');
      expect(sha256(readFileSync(join(folder, name))), name).toBe(
        (JSON.parse(json) as { sha256: string }).sha256,
      );
    }
  });

  test('that is closed during a copy fails it, and leaves nothing', async () => {
    const folder = tempDir();
    const pool = makeThreads(1, true);
    const src = makeCompressed(folder);
    const copy = sparsecopy(src, join(folder, 'dst'), { threads: pool });
    copy.catch(() => undefined);
    while (readdirSync(folder).length === 1) await new Promise((resolve) => setImmediate(resolve));
    await pool[Symbol.asyncDispose]();
    expect((await rejection(copy)).message).toMatch(/thread/);
    expect(readdirSync(folder)).toEqual(['src']);
  });

  test('that is closed before a copy fails it, and leaves nothing open', async () => {
    const folder = tempDir();
    const pool = makeThreads(2, true);
    await pool[Symbol.asyncDispose]();
    const src = makeCompressed(folder);
    const copy = sparsecopy(src, join(folder, 'dst'), { threads: pool });
    expect((await rejection(copy)).message).toMatch(/threads have been closed/);
    expect(readdirSync(folder)).toEqual(['src']);
    expect(readdirSync('/proc/self/fd').map(linkOf)).not.toContain(src);
  });

  test('and a caller that moves its share lets signals through', async () => {
    const folder = tempDir();
    run('sh', ['-c', `head -c 512M /dev/urandom > ${join(folder, 'src')}`]);
    const controller = new AbortController();
    const seen: number[] = [];
    const copy = sparsecopy(join(folder, 'src'), join(folder, 'dst'), {
      threads: pools.get(1),
      blocking: true,
      signal: controller.signal,
      onProgress({ diskSize }) {
        seen.push(diskSize);
        controller.abort(new Error('no more'));
      },
    });
    expect(await rejection(copy)).toMatchObject({ message: 'no more' });
    expect(seen[0]).toBeLessThan(512 * MiB);
    expect(readdirSync(folder)).toEqual(['src']);
  });

  test('that is closed while a stream is decoded fails it: nobody waits for a thread that has gone', async () => {
    const folder = tempDir();
    const pool = makeThreads(1, true);
    const source = stalling(run('zstd', ['-qc'], noise(3 * MiB)).subarray(0, -100_000));
    const copy = sparsecopy(source, join(folder, 'dst'), { threads: pool });
    copy.catch(() => undefined);
    while (readdirSync(folder).length === 0) await new Promise((resolve) => setImmediate(resolve));
    await pool[Symbol.asyncDispose]();
    await expect(pool.ask('decode', {})).rejects.toThrow(/closed/);
    source.push(Buffer.alloc(50_000));
    expect((await rejection(copy)).message).toMatch(/thread/);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('long zeros come in answers that end', async () => {
    const packed = run('sh', ['-c', 'head -c 3G /dev/zero | zstd -qc']);
    const report = await sparsecopy(pipeOf(packed, 1000), join(tempDir(), 'dst'), {
      threads: pools.get(1),
    });
    expect(report).toMatchObject({ virtualSize: 3 * 2 ** 30, diskSize: 0, bytesWritten: 0 });
  });

  test('keeps no process alive', () => {
    const line = `import { threadPool, sparsecopy } from ${JSON.stringify(join(import.meta.dirname, '..', 'dist', 'index.js'))};
      const threads = threadPool(2);
      await sparsecopy(process.argv[1], process.argv[2], { threads });
      threads.start?.();`;
    const folder = tempDir();
    writeFileSync(join(folder, 'src'), noise(100));
    const { status, stderr } = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', line, join(folder, 'src'), join(folder, 'dst')],
      { encoding: 'utf8', timeout: 20_000 },
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });

  test.each([-1, 1.5, NaN, 1000, Infinity])('%d threads are refused', async (count) => {
    expect(() => threadPool(count)).toThrow(RangeError);
    const copy = sparsecopy(Readable.from([]), new Writable(), { threads: count });
    expect(await rejection(copy)).toBeInstanceOf(RangeError);
  });
});

describeWith(
  ['qemu-img', 'mount'],
  'compressed clusters that pass once are written by threads',
  () => {
    /** A compressed image of 20 MiB. */
    function makeImage(): { readonly image: string; readonly packed: Buffer } {
      const folder = tempDir();
      const image = join(folder, 'image');
      const text = Buffer.from(noise(8 * MiB).toString('hex'));
      const parts = [text.subarray(0, 16 * MiB), Buffer.alloc(3 * MiB), noise(MiB)];
      writeFileSync(join(folder, 'disk'), Buffer.concat([...parts, text.subarray(0, 1000 * 512)]));
      run('sh', [
        '-c',
        `cd ${folder} && qemu-img convert -c -O qcow2 -o compression_type=zstd disk image`,
      ]);
      return { image, packed: readFileSync(image) };
    }

    /** Threads that tell what they are asked. */
    function watched(): { readonly threads: Threads; readonly jobs: Set<string> } {
      const jobs = new Set<string>();
      const pool = makeThreads(2, true);
      onTestFinished(() => pool[Symbol.asyncDispose]());
      const ask: Threads['ask'] = (job, message, transfer) => {
        jobs.add(job);
        return pool.ask(job, message, transfer);
      };
      return { threads: Object.create(pool, { ask: { value: ask } }) as Threads, jobs };
    }

    test('with the sizes and bytes of any other way', async () => {
      const path = join(tempDir(), 'dst');
      const { image, packed } = makeImage();
      const { threads, jobs } = watched();
      const sizesOf = (report: Report): object => {
        const { virtualSize, diskSize, allocatedSize, bytesWritten, sizeOnDisk } = report;
        return { virtualSize, diskSize, allocatedSize, bytesWritten, sizeOnDisk };
      };
      const wanted = sizesOf(await sparsecopy(image, path, { threads: 0 }));
      const bytes = readFileSync(path);
      const seen: Progress[] = [];
      const report = await sparsecopy(pipeOf(packed, 70_001), path, {
        threads,
        onProgress: (progress) => seen.push(progress),
      });
      expect(jobs).toEqual(new Set(['place-clusters']));
      expect(sizesOf(report)).toEqual(wanted);
      expect(readFileSync(path).equals(bytes)).toBe(true);
      const { virtualSize, diskSize } = report;
      expect(seen.at(-1)).toMatchObject({ virtualBytes: virtualSize, diskSize });
    });

    test.each([
      ['where somebody looks at what is written', { policy: 'untrusted' }],
      ['into what is there already', { overlay: true }],
      ['when not all is wanted', { maxWrite: 10 * MiB }],
      ['where blocks are larger than clusters', { blockSize: MiB }],
    ] as const)('but not %s', async (_, options) => {
      const path = join(tempDir(), 'dst');
      writeFileSync(path, 'old');
      const { packed } = makeImage();
      const { threads, jobs } = watched();
      await sparsecopy(pipeOf(packed, 70_001), path, { threads, ...options });
      expect(jobs).toEqual(new Set(['clusters']));
    });

    test('a full file system: ENOSPC, nothing left', async () => {
      const folder = tempDir();
      run('mount', ['-t', 'tmpfs', '-o', 'size=9000k', 'tmpfs', folder]);
      onTestFinished(() => void run('umount', [folder]));
      const { packed } = makeImage();
      const { threads } = watched();
      const copy = sparsecopy(pipeOf(packed, 70_001), join(folder, 'dst'), { threads });
      expect((await rejection(copy)).code).toBe('ENOSPC');
      expect(readdirSync(folder)).toEqual([]);
    });

    test('what is wrong with one of them is the error, wherever it is', async () => {
      const folder = tempDir();
      const { packed } = makeImage();
      const frames: number[] = [];
      const magic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
      for (let at = packed.indexOf(magic); at >= 0; at = packed.indexOf(magic, at + 1)) {
        frames.push(at);
      }
      expect(frames.length).toBeGreaterThan(100);
      for (const at of [frames[0], frames[100], frames.at(-1)]) {
        const bad = Buffer.from(packed);
        bad[(at ?? 0) + 4] = 0xff; // a reserved bit
        const wanted = await rejection(
          sparsecopy(pipeOf(bad, 70_001), join(folder, 'dst'), { threads: 0 }),
        );
        const { threads } = watched();
        const copy = sparsecopy(pipeOf(bad, 70_001), join(folder, 'dst'), { threads });
        expect(await rejection(copy)).toMatchObject({ code: wanted.code, message: wanted.message });
        expect(readdirSync(folder)).toEqual([]);
      }
    });

    test('an abort waits for them, and leaves nothing', async () => {
      const folder = tempDir();
      const { threads, jobs } = watched();
      const { packed } = makeImage();
      const controller = new AbortController();
      const source = stalling(packed.subarray(0, -50_000));
      const copy = sparsecopy(source, join(folder, 'dst'), { threads, signal: controller.signal });
      copy.catch(() => undefined);
      while (jobs.size === 0) await new Promise((resolve) => setImmediate(resolve));
      controller.abort(new Error('no more'));
      expect(await rejection(copy)).toMatchObject({ message: 'no more' });
      expect(readdirSync(folder)).toEqual([]);
      expect(readdirSync('/proc/self/fd').map(linkOf)).not.toContainEqual(
        expect.stringContaining(folder),
      );
    });
  },
);

describe('nothing waits for an input that never goes on', () => {
  test('when enough has come', async () => {
    const packed = run('zstd', ['-qc'], noise(3 * MiB));
    const target = join(tempDir(), 'dst');
    const source = stalling(packed.subarray(0, -100_000));
    const pool = pools.get(1);
    const report = await sparsecopy(source, target, { maxWrite: MiB, threads: pool });
    expect(report.virtualSize).toBe(MiB);
    expect(statSync(target).size).toBe(MiB);
  });

  test('when the copy is aborted', async () => {
    const packed = run('xz', ['-0c'], noise(3 * MiB));
    const folder = tempDir();
    const controller = new AbortController();
    const { signal } = controller;
    const source = stalling(packed.subarray(0, -100_000));
    const threads = pools.get(2);
    const copy = sparsecopy(source, join(folder, 'dst'), { signal, threads });
    copy.catch(() => undefined);
    setTimeout(() => controller.abort(new Error('enough')), 300);
    expect((await rejection(copy)).message).toBe('enough');
    expect(readdirSync(folder)).toEqual([]);
  });

  test('when the one who reads goes away', async () => {
    const packed = run('zstd', ['-qc'], Buffer.concat([Buffer.alloc(MiB), noise(3 * MiB)]));
    for await (const extent of map(stalling(packed.subarray(0, -100_000)), {
      threads: pools.get(1),
    })) {
      expect(extent).toEqual({ kind: 'zero', offset: 0, length: MiB });
      break;
    }
  });
});

test('memory stays bounded while a slow reader holds a thread back', () => {
  const cwd = fastTempDir();
  const folder = join(cwd, `sparsecopy-slow-${process.pid}`);
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  // Each compressed byte makes a hundred.
  const line = `mkdir ${folder} && cd ${folder} && head -c 3000000 /dev/urandom > part && for i in $(seq 100); do cat part; done | zstd -q --long=24 -o src.zst &&
    for name in src.zst; do /usr/bin/time -f "peak %M" $SC --threads 2 $name - | { sleep 2; cat > /dev/null; }; done`;
  const { status, stderr } = shell(line);
  expect(status).toBe(0);
  expect(Number(/peak (\d+)/.exec(stderr)?.[1])).toBeLessThan(200_000);
});

describe('errors keep what they are on their way between threads', () => {
  test('those of this package', () => {
    const cause = Object.assign(new Error('deep'), { code: 'EIO', errno: -5, syscall: 'read' });
    const details = { source: 'image', offset: 7, limit: 'ratio', found: 5n, expected: 'x', cause };
    const error = markStep(new SparsecopyError('LIMIT', 'is too much', details), 'source');
    const revived = reviveError(structuredClone(flattenError(error)));
    expect(revived).toBeInstanceOf(SparsecopyError);
    expect(revived).toMatchObject({ code: 'LIMIT', offset: 7, limit: 'ratio', source: 'image' });
    expect(revived).toMatchObject({ found: 5n, expected: 'x', name: 'SparsecopyError' });
    expect(revived.message).toBe('image: is too much');
    expect(stepOf(revived)).toBe('source');
    expect(revived.cause).toMatchObject({ message: 'deep', code: 'EIO', errno: -5 });
  });

  test('those of the system, and what is no error at all', () => {
    const error = Object.assign(new Error('EIO: i/o error'), { code: 'EIO', syscall: 'write' });
    const revived = reviveError(structuredClone(flattenError(markStep(error, 'write'))));
    expect(revived).toMatchObject({ message: 'EIO: i/o error', code: 'EIO', syscall: 'write' });
    expect(revived).not.toBeInstanceOf(SparsecopyError);
    expect(stepOf(revived)).toBe('write');
    expect(reviveError(flattenError('text')).message).toBe('text');
  });
});

describe('the command', () => {
  test('takes --threads and SPARSECOPY_THREADS', () => {
    const cwd = tempDir();
    const image = join(fixtures, 'good', 'deflate.qcow2');
    for (const threads of ['0', '1', '8']) {
      expect(command(['-q', '--threads', threads, image, 'dst'], { cwd }).status).toBe(0);
      const env = { SPARSECOPY_THREADS: threads };
      expect(command(['-q', image, 'dst'], { cwd, env }).status).toBe(0);
    }
    expect(command(['-q', image, 'dst'], { cwd, env: { SPARSECOPY_THREADS: '' } }).status).toBe(0);
  });

  test.each([
    [['--threads=x'], {}, "bad number 'x' for --threads"],
    [['--threads', '-1'], {}, "bad number '-1' for --threads"],
    [['--threads='], {}, "bad number '' for --threads"],
    [
      [],
      { SPARSECOPY_THREADS: 'many' },
      'SPARSECOPY_THREADS must be a whole number from 0 to 256, found many',
    ],
  ] as const)('refuses %j with %j', (options, env, message) => {
    const cwd = tempDir();
    const image = join(fixtures, 'good', 'deflate.qcow2');
    const outcome = command([...options, image, 'dst'], { cwd, env });
    expect(outcome).toMatchObject({ status: 1 });
    expect(outcome.stderr).toBe(`sparsecopy: ${message}\nTry 'sparsecopy --help'.\n`);
    expect(readdirSync(cwd)).toEqual([]);
  });
});
