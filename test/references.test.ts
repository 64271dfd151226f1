/** What an image names is opened only as far as the caller allows it. */

import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { info, sparsecopy, type OpenOptions } from '../src/index.ts';
import { run } from './native.ts';
import { describeWith } from './tools.ts';

const MiB = 1024 * 1024;

describeWith(['qemu-img', 'qemu-io'], 'backing files', () => {
  /** base.raw <- middle.qcow2 <- top.qcow2, each with a MiB of its own; `up` names a file outside, `abs` by its full path. */
  const folder = mkdtempSync(join(tmpdir(), 'sparsecopy-test-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const inner = join(folder, 'inner');
  const path = (name: string): string => join(inner, name);

  const overlay = (name: string, backing: string, format = 'qcow2', size?: string): void => {
    const args = ['create', '-q', '-u', '-f', 'qcow2', '-F', format, '-b', backing, path(name)];
    execFileSync('qemu-img', [...args, size ?? '4M'], { cwd: inner });
  };
  const write = (name: string, format: string, pattern: number, at: string): void => {
    run('qemu-io', ['-f', format, '-c', `write -P ${pattern} ${at} 1M`, path(name)]);
  };
  const copy = async (source: string, options: OpenOptions = {}): Promise<Buffer> => {
    const out = join(folder, `out-${Math.random()}`);
    await sparsecopy(source, out, options);
    return readFileSync(out);
  };
  const expected = (...patterns: number[]): Buffer =>
    Buffer.concat(patterns.map((pattern) => Buffer.alloc(MiB, pattern)));

  beforeAll(() => {
    mkdirSync(inner);
    run('qemu-img', ['create', '-q', '-f', 'raw', path('base.raw'), '4M']);
    write('base.raw', 'raw', 1, '0');
    overlay('middle.qcow2', 'base.raw', 'raw');
    write('middle.qcow2', 'qcow2', 2, '1M');
    overlay('top.qcow2', 'middle.qcow2');
    write('top.qcow2', 'qcow2', 3, '2M');
    copyFileSync(path('base.raw'), join(folder, 'outside.raw'));
    overlay('up.qcow2', '../outside.raw', 'raw');
    overlay('abs.qcow2', path('base.raw'), 'raw');
    overlay('json.qcow2', 'json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}');
    overlay('nbd.qcow2', 'nbd:localhost:10809');
    overlay('self.qcow2', 'self.qcow2');
    overlay('loop-a.qcow2', 'loop-b.qcow2');
    overlay('loop-b.qcow2', 'loop-a.qcow2');
    overlay('gone.qcow2', 'nothing-here.raw', 'raw');
    overlay('folder.qcow2', '.', 'raw');
    overlay('lies.qcow2', 'base.raw', 'qcow2');
    symlinkSync(join(folder, 'outside.raw'), path('link.raw'));
    overlay('link.qcow2', 'link.raw', 'raw');
  });

  test('are refused by default, and described all the same', async () => {
    await expect(copy(path('top.qcow2'))).rejects.toMatchObject({ code: 'REFERENCE' });
    expect(await info(path('top.qcow2'))).toMatchObject({ backingFile: 'middle.qcow2' });
  });

  test('are opened in the folder of the image when references are allowed', async () => {
    const bytes = await copy(path('top.qcow2'), { allowReferences: true });
    expect(bytes.equals(expected(1, 2, 3, 0))).toBe(true);
    expect(
      (await copy(path('abs.qcow2'), { allowReferences: true })).equals(expected(1, 0, 0, 0)),
    ).toBe(true);
  });

  test.each(['up.qcow2', 'link.qcow2'])(
    '%s names a file outside, which is refused',
    async (name) => {
      await expect(copy(path(name), { allowReferences: true })).rejects.toMatchObject({
        code: 'REFERENCE',
        message: expect.stringContaining('outside') as string,
      });
      expect(
        (await copy(path(name), { allowReferences: folder })).equals(expected(1, 0, 0, 0)),
      ).toBe(true);
    },
  );

  test.each([
    ['json.qcow2', 'protocols'],
    ['nbd.qcow2', 'protocols'],
    ['self.qcow2', 'leads back'],
    ['loop-a.qcow2', 'leads back'],
    ['gone.qcow2', 'cannot be opened'],
    ['folder.qcow2', 'a directory'],
  ])('%s is refused: %s', async (name, why) => {
    await expect(copy(path(name), { allowReferences: true })).rejects.toMatchObject({
      code: 'REFERENCE',
      message: expect.stringContaining(why) as string,
    });
  });

  test('a backing file that is not what the image says it is', async () => {
    await expect(copy(path('lies.qcow2'), { allowReferences: true })).rejects.toMatchObject({
      code: 'FORMAT',
    });
  });

  test('a chain that is too long is refused', async () => {
    overlay('c0.qcow2', 'base.raw', 'raw');
    for (let i = 1; i <= 11; i++) overlay(`c${i}.qcow2`, `c${i - 1}.qcow2`);
    expect(
      (await copy(path('c9.qcow2'), { allowReferences: true })).equals(expected(1, 0, 0, 0)),
    ).toBe(true);
    await expect(copy(path('c11.qcow2'), { allowReferences: true })).rejects.toMatchObject({
      code: 'LIMIT',
      limit: 'referenceDepth',
    });
  });

  test('the caller may name the backing file', async () => {
    const bytes = await copy(path('gone.qcow2'), { backing: path('base.raw') });
    expect(bytes.equals(expected(1, 0, 0, 0))).toBe(true);
    // What that one names is another matter.
    await expect(copy(path('gone.qcow2'), { backing: path('top.qcow2') })).rejects.toMatchObject({
      code: 'REFERENCE',
    });
  });

  test('the caller may resolve names', async () => {
    const asked: [string, string | undefined][] = [];
    const resolveReference = (name: string, format: string | undefined): string | undefined => {
      asked.push([name, format]);
      return name === 'nothing-here.raw' ? path('base.raw') : undefined;
    };
    expect(
      (await copy(path('gone.qcow2'), { resolveReference })).equals(expected(1, 0, 0, 0)),
    ).toBe(true);
    expect(asked).toEqual([['nothing-here.raw', 'raw']]);
    await expect(copy(path('top.qcow2'), { resolveReference })).rejects.toMatchObject({
      code: 'REFERENCE',
    });
  });

  test('backing files of other sizes', async () => {
    overlay('longer.qcow2', 'base.raw', 'raw', '6M');
    overlay('shorter.qcow2', 'base.raw', 'raw', '512k');
    const longer = await copy(path('longer.qcow2'), { allowReferences: true });
    expect(longer.equals(expected(1, 0, 0, 0, 0, 0))).toBe(true);
    const shorter = await copy(path('shorter.qcow2'), { allowReferences: true });
    expect(shorter.equals(Buffer.alloc(MiB / 2, 1))).toBe(true);
  });

  test('an image from a pipe names files in the working directory', async () => {
    const here = process.cwd();
    process.chdir(inner);
    try {
      const out = join(folder, 'piped.raw');
      await sparsecopy(createReadStream('top.qcow2'), out, { allowReferences: true });
      expect(readFileSync(out).equals(expected(1, 2, 3, 0))).toBe(true);
    } finally {
      process.chdir(here);
    }
  });

  test('what is read counts, and may not be the destination', async () => {
    const report = await sparsecopy(path('top.qcow2'), join(folder, 'counted.raw'), {
      allowReferences: true,
    });
    expect(report.bytesRead).toBeGreaterThan(3 * MiB);
    await expect(
      sparsecopy(path('top.qcow2'), path('base.raw'), { allowReferences: true }),
    ).rejects.toMatchObject({ code: 'DESTINATION' });
  });
});
