/** How the time of a copy, and its memory, grow with the data in the disk, and with the disk around them. */

import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { run } from '../test/native.ts';
import { folder } from './images.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const TiB = 2 ** 40;

/** Copies of a row; the fastest one counts, the first one only warms up. */
const TURNS = 4;

interface Measured {
  readonly seconds: number;
  readonly memory: number;
}

/** Makes a raw disk of `size` bytes, with `data` of them in pieces of 16 MiB, evenly spread. */
function makeDisk(path: string, size: number, data: number): void {
  const piece = randomBytes(16 * MiB);
  const count = data / piece.length;
  const file = openSync(path, 'w');
  for (let at = 0; at < count; at++) {
    writeSync(file, piece, 0, piece.length, Math.floor(((size / count) * at) / MiB) * MiB);
  }
  ftruncateSync(file, size);
  closeSync(file);
}

/** Prints a table; `copy` copies the image of the given name once. */
export function measureGrowth(copy: (image: string) => Measured): void {
  const raw = join(folder, 'growth.raw');
  const qcow2 = join(folder, 'growth.qcow2');
  console.log('| format | size GiB | data GiB | seconds | MB |');
  console.log('|---|---:|---:|---:|---:|');
  const rows = [
    ...[0.25, 0.5, 1, 2, 4].map((data) => ({ size: 8 * GiB, data: data * GiB })),
    // ext4 has no file of 16 TiB
    ...[GiB, 64 * GiB, TiB, 15 * TiB].map((size) => ({ size, data: 0.5 * GiB })),
  ];
  for (const { size, data } of rows) {
    makeDisk(raw, size, data);
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=2M', raw, qcow2]);
    for (const [format, image] of [
      ['raw', raw],
      ['qcow2', qcow2],
    ] as const) {
      const turns = Array.from({ length: TURNS }, () => copy(image)).slice(1);
      const seconds = Math.min(...turns.map((turn) => turn.seconds)).toFixed(2);
      const memory = Math.max(...turns.map((turn) => turn.memory)).toFixed(0);
      console.log(`| ${format} | ${size / GiB} | ${data / GiB} | ${seconds} | ${memory} |`);
    }
  }
  for (const path of [raw, qcow2]) rmSync(path);
  rmSync(join(folder, 'out.raw'), { force: true });
}
