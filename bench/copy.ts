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
  /** The peer ends with its file on the disk, as ours does by default; it does not where this is absent. */
  readonly isSynced?: true;
}

const plain = 'sparsecopy -q "$IN" "$OUT"';

const rows: readonly Row[] = [
  { name: 'raw', image: 'disk.raw', peer: 'cp --sparse=always "$IN" "$OUT"' },
  { name: 'qcow2', image: 'disk.qcow2', peer: 'qemu-img convert -W -O raw "$IN" "$OUT"' },
  {
    name: 'raw-synced',
    image: 'disk.raw',
    peer: 'cp --sparse=always "$IN" "$OUT" && sync "$OUT"',
    isSynced: true,
  },
  {
    name: 'qcow2-synced',
    image: 'disk.qcow2',
    peer: 'qemu-img convert -W -t writeback -O raw "$IN" "$OUT"',
    isSynced: true,
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

/** Where it is set, each start of Node reads all certificates, 0.1 s; copies of files need none. */
const environment = { ...process.env, NODE_EXTRA_CA_CERTS: undefined };

/** Runs `line` in a shell, to a new output. */
function measure(line: string, input: string): Measured {
  rmSync(out, { force: true });
  const started = process.hrtime.bigint();
  const { status, stderr } = spawnSync('/usr/bin/time', ['-f', '%M', 'sh', '-c', line], {
    env: { ...environment, IN: input, OUT: out },
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

/** Median and range. */
function ratioCells(ratios: readonly number[]): string[] {
  const [least, most] = [Math.min(...ratios), Math.max(...ratios)];
  return [`**${median(ratios).toFixed(2)}**`, `${least.toFixed(2)} to ${most.toFixed(2)}`];
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
console.log(
  '| row | peer | ours s | without sync s | peer s | ours / peer | range | without sync / peer | range | ours MB |',
);
console.log('|---|---|---:|---:|---:|---:|---|---:|---|---:|');
for (const row of rows) {
  if (chosen !== undefined && !chosen.includes(row.name)) continue;
  const input = image(row.image);
  const line = (row.ours ?? plain).replace(/\bsparsecopy\b/, ours);
  const withoutSync = line.replace(' -q ', ' -q --no-sync ');
  const turns: { ours: Measured; unsynced: Measured | undefined; peer: Measured }[] = [];
  // One of each first, not counted: the page cache is warm for all from then on.
  for (let turn = -1; turn < runs; turn++) {
    const own = measure(line, input);
    if (turn === -1 && values.check) run('cmp', [out, image('disk.raw')]);
    const peer = measure(row.peer, input);
    const unsynced = row.isSynced ? undefined : measure(withoutSync, input);
    if (turn >= 0) turns.push({ ours: own, unsynced, peer });
  }
  const cells = [
    row.name,
    `\`${row.peer.replace(/ "\$IN"| "\$OUT"| of="\$OUT"| iflag=fullblock| status=none/g, '').replaceAll('|', '\\|')}\``,
    median(turns.map(({ ours: { seconds } }) => seconds)).toFixed(2),
    row.isSynced ? '' : median(turns.map(({ unsynced }) => unsynced?.seconds ?? NaN)).toFixed(2),
    median(turns.map(({ peer: { seconds } }) => seconds)).toFixed(2),
    ...ratioCells(turns.map(({ ours: { seconds }, peer }) => seconds / peer.seconds)),
    ...(row.isSynced
      ? ['', '']
      : ratioCells(turns.map(({ unsynced, peer }) => (unsynced?.seconds ?? NaN) / peer.seconds))),
    Math.max(...turns.map(({ ours: { memory } }) => memory)).toFixed(0),
  ];
  console.log(`| ${cells.join(' | ')} |`);
}
rmSync(out, { force: true });
