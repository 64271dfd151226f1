/** The images that the benchmark copies: made once, from one real disk. */

import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { makeDisk } from '../test/disk.ts';
import { run } from '../test/native.ts';

const GiB = 2 ** 30;

/** The folder of the images and outputs: on the file system that is to be measured. */
export const folder: string = process.env['BENCH_DIR'] ?? join(import.meta.dirname, 'images');

/** How each image is made from the raw disk; the shell sees `$RAW` and `$OUT`. */
const recipes = {
  'disk.qcow2': 'qemu-img convert -O qcow2 "$RAW" "$OUT"',
  'disk-deflate.qcow2': 'qemu-img convert -c -O qcow2 "$RAW" "$OUT"',
  'disk-zstd.qcow2': 'qemu-img convert -c -O qcow2 -o compression_type=zstd "$RAW" "$OUT"',
  'disk.raw.lz4': 'lz4 -q -1 "$RAW" "$OUT"',
  'disk.raw.gz': 'gzip -1 -c "$RAW" > "$OUT"',
  'disk.raw.xz': 'xz -1 -T1 -c "$RAW" > "$OUT"',
  'disk-blocks.raw.xz': 'xz -1 -T2 --block-size=16MiB -c "$RAW" > "$OUT"',
  'disk.raw.zst': 'zstd -q -3 -c "$RAW" > "$OUT"',
} as const;

export type ImageName = 'disk.raw' | keyof typeof recipes;

/** The path of the image called `name`, made if it is not there yet. */
export function image(name: ImageName): string {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, name);
  if (existsSync(path)) return path;
  process.stderr.write(`making ${path}\n`);
  const unfinished = `${path}.new`;
  if (name === 'disk.raw') makeDisk(unfinished, { size: 4 * GiB, data: 0.8e9 });
  else {
    const raw = image('disk.raw');
    run('env', [`RAW=${raw}`, `OUT=${unfinished}`, 'sh', '-c', `rm -f "$OUT"; ${recipes[name]}`]);
  }
  renameSync(unfinished, path);
  return path;
}
