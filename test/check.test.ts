/** `check`: the verdict of qemu-img on sound images, on damaged ones, and what there is beside a verdict. */

import { createReadStream, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { check } from '../src/check.ts';
import { bufferSource } from '../src/source/buffer.ts';
import type { Source } from '../src/types.ts';
import {
  compressed,
  expectSameVerdict,
  makeImage,
  ownVerdict,
  qemuIo,
  qemuVerdict,
  snapshot,
  structureOf,
  WRITES,
} from './check-helpers.ts';
import { inPieces, noise, rejection, tempDir, watchedSource } from './helpers.ts';
import { fixture } from './qcow2-helpers.ts';
import { describeWith, run } from './tools.ts';

describeWith(['qemu-img', 'qemu-io'], 'a sound image', () => {
  const clusterSizes = ['512', '1k', '4k', '64k', '2M'].map((size) => `cluster_size=${size}`);
  const refcountBits = [1, 2, 4, 8, 16, 32, 64].flatMap((bits) =>
    ['512', '64k'].map((size) => `refcount_bits=${bits},cluster_size=${size}`),
  );
  test.each([
    ...clusterSizes,
    ...refcountBits,
    'compat=0.10',
    'lazy_refcounts=on',
    'extended_l2=on,cluster_size=16k',
    'extended_l2=on,cluster_size=64k',
    'preallocation=metadata,cluster_size=4k',
    'preallocation=falloc',
  ])('made with %s', async (options) => {
    const { status, counts } = await expectSameVerdict(makeImage(tempDir(), options));
    expect(status).toBe(0);
    expect(counts?.['allocatedClusters']).toBeGreaterThan(0);
  });

  test('of a size that is no whole cluster, nor sector', async () => {
    const path = makeImage(tempDir(), 'cluster_size=4k', '3000321');
    expect((await expectSameVerdict(path)).counts).toMatchObject({ totalClusters: 733 });
  });

  test.each(['compat=0.10', 'cluster_size=512', 'refcount_bits=4', 'extended_l2=on'])(
    'with snapshots, %s',
    async (options) => {
      const path = makeImage(tempDir(), options);
      for (const name of ['a', 'b']) {
        snapshot(path, name);
        qemuIo(path, ['write -P 7 20k 50k', 'write -P 8 1M 20k']);
        expect((await expectSameVerdict(path)).status).toBe(0);
      }
      run('qemu-img', ['snapshot', '-a', 'a', path]);
      run('qemu-img', ['snapshot', '-d', 'b', path]);
      expect((await expectSameVerdict(path)).status).toBe(0);
    },
  );

  test.each(['cluster_size=512', 'cluster_size=64k'])('with bitmaps, %s', async (options) => {
    const path = makeImage(tempDir(), options);
    run('qemu-img', ['bitmap', '--add', '-g', '64k', path, 'one']);
    run('qemu-img', ['bitmap', '--add', '--enable', '-g', '512', path, 'two']);
    qemuIo(path, ['write 0 500k']);
    expect((await expectSameVerdict(path)).status).toBe(0);
    snapshot(path, 'a');
    expect((await expectSameVerdict(path)).status).toBe(0);
  });

  test.each([
    'cluster_size=512',
    'cluster_size=4k',
    'cluster_size=2M',
    'compression_type=zstd',
    'extended_l2=on',
  ])('with compressed clusters, %s', async (options) => {
    const path = compressed(makeImage(tempDir(), 'cluster_size=64k'), options);
    const { status, counts } = await expectSameVerdict(path);
    expect(status).toBe(0);
    expect(counts?.['compressedClusters']).toBeGreaterThan(0);
    snapshot(path, 'a');
    qemuIo(path, ['write 0 20k']);
    expect((await expectSameVerdict(path)).status).toBe(0);
  });

  test('that has grown and shrunk, and whose L1 table has moved', async () => {
    const path = makeImage(tempDir(), 'cluster_size=4k');
    run('qemu-img', ['resize', '-q', path, '200M']);
    qemuIo(path, ['write 150M 100k']);
    expect((await expectSameVerdict(path)).status).toBe(0);
    run('qemu-img', ['resize', '-q', '--shrink', path, '1M']);
    expect((await expectSameVerdict(path)).status).toBe(0);
  });

  test('over a backing file', async () => {
    const folder = tempDir();
    makeImage(folder, 'cluster_size=4k', '3M', 'base.qcow2');
    const path = join(folder, 'disk.qcow2');
    const args = ['-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'base.qcow2', path];
    run('qemu-img', ['create', ...args]);
    qemuIo(path, WRITES);
    expect((await expectSameVerdict(path)).status).toBe(0);
  });

  test.each(['', ',data_file_raw=on', ',extended_l2=on'])('with a data file%s', async (options) => {
    const folder = tempDir();
    const path = makeImage(folder, `data_file=${join(folder, 'data.raw')}${options}`);
    const { status, counts } = await expectSameVerdict(path);
    expect(status).toBe(0);
    expect(counts?.['allocatedClusters']).toBeGreaterThan(0);
  });

  test('that is encrypted', async () => {
    const folder = tempDir();
    const path = join(folder, 'disk.qcow2');
    const secret = ['--object', 'secret,id=key,data=sesame'];
    const options = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';
    run('qemu-img', ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, path, '3M']);
    const image = `driver=qcow2,file.filename=${path},encrypt.format=luks,encrypt.key-secret=key`;
    run('qemu-io', [...secret, '--image-opts', '-c', 'write 0 100k', image]);
    const verdict = await expectSameVerdict(path, [...secret, '--image-opts', image]);
    expect(verdict.status).toBe(0);
    // qemu-img opens nothing without a passphrase; here none is needed.
    expect(qemuVerdict(path).status).toBe(1);
    // The header of the encryption is in use, too.
    const bytes = readFileSync(path);
    const block = structureOf(bytes, 'refcount block');
    bytes.writeUInt16BE(0, block.offset + 2 * 5);
    writeFileSync(path, bytes);
    const damaged = await expectSameVerdict(path, [...secret, '--image-opts', image]);
    expect(damaged.status).toBe(2);
  });

  test('that is marked as dirty or corrupt: the mark is no finding', async () => {
    const path = makeImage(tempDir(), 'cluster_size=4k');
    const bytes = readFileSync(path);
    for (const bits of [1, 2, 3]) {
      bytes.writeUInt8(bits, 79);
      writeFileSync(path, bytes);
      expect((await expectSameVerdict(path)).status).toBe(0);
    }
  });
});

describeWith(['qemu-img', 'qemu-io'], 'where qemu-img says something else', () => {
  test('nothing that an image names is opened, so it need not be there', async () => {
    const folder = tempDir();
    const base = join(folder, 'base.raw');
    writeFileSync(base, 'x'.repeat(65536));
    const overlay = join(folder, 'overlay.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', base, overlay]);
    const data = join(folder, 'data.raw');
    const outside = makeImage(folder, `data_file=${data}`);
    for (const [path, other] of [
      [overlay, base],
      [outside, data],
    ] as const) {
      expect((await expectSameVerdict(path)).status).toBe(0);
      rmSync(other);
      expect(qemuVerdict(path).status).toBe(1);
      expect((await ownVerdict(path)).status).toBe(0);
    }
  });

  test('a disk of 2^53 bytes and more has no verdict', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', path, '16P']);
    expect(qemuVerdict(path).status).toBe(0);
    expect((await ownVerdict(path)).error).toMatchObject({ code: 'LIMIT', limit: 'virtualSize' });
  });
});

describeWith(['qemu-img', 'qemu-io'], 'a check that ends early', () => {
  test.each(['it is told to', 'a read fails'])('since %s, has nothing under way', async (why) => {
    const path = join(tempDir(), 'disk.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '2G']);
    // L2 tables far from each other: the next one is read while one is looked at
    qemuIo(path, ['write 0 300k', 'write 512M 300k', 'write 1G 300k', 'write 1536M 300k']);
    // and the first of them has a cluster behind the end, whose refcount has to be read, too
    qemuIo(path, ['write 1M 64k']);
    const image = readFileSync(path);
    const bytes = bufferSource(image.subarray(0, image.length - 65536));
    let underWay = 0;
    for (let endAt = 0, isEnded = true; isEnded; endAt++) {
      const stop = new AbortController();
      const enough = new Error('enough');
      let reads = 0;
      isEnded = false;
      const slow: Source = {
        ...bytes,
        async read(into, offset): Promise<void> {
          underWay++;
          const isLast = reads++ === endAt;
          if (isLast) isEnded = true;
          if (isLast && why === 'it is told to') stop.abort(enough);
          await new Promise((resolve) => setTimeout(resolve, isLast ? 1 : 3));
          underWay--;
          if (isLast && why === 'a read fails') throw enough;
          await bytes.read(into, offset);
        },
      };
      const outcome = await check(slow, { signal: stop.signal }).catch((error: unknown) => error);
      expect(underWay, `ended at read ${endAt}`).toBe(0);
      if (outcome instanceof Error) expect(outcome).toBe(enough);
      else expect(outcome).toMatchObject({ verdict: 'corrupt' });
    }
  });
});

describe('beside a verdict', () => {
  const image = fixture('good', 'snapshot');
  const clusterSize = 2 ** image.readUInt32BE(20);

  const table = structureOf(image, 'refcount table').offset / clusterSize;

  /** The refcount of the header is too low, and that of the refcount table too high. */
  function damaged(): Buffer {
    const bytes = Buffer.from(image);
    const { offset } = structureOf(bytes, 'refcount block');
    bytes.writeUInt16BE(0, offset);
    bytes.writeUInt16BE(300, offset + 2 * table);
    return bytes;
  }

  test('problems have a place, what was found and what was expected', async () => {
    const { problems, ...report } = await check(bufferSource(damaged(), 'disk.qcow2'));
    expect(report).toMatchObject({
      name: 'disk.qcow2',
      format: 'qcow2',
      codecs: [],
      verdict: 'corrupt',
      corruptions: 1,
      leaks: 1,
      checkErrors: 0,
    });
    expect(problems).toEqual([
      {
        kind: 'corruption',
        offset: 0,
        sentence: 'cluster 0 at 0 has refcount 0, and 1 references',
      },
      {
        kind: 'leak',
        offset: table * clusterSize,
        sentence: `cluster ${table} at ${table * clusterSize} has refcount 300, and 1 references`,
      },
    ]);
  });

  test('all problems are counted, and some are told of', async () => {
    const bytes = Buffer.from(image);
    const { offset, length } = structureOf(bytes, 'refcount block');
    bytes.fill(0, offset, offset + length);
    const all = await check(bufferSource(bytes));
    const some = await check(bufferSource(bytes), { maxProblems: 3 });
    const none = await check(bufferSource(bytes), { maxProblems: 0 });
    expect(all.problems.length).toBe(all.corruptions);
    expect(some).toEqual({ ...all, problems: all.problems.slice(0, 3) });
    expect(none).toEqual({ ...all, problems: [] });
  });

  test('an image in a compression, a stream or a pipe is kept in a temporary file', async () => {
    const wanted = await check(bufferSource(damaged()));
    const counts = { verdict: wanted.verdict, problems: wanted.problems };
    expect(await check(inPieces(damaged(), 777))).toMatchObject({ ...counts, codecs: [] });
    expect(await check(bufferSource(gzipSync(damaged())))).toMatchObject({
      ...counts,
      codecs: ['gzip'],
    });
    const path = join(tempDir(), 'disk.qcow2.gz');
    writeFileSync(path, gzipSync(damaged()));
    expect(await check(createReadStream(path))).toMatchObject({ ...counts, codecs: ['gzip'] });
  });

  test('a raw image has no checks', async () => {
    const refusal = { code: 'UNSUPPORTED', feature: 'check' };
    await expect(check(bufferSource(noise(5000)))).rejects.toMatchObject(refusal);
    await expect(check(inPieces(noise(5000), 100))).rejects.toMatchObject(refusal);
  });

  test('whichever read fails, its error comes out, and nothing goes on behind it', async () => {
    // Entries that point beyond the end have their refcounts looked up one by one.
    const cut = image.subarray(0, image.length - 3 * clusterSize);
    for (const bytes of [image, cut]) {
      const wanted = await check(bufferSource(bytes));
      let failAt = 0;
      for (; ; failAt++) {
        const source = watchedSource(bufferSource(bytes), failAt);
        const { reads } = source;
        try {
          expect(await check(source)).toEqual(wanted);
          break;
        } catch (error) {
          expect(error).toMatchObject({ code: 'EIO' });
          const after = source.reads;
          await new Promise((resolve) => setTimeout(resolve, 1));
          expect(source.reads).toBe(after);
          expect(after).toBeGreaterThan(reads);
        }
      }
      expect(failAt).toBeGreaterThan(5);
    }
  });

  test('it can be ended', async () => {
    const stop = new AbortController();
    stop.abort(new Error('enough'));
    await expect(check(bufferSource(image), { signal: stop.signal })).rejects.toThrow('enough');
    const later = new AbortController();
    const source = watchedSource(bufferSource(image));
    const slow = {
      ...source,
      read(into: Uint8Array, offset: number): Promise<void> {
        if (offset > 0) later.abort(new Error('enough'));
        return source.read(into, offset);
      },
    };
    await expect(check(slow, { signal: later.signal })).rejects.toThrow('enough');
  });

  test('a file of 2^31 clusters, or with too many in use, is refused before it is counted', async () => {
    const head = Buffer.alloc(65536);
    image.copy(head);
    head.writeUInt32BE(9, 20);
    head.writeUInt32BE(0, 60);
    const source = (size: number): Source => ({
      ...bufferSource(head, 'disk.qcow2'),
      size,
      read(into: Uint8Array, offset: number): Promise<void> {
        into.fill(0);
        if (offset < head.length) into.set(head.subarray(offset, offset + into.length));
        return Promise.resolve();
      },
    });
    const error = await rejection(check(source(2 ** 40)));
    expect(error).toMatchObject({ code: 'LIMIT', found: 2 ** 31 });
    // LUKS, and its header all of the file, with refcounts of 64 bits
    head.writeUInt32BE(2, 32);
    head.writeUInt32BE(6, 96);
    const at = head.readUInt32BE(100);
    head.writeUInt32BE(0x0537be77, at);
    head.writeUInt32BE(16, at + 4);
    head.writeBigUInt64BE(2n ** 34n, at + 16);
    head.fill(0, at + 24, 512);
    const many = await rejection(check(source(2 ** 34)));
    expect(many).toMatchObject({ code: 'LIMIT', expected: 128 * 1024 * 1024 });
  });
});
