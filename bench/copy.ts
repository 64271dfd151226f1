/**
 * Whole commands, ours against what a user would type today, alternating in one run: wall time as ratios, and peak memory.
 *
 *     npm run bench [-- --runs N] [--rows raw,gz] [--check]
 *     npm run bench -- --growth
 */

import { spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from '../test/native.ts';
import { measureGrowth } from './growth.ts';
import { folder, image, type ImageName } from './images.ts';

interface Row {
  readonly name: string;
  readonly image: ImageName;
  /** What a user would type; the shell sees `$IN` and `$OUT`. */
  readonly peer: string;
  /** Ours, where it is not the plain copy. */
  readonly ours?: string;
}

const plain = 'sparsecopy -q "$IN" "$OUT"';

const rows: readonly Row[] = [
  { name: 'raw', image: 'disk.raw', peer: 'cp --sparse=always "$IN" "$OUT"' },
  { name: 'qcow2', image: 'disk.qcow2', peer: 'qemu-img convert -W -O raw "$IN" "$OUT"' },
  {
    name: 'synced',
    image: 'disk.qcow2',
    peer: 'qemu-img convert -W -t writeback -O raw "$IN" "$OUT"',
  },
  {
    name: 'deflate',
    image: 'disk-deflate.qcow2',
    peer: 'qemu-img convert -W -m 16 -O raw "$IN" "$OUT"',
  },
  { name: 'zstd', image: 'disk-zstd.qcow2', peer: 'qemu-img convert -W -m 16 -O raw "$IN" "$OUT"' },
  {
    name: 'piped',
    image: 'disk-deflate.qcow2',
    ours: 'cat "$IN" | sparsecopy -q - "$OUT"',
    peer: 'cat "$IN" > "$OUT.tmp" && qemu-img convert -W -O raw "$OUT.tmp" "$OUT" && rm "$OUT.tmp"',
  },
  {
    name: 'lz4',
    image: 'disk.raw.lz4',
    peer: 'lz4 -q -d --sparse "$IN" "$OUT"',
  },
  {
    name: 'gz',
    image: 'disk.raw.gz',
    peer: 'gzip -dc "$IN" | dd of="$OUT" bs=1M conv=sparse iflag=fullblock status=none',
  },
  {
    name: 'xz',
    image: 'disk.raw.xz',
    peer: 'xz -dc "$IN" | dd of="$OUT" bs=1M conv=sparse iflag=fullblock status=none',
  },
  {
    name: 'blocks',
    image: 'disk-blocks.raw.xz',
    peer: 'xz -dc -T2 "$IN" | dd of="$OUT" bs=1M conv=sparse iflag=fullblock status=none',
  },
  {
    name: 'zst',
    image: 'disk.raw.zst',
    peer: 'zstd -q -dc "$IN" | dd of="$OUT" bs=1M conv=sparse iflag=fullblock status=none',
  },
];

interface Measured {
  readonly seconds: number;
  /** Peak resident memory of the largest process, in MB. */
  readonly memory: number;
}

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    rows: { type: 'string' },
    check: { type: 'boolean', default: false },
    growth: { type: 'boolean', default: false },
  },
});
const runs = Number(values.runs);
const chosen = values.rows?.split(',');
const command = join(import.meta.dirname, '..', 'dist', 'sparsecopy.js');
const out = join(folder, 'out.raw');
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const ours = `${quote(process.execPath)} ${quote(command)}`;

/** Runs `line` in a shell, to a new output. */
function measure(line: string, input: string): Measured {
  rmSync(out, { force: true });
  const started = process.hrtime.bigint();
  const { status, stderr } = spawnSync('/usr/bin/time', ['-f', '%M', 'sh', '-c', line], {
    env: { ...process.env, IN: input, OUT: out },
    encoding: 'utf8',
  });
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  if (status !== 0) throw new Error(`${line}: exit ${status ?? -1}: ${stderr}`);
  return { seconds, memory: (Number(stderr.trim().split('\n').at(-1)) * 1024) / 1e6 };
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? NaN) + (sorted[Math.ceil(middle)] ?? NaN)) / 2;
}

if (!existsSync(command)) throw new Error(`${command} is not there: npm run build`);
if (!existsSync('/usr/bin/time')) throw new Error('/usr/bin/time is not there: apt install time');

if (values.growth) {
  measureGrowth((input) => measure(plain.replace('sparsecopy', ours), input));
  process.exit();
}

console.log(
  `Node ${process.version}, ${cpus().length} cores (${cpus()[0]?.model ?? ''}), ${Math.round(totalmem() / 2 ** 30)} GiB, ${runs} runs\n`,
);
console.log('| row | peer | ours s | peer s | ours / peer | range | ours MB |');
console.log('|---|---|---:|---:|---:|---|---:|');
for (const row of rows) {
  if (chosen !== undefined && !chosen.includes(row.name)) continue;
  const input = image(row.image);
  const line = (row.ours ?? plain).replace(/\bsparsecopy\b/, ours);
  const results: { a: Measured; b: Measured }[] = [];
  // One of each first, not counted: the page cache is warm for both from then on.
  for (let turn = -1; turn < runs; turn++) {
    const a = measure(line, input);
    if (turn === -1 && values.check) run('cmp', [out, image('disk.raw')]);
    const b = measure(row.peer, input);
    if (turn >= 0) results.push({ a, b });
  }
  const ratios = results.map(({ a, b }) => a.seconds / b.seconds);
  const cells = [
    row.name,
    `\`${row.peer.replace(/ "\$IN"| "\$OUT"| of="\$OUT"| iflag=fullblock| status=none/g, '').replaceAll('|', '\\|')}\``,
    median(results.map(({ a }) => a.seconds)).toFixed(2),
    median(results.map(({ b }) => b.seconds)).toFixed(2),
    `**${median(ratios).toFixed(2)}**`,
    `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`,
    Math.max(...results.map(({ a }) => a.memory)).toFixed(0),
  ];
  console.log(`| ${cells.join(' | ')} |`);
}
rmSync(out, { force: true });
