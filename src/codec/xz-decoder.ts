/** Drives the WebAssembly of the package xz-decompress: where its buffers are, and what its result codes mean. */

import { crc32 } from 'node:zlib';
import { isZero } from '../bytes.ts';
import type { Run } from '../types.ts';

/** The largest dictionary that xz-decompress 0.2.3 is built for, in bytes. */
export const MAX_DICTIONARY = 64 * 1024 * 1024;

/** What the decoder found wrong. */
interface XzFault {
  readonly code: 'CORRUPT' | 'LIMIT';
  readonly sentence: string;
  /** What the WebAssembly threw, should it ever. */
  readonly cause?: unknown;
}

/** Decodes LZMA2 blocks, one after the other. */
export interface XzDecoder {
  /** Starts a block whose LZMA2 dictionary has the property `dictionaryProperty`, at most that of `MAX_DICTIONARY`. */
  startBlock(dictionaryProperty: number): void;
  /**
   * Decodes the next bytes of the block, whatever their number; the last is LZMA2's end marker. Ends early, giving
   * the fault, when the bytes are not valid; nothing may be decoded after that. What a run holds is the receiver's.
   */
  decode(bytes: Uint8Array): Generator<Run, XzFault | undefined>;
}

/** What the WebAssembly module exports. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  create_context(): number;
  supply_input(context: number, length: number): void;
  get_next_output(context: number): number;
}

/**
 * The part of the package that is used. `XzReadableStream`, its public face, lets one stream decode at a time and
 * makes all others wait until that one is read to its end: two files read in turns, or an .xz in an .xz, wait
 * for ever. A module instance for each decoder has no such trouble, and its memory goes when the decoder goes.
 */
interface Package {
  _getModuleInstance(): Promise<void>;
  _moduleInstance: { readonly exports: unknown } | undefined;
}

/** Fields of the context, as 32-bit words from its start (the package's xz-decompress.h). */
const CAPACITY = 0;
const IN_POINTER = 1;
const IN_POSITION = 2;
const IN_LENGTH = 3;
const OUT_POINTER = 4;
const OUT_POSITION = 5;
const CONTEXT_WORDS = 8;

/** XZ Embedded's results (xz.h). */
const OK = 0;
const MEMORY_ERROR = 3;
const MEMORY_LIMIT_ERROR = 4;
const DATA_ERROR = 7;

/** The decoders that are being made, one after the other: the package hands over an instance in a shared place. */
let making: Promise<unknown> = Promise.resolve();

async function makeInstance(): Promise<Exports> {
  const module: unknown = await import('xz-decompress');
  const shared = findPackage(module);
  // an instance stays in the shared place, for other users of the package in this process
  if (shared._moduleInstance === undefined) await shared._getModuleInstance();
  const others = shared._moduleInstance;
  await shared._getModuleInstance();
  const instance = shared._moduleInstance;
  shared._moduleInstance = others;
  if (instance === undefined) throw new Error('xz-decompress made no module instance');
  return instance.exports as Exports;
}

/** The package is CommonJS: its export is a name of the module, or of the module's default, as the loader likes. */
function findPackage(module: unknown): Package {
  type Loaded = Partial<Record<'XzReadableStream', Package>>;
  const { XzReadableStream, default: commonJs } = module as Loaded & { default?: Loaded };
  const found = XzReadableStream ?? commonJs?.XzReadableStream;
  if (found === undefined) throw new Error('xz-decompress has no XzReadableStream');
  return found;
}

/** Makes a decoder with memory of its own, which is freed with it. */
export async function makeXzDecoder(): Promise<XzDecoder> {
  const made = making.then(makeInstance);
  making = made.catch(() => undefined);
  const wasm = await made;
  const context = wasm.create_context();
  let memory = Buffer.from(wasm.memory.buffer);
  let words = new Uint32Array(wasm.memory.buffer, context, CONTEXT_WORDS);
  const word = (index: number): number => words[index] ?? 0;

  /** Runs the decoder until it wants more input or its output buffer is full. Gives its result, or a fault. */
  function step(): number | XzFault {
    let result: number;
    try {
      result = wasm.get_next_output(context);
    } catch (cause) {
      return { code: 'CORRUPT', sentence: 'the decoder fails', cause };
    }
    if (memory.buffer !== wasm.memory.buffer) {
      memory = Buffer.from(wasm.memory.buffer);
      words = new Uint32Array(wasm.memory.buffer, context, CONTEXT_WORDS);
    }
    return result;
  }

  function takeOutput(): Run | undefined {
    const length = word(OUT_POSITION);
    if (length === 0) return undefined;
    const start = word(OUT_POINTER);
    words[OUT_POSITION] = 0;
    if (isZero(memory, start, start + length)) return { kind: 'zero', length };
    const bytes = Buffer.allocUnsafeSlow(length);
    memory.copy(bytes, 0, start, start + length);
    return { kind: 'data', bytes };
  }

  function* feed(bytes: Uint8Array): Generator<Run, XzFault | undefined> {
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + word(CAPACITY));
      at += part.length;
      memory.set(part, word(IN_POINTER));
      wasm.supply_input(context, part.length);
      do {
        const result = step();
        const run = takeOutput();
        if (run !== undefined) yield run;
        if (result !== OK) return faultOf(result);
        // output that did not fit comes before the next input is taken, the end marker at the latest
      } while (word(IN_POSITION) < word(IN_LENGTH));
    }
    return undefined;
  }

  /** What the decoder needs to see before the next bytes of a block. */
  let before = makeStreamHeader();
  let blockLength = 0;
  return {
    startBlock(dictionaryProperty): void {
      const padding = Buffer.alloc(-blockLength & 3);
      before = Buffer.concat([before, padding, makeBlockHeader(dictionaryProperty)]);
      blockLength = 0;
    },
    *decode(bytes): Generator<Run, XzFault | undefined> {
      const fault = yield* feed(before);
      if (fault !== undefined) return fault;
      before = Buffer.alloc(0);
      blockLength += bytes.length;
      return yield* feed(bytes);
    },
  };
}

/*
 * The decoder sees one stream that never ends: its blocks, without checks and sizes. Those are verified elsewhere,
 * at twice the speed for zeros, for which a CRC need not look at each byte.
 */

/** A stream header (section 2.1.1 of the format) with the check "none". */
function makeStreamHeader(): Buffer {
  const header = Buffer.from('fd377a585a000000', 'hex');
  return withCrc32(header, header.subarray(6));
}

/** A block header (section 3.1) of 12 bytes: no sizes, LZMA2 as the only filter, three bytes of padding. */
function makeBlockHeader(dictionaryProperty: number): Buffer {
  const header = Buffer.from([2, 0, 0x21, 1, dictionaryProperty, 0, 0, 0]);
  return withCrc32(header, header);
}

function withCrc32(header: Buffer, summed: Buffer): Buffer {
  const whole = Buffer.alloc(header.length + 4);
  header.copy(whole);
  whole.writeUInt32LE(crc32(summed), header.length);
  return whole;
}

function faultOf(result: number | XzFault): XzFault {
  if (typeof result !== 'number') return result;
  switch (result) {
    case MEMORY_ERROR:
    case MEMORY_LIMIT_ERROR:
      return { code: 'LIMIT', sentence: 'there is no memory for its dictionary' };
    case DATA_ERROR:
      return { code: 'CORRUPT', sentence: 'its data is damaged' };
    default:
      return { code: 'CORRUPT', sentence: `it ends the decoder with result ${result}` };
  }
}
