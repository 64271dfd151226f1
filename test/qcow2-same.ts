/** Asks whether a qcow2 image is to us what it is to qemu-img: its content in reads of several sizes, and its extents. */

import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { expect } from 'vitest';
import { isZero } from '../src/bytes.ts';
import { formats } from '../src/format/index.ts';
import { qcow2 } from '../src/format/qcow2/index.ts';
import { openFile } from '../src/source/file.ts';
import type { Disk, Extent, OpenContext, Reference } from '../src/types.ts';
import { allExtents, context, expectSound, readAll } from './qcow2-helpers.ts';
import { run } from './tools.ts';

/** The secret that `encrypted` gives to qemu. */
export const PASSPHRASE = 'open sesame';

export interface SameOptions extends Partial<OpenContext> {
  /** What tells qemu-img which image to open, default the path as qcow2. */
  readonly source?: readonly string[];
}

/** A context that opens what images in `folder` name, whatever it is. */
export function referring(folder: string, more: Partial<OpenContext> = {}): OpenContext {
  return {
    ...context,
    ...more,
    async openReference({ name, format, kind }: Reference): Promise<Disk> {
      const path = resolve(folder, name);
      const wanted = kind === 'data file' ? 'raw' : format;
      const found = formats.find((candidate) => candidate.name === wanted);
      if (found === undefined) throw new Error(`no format ${String(wanted)} for ${name}`);
      const file = await openFile(path);
      const { passphrase } = more;
      return found.open(file, referring(dirname(path), passphrase && { passphrase }));
    },
  };
}

/** Opens the image at `path` with all that it names. */
export async function openImage(path: string, more: Partial<OpenContext> = {}): Promise<Disk> {
  return qcow2.open(await openFile(path), referring(dirname(path), more));
}

/** What tells qemu-img to open the encrypted image at `path`. */
export function encrypted(path: string): string[] {
  return [
    '--object',
    `secret,id=key,data=${PASSPHRASE}`,
    '--image-opts',
    `driver=qcow2,file.filename=${path},encrypt.key-secret=key`,
  ];
}

/** The extents that qemu-img sees; in a copy without holes, since it takes those of the image file into account. */
function qemuExtents(path: string): Extent[] {
  const dense = `${path}.dense`;
  writeFileSync(dense, readFileSync(path));
  const map = JSON.parse(
    run('qemu-img', ['map', '-f', 'qcow2', '--output=json', dense]).toString(),
  ) as { start: number; length: number; zero: boolean }[];
  const extents: Extent[] = [];
  for (const { start, length, zero } of map) {
    const kind = zero ? 'zero' : 'data';
    const last = extents.at(-1);
    if (last?.kind === kind) extents.splice(-1, 1, { ...last, length: last.length + length });
    else extents.push({ kind, offset: start, length });
  }
  return extents;
}

/** Asserts that the content of the image at `path` is to us what qemu-img converts it to. */
export async function expectSameContent(path: string, options: SameOptions = {}): Promise<void> {
  const { source = ['-f', 'qcow2', path], ...more } = options;
  const rawPath = `${path}.raw`;
  run('qemu-img', ['convert', '-O', 'raw', ...source, rawPath]);
  await using disk = await openImage(path, more);
  const wanted = readFileSync(rawPath);
  expect(disk.size).toBe(wanted.length);
  for (const step of [1024 * 1024, 333_333]) {
    expect((await readAll(disk, step)).equals(wanted), `reads of ${step} bytes`).toBe(true);
  }
}

/** Asserts that the image at `path` is to us what it is to qemu-img, also its extents. */
export async function expectSame(path: string): Promise<Disk['details']> {
  await expectSameContent(path);
  await using disk = await openImage(path);
  expect(await allExtents(disk)).toEqual(qemuExtents(path));
  return disk.details;
}

/** As `expectSame`, but we may know of more zeros: qemu-img does not always look for holes in a data file. */
export async function expectNoLess(path: string): Promise<Disk['details']> {
  await expectSameContent(path);
  await using disk = await openImage(path);
  const content = await readAll(disk);
  const extents = await allExtents(disk);
  expectSound(extents, 0, disk.size);
  const wanted = qemuExtents(path);
  for (const { kind, offset, length } of extents) {
    const end = offset + length;
    if (kind === 'zero') expect(isZero(content, offset, end)).toBe(true);
    else {
      const isZeroToQemu = wanted.some(
        (other) =>
          other.kind === 'zero' && other.offset < end && other.offset + other.length > offset,
      );
      expect(isZeroToQemu, `${offset} to ${end}`).toBe(false);
    }
  }
  return disk.details;
}
