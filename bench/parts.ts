/** The pure parts by themselves: the zero test, table entries, codecs a block. `npm run bench:parts`. */

import { run } from '../test/native.ts';
import { deflateRawSync } from 'node:zlib';
import { Bench } from 'tinybench';
import { isZero } from '../src/bytes.ts';
import { makeCounter } from '../src/chunk/tally.ts';
import { makeZeroSplitter } from '../src/chunk/zeros.ts';
import { codecs } from '../src/codec/index.ts';
import { makeBlockDecoder } from '../src/codec/lz4-block.ts';
import { makeXxh32 } from '../src/codec/xxh32.ts';
import { makeZstdClusterDecoder } from '../src/codec/zstd-cluster.ts';
import { decodeL2Entry } from '../src/format/qcow2/entry.ts';
import { makeDeflateDecoder } from '../src/format/qcow2/inflate.ts';
import { defaultLimits } from '../src/limits.ts';
import { readFileSync } from 'node:fs';
import type { DataChunk } from '../src/types.ts';

const MiB = 2 ** 20;
const CLUSTER = 65_536;

/** Bytes that each task handles a turn, for the table. */
const sizes = new Map<string, number>();
const bench = new Bench({ time: 500, warmupTime: 100 });

function add(name: string, size: number, task: () => unknown): void {
  sizes.set(name, size);
  bench.add(name, task);
}

/** A MiB of a real program, and the same with every other 4 KiB block zero. */
const program = readFileSync(process.execPath).subarray(MiB, 2 * MiB);
const half = Buffer.from(program);
for (let at = 0; at < MiB; at += 8192) half.fill(0, at, at + 4096);
const zeros = Buffer.alloc(MiB);

for (const blockSize of [512, 4096, 65_536]) {
  add(`isZero, zeros, blocks of ${blockSize}`, MiB, () => {
    for (let at = 0; at < MiB; at += blockSize) isZero(zeros, at, at + blockSize);
  });
  add(`isZero, data, blocks of ${blockSize}`, MiB, () => {
    for (let at = 0; at < MiB; at += blockSize) isZero(program, at, at + blockSize);
  });
}

const chunk: DataChunk = { kind: 'data', offset: 0, length: MiB, bytes: half };
add('detectZeros, half zero, 4096', MiB, () => [...makeZeroSplitter(4096).push(chunk)]);
add('tally, half zero, 512', MiB, () => {
  makeCounter(512).count(chunk);
});

add('decodeL2Entry, a table of 8192', CLUSTER, () => {
  for (let index = 0; index < 8192; index++) decodeL2Entry(0x8000_0000, index * CLUSTER, 16, 3);
});

const cluster = program.subarray(0, CLUSTER);
const output = new Uint8Array(CLUSTER);
const deflated = deflateRawSync(cluster);
const inflate = makeDeflateDecoder(CLUSTER);
add('a deflate cluster', CLUSTER, () => inflate(deflated, output));
const zstdCluster = await makeZstdClusterDecoder();
const packed = run('zstd', ['-q', '-c'], cluster);
add('a zstd cluster', CLUSTER, () => {
  zstdCluster(packed, output);
});

const hash = makeXxh32();
add('XXH32', MiB, () => {
  hash.update(program);
});
add('XXH32 of zeros', MiB, () => {
  hash.updateZeros(MiB);
});
const lz4Blocks = makeBlockDecoder();
lz4Blocks.begin({ maximum: MiB, stored: MiB, linked: false, checksum: false });
for (const [name, bytes] of Object.entries({ program, zeros })) {
  // Behind the magic number and the header: the size of the only block, and the block.
  const frame = run('lz4', ['-c', '-B6', '--no-frame-crc'], bytes);
  const block = frame.subarray(11, 11 + frame.readUInt32LE(7));
  add(`an lz4 block of 1 MiB, ${name}, again and again`, MiB, () => {
    lz4Blocks.input(block.length).set(block);
    if (lz4Blocks.decode() !== undefined) throw new Error('not decoded');
    return lz4Blocks.runs();
  });
}

const streams = {
  gzip: run('gzip', ['-c'], program),
  xz: run('xz', ['-c'], program),
  lz4: run('lz4', ['-c', '-B6'], program),
  zstd: run('zstd', ['-q', '-c'], program),
};
async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  await Promise.resolve();
  yield bytes;
}
for (const codec of codecs) {
  add(`${codec.name}, a stream of 1 MiB`, MiB, async () => {
    let length = 0;
    const runs = codec.decode(once(streams[codec.name]), { name: 'bench', limits: defaultLimits });
    for await (const piece of runs)
      length += piece.kind === 'data' ? piece.bytes.length : piece.length;
    if (length !== MiB) throw new Error(`${codec.name} gave ${length} bytes`);
  });
}

await bench.run();
console.log(`Node ${process.version}\n\n| part | MB/s | µs |\n|---|---:|---:|`);
for (const task of bench.tasks) {
  const { result } = task;
  if (!('latency' in result)) throw new Error(`${task.name} failed`);
  const microseconds = result.latency.p50 * 1000;
  const speed = (sizes.get(task.name) ?? 0) / microseconds;
  console.log(`| ${task.name} | ${speed.toFixed(0)} | ${microseconds.toFixed(1)} |`);
}
