/** Drives assembly/lzma2.ts: chunks of LZMA2 in, runs out, with a memory not much larger than the dictionary. */

import { freshBytes } from '../bytes.ts';
import type { Run } from '../types.ts';
import { instantiate } from './module.ts';
import { wasm } from './wasm/lzma2.ts';

/** Longest header of an LZMA2 chunk in bytes: control, two sizes of two bytes, properties. */
export const MAX_CHUNK_HEADER = 6;

/** What an LZMA2 chunk's header says. */
export interface Chunk {
  /** 0 for the end marker. */
  readonly control: number;
  /** Of the header itself, in bytes. */
  readonly headerLength: number;
  /** Of the data behind it, at most 64 KiB. */
  readonly length: number;
  /** What they decode to, in bytes, at most 2 MiB. */
  readonly uncompressed: number;
  /** LZMA's lc, lp and pb, where the header has them. */
  readonly properties: number;
}

/** What is wrong with a chunk. */
interface Fault {
  readonly code: 'CORRUPT' | 'LIMIT';
  readonly sentence: string;
  /** The data end before the chunk does: no wonder when they were cut. */
  readonly isEnd: boolean;
}

/** Decodes LZMA2, one block after the other. It never waits for anything. */
export interface Lzma2Decoder {
  /** Whether the bytes of a run are needed only until the next one is asked for, and need not be copied; default false. */
  lent: boolean;
  /**
   * Starts a block with a dictionary of `dictionarySize` bytes, which decodes to no more than `uncompressedSize`.
   * Gives a fault when there is no memory for it.
   */
  startBlock(dictionarySize: number, uncompressedSize?: number): Fault | undefined;
  /**
   * Decodes a chunk, of which `data` is all that follows its header. What comes out may be kept back until later. Gives the fault when
   * the chunk is not valid; nothing may be decoded in this block after that. What a run holds is the receiver's, unless it is lent.
   */
  decode(chunk: Chunk, data: Uint8Array): Generator<Run, Fault | undefined>;
  /** What was kept back. */
  end(): Generator<Run, void>;
}

interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  /** Addresses: of the data of a chunk, and of the list of runs of zeros. */
  readonly input: { readonly value: number };
  readonly runs: { readonly value: number };
  startBlock(dictionarySize: number, uncompressedSize: number): number;
  startChunk(control: number, properties: number, uncompressed: number, length: number): number;
  run(): number;
  place(): number;
  runCount(): number;
  taken(): number;
}

/** Results of `startChunk` and `run`. */
const DONE = 0;
const FULL = 1;
const faults: Readonly<Record<number, Fault>> = {
  2: { code: 'CORRUPT', sentence: 'its data is damaged', isEnd: false },
  3: { code: 'CORRUPT', sentence: 'its data ends too early', isEnd: true },
  4: { code: 'LIMIT', sentence: 'there is no memory for its dictionary', isEnd: false },
  5: { code: 'CORRUPT', sentence: 'it does not reset what nothing has set', isEnd: false },
};

/** Data is kept back until there is so much of it, and put out in runs of so much at most, in bytes. */
const PIECE = 128 * 1024;

/** Zeros too: making these takes some milliseconds. */
const MOST_ZEROS = 32 * 1024 * 1024;

/**
 * Parses the header of an LZMA2 chunk, from its first bytes: `MAX_CHUNK_HEADER` or all there are. Undefined when they are too few.
 * Which control bytes are defined (0 to 2, and from 128 on) is left to the caller.
 */
export function parseChunk(head: Uint8Array): Chunk | undefined {
  // 0: control: 0 end, 1 and 2 uncompressed, from 0x80 on LZMA (0xc0 on: with properties) and five bits of a size,
  // 1: uncompressed size - 1, its low 16 bits, 3: compressed size - 1 (LZMA), 5: properties; all big-endian
  const [control, b = 0, c = 0, d = 0, e = 0, properties = 0] = head;
  if (control === undefined) return undefined;
  const isLzma = control >= 0x80;
  const headerLength = control === 0 ? 1 : isLzma ? (control >= 0xc0 ? MAX_CHUNK_HEADER : 5) : 3;
  if (head.length < headerLength) return undefined;
  if (control === 0) return { control, headerLength, length: 0, uncompressed: 0, properties: 0 };
  const uncompressed = (isLzma ? (control & 0x1f) << 16 : 0) + (b << 8) + c + 1;
  const length = isLzma ? (d << 8) + e + 1 : uncompressed;
  return { control, headerLength, length, uncompressed, properties };
}

/** Makes a decoder with memory of its own, which is freed with it. */
export function makeLzma2Decoder(): Lzma2Decoder {
  const module = instantiate<Exports>(wasm);
  let memory = Buffer.from(module.memory.buffer);
  /** Address of the first byte that has not been put out. */
  let from = 0;
  /** Zeros that come before it, and have not been put out either. */
  let zeros = 0;

  const refresh = (): void => {
    if (memory.buffer !== module.memory.buffer) memory = Buffer.from(module.memory.buffer);
  };

  function copyOf(start: number, stop: number): Buffer {
    const copy = freshBytes(stop - start);
    memory.copy(copy, 0, start, stop);
    return copy;
  }

  function* takeZeros(): Generator<Run, void> {
    const length = zeros;
    zeros = 0;
    if (length > 0) yield { kind: 'zero', length };
  }

  function* takeData(end: number): Generator<Run, void> {
    if (end === from) return;
    yield* takeZeros();
    for (let start = from; start < end; start += PIECE) {
      const stop = Math.min(start + PIECE, end);
      yield {
        kind: 'data',
        bytes: decoder.lent ? memory.subarray(start, stop) : copyOf(start, stop),
      };
    }
  }

  /** Takes all that there is in the ring. */
  function* take(): Generator<Run, void> {
    const end = module.place();
    const list = module.runs.value;
    for (let left = module.runCount(), at = list; left > 0; left--, at += 8) {
      const start = memory.readUInt32LE(at);
      const length = memory.readUInt32LE(at + 4);
      yield* takeData(start);
      zeros += length;
      from = start + length;
    }
    yield* takeData(end);
    from = module.taken();
    refresh();
    if (zeros >= MOST_ZEROS) yield* takeZeros();
  }

  const decoder: Lzma2Decoder = {
    lent: false,
    startBlock(dictionarySize, uncompressedSize = Infinity): Fault | undefined {
      const used = Math.min(uncompressedSize, 2 ** 32 - 1);
      if (module.startBlock(dictionarySize, used) === 0) return faults[4];
      refresh();
      from = module.place();
      zeros = 0;
      return undefined;
    },
    *decode(chunk, data): Generator<Run, Fault | undefined> {
      const { control, properties, uncompressed } = chunk;
      if (control === 1 || control >= 0xe0) {
        // the dictionary begins anew
        yield* take();
      }
      memory.set(data, module.input.value);
      let result = module.startChunk(control, properties, uncompressed, data.length);
      if (control === 1 || control >= 0xe0) from = module.place();
      if (result !== DONE) return faults[result];
      do {
        result = module.run();
        if (result !== DONE && result !== FULL) return faults[result];
        if (result === FULL || module.runCount() > 0 || module.place() - from >= PIECE) {
          yield* take();
        }
      } while (result === FULL);
      return undefined;
    },
    *end(): Generator<Run, void> {
      yield* take();
      yield* takeZeros();
    },
  };
  return decoder;
}
