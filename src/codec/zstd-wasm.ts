/** Decodes Zstandard frames with the WebAssembly of the package zstddec: its memory, its calls and its errors. */

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import type { Run } from '../types.ts';
import type { FrameDecoder, ZstdEngine } from './zstd-engine.ts';
import { MAX_BLOCK, frameError } from './zstd-frame.ts';
import type { Place } from './zstd-frame.ts';
import { engineError, makeRun } from './zstd-result.ts';

/** The types of WebAssembly are the browser's, and not known here. */
declare const WebAssembly: {
  instantiate(module: object, imports: object): Promise<{ readonly exports: unknown }>;
};

/** What the WebAssembly module exports: libzstd's functions; pointers and sizes are numbers. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer };
  malloc(length: number): number;
  free(pointer: number): void;
  ZSTD_createDCtx(): number;
  ZSTD_freeDCtx(context: number): number;
  ZSTD_decompress(output: number, outputLength: number, input: number, inputLength: number): number;
  ZSTD_decompressStream(context: number, output: number, input: number): number;
}

/** The part of zstddec that is used: `_init` is handed what was compiled. */
interface Decoder {
  init(): Promise<void>;
  _init(result: { readonly module: object }): void;
}

/** libzstd gives errors as negated `ZSTD_ErrorCode`, of which there are fewer (zstd_errors.h). */
const ERROR_COUNT = 120;

/** Bytes that are handed to the decoder at once, and that it puts out at once: a block's worth. */
const BUFFER_LENGTH = MAX_BLOCK;

/** Of `ZSTD_inBuffer` and `ZSTD_outBuffer`: pointer, length, position, each of 32 bits. */
const BUFFER_WORDS = 3;

let compiled: Promise<object> | undefined;

/**
 * zstddec has one instance for all, with one memory that never shrinks, and does not look at errors. What it
 * compiles is taken from it, and each engine has an instance of its own, whose memory goes when the engine goes.
 */
function compile(): Promise<object> {
  compiled ??= (async (): Promise<object> => {
    const { ZSTDDecoder } = await import('zstddec/stream');
    const module = await takeModule(ZSTDDecoder);
    if (module !== undefined) return module;
    // somebody else in this process was first, and zstddec compiles once: a second copy does it again
    const path = createRequire(import.meta.url).resolve('zstddec/stream');
    const copy = (await import(`${pathToFileURL(path).href}?copy`)) as {
      ZSTDDecoder: typeof ZSTDDecoder;
    };
    const own = await takeModule(copy.ZSTDDecoder);
    if (own === undefined) throw new Error('zstddec gives no WebAssembly module');
    return own;
  })();
  // a failure (out of memory, say) may be over the next time
  compiled.catch(() => (compiled = undefined));
  return compiled;
}

/** Undefined when the decoder was compiled before. */
async function takeModule(ZstdDecoder: new () => Decoder): Promise<object | undefined> {
  const decoder = new ZstdDecoder();
  const initialize = decoder._init.bind(decoder);
  let module: object | undefined;
  decoder._init = (result): void => {
    module = result.module;
    initialize(result);
  };
  await decoder.init();
  return module;
}

/** An engine with a WebAssembly memory of its own, which starts at 16 MiB and grows with the window. */
export async function makeWasmEngine(): Promise<ZstdEngine> {
  const module = await compile();
  const notify = { emscripten_notify_memory_growth: (): void => undefined };
  const instance = await WebAssembly.instantiate(module, { env: notify });
  const wasm = instance.exports as Exports;
  let memory = Buffer.from(wasm.memory.buffer);
  let words = new Uint32Array(wasm.memory.buffer);

  /** Calls libzstd. Gives its result, which is a size or a hint; views of the memory are valid after it. */
  function call(place: Place, action: () => number): number {
    let result: number;
    try {
      result = action();
    } catch (cause) {
      throw frameError('CORRUPT', 'makes the decoder fail', place, cause);
    } finally {
      if (memory.buffer !== wasm.memory.buffer) {
        memory = Buffer.from(wasm.memory.buffer);
        words = new Uint32Array(wasm.memory.buffer);
      }
    }
    if (result < 0 && result > -ERROR_COUNT) throw engineError(-result, place);
    return result;
  }

  /** A buffer in the engine's memory that grows as wanted. */
  function makeArea(): (length: number, place: Place) => number {
    let pointer = 0;
    let size = 0;
    return (length, place) => {
      if (length > size) {
        if (pointer !== 0) wasm.free(pointer);
        size = 0;
        pointer = call(place, () => wasm.malloc(length));
        if (pointer === 0) throw frameError('LIMIT', 'needs more memory than there is', place);
        size = length;
      }
      return pointer;
    };
  }

  const inputArea = makeArea();
  const outputArea = makeArea();
  const structArea = makeArea();

  function startFrame(place: Place): FrameDecoder {
    const input = inputArea(BUFFER_LENGTH, place);
    const output = outputArea(BUFFER_LENGTH, place);
    const structs = structArea(2 * BUFFER_WORDS * 4, place);
    const inStruct = structs / 4;
    const outStruct = inStruct + BUFFER_WORDS;
    let context = call(place, () => wasm.ZSTD_createDCtx());
    if (context === 0) throw frameError('LIMIT', 'needs more memory than there is', place);
    /** libzstd's hint: 0 when the frame is complete and all of it came out. */
    let hint = 1;

    function* step(part: Uint8Array): Generator<Run> {
      memory.set(part, input);
      words.set([input, part.length, 0, output, BUFFER_LENGTH, 0], inStruct);
      let filled: number;
      do {
        words[outStruct + 2] = 0;
        hint = call(place, () => wasm.ZSTD_decompressStream(context, outStruct * 4, inStruct * 4));
        filled = words[outStruct + 2] ?? 0;
        if (filled > 0) yield makeRun(memory, output, output + filled, true);
        // a full output may have more behind it; after the end of a frame a call would start another
      } while (
        (words[inStruct + 2] ?? 0) < part.length ||
        (filled === BUFFER_LENGTH && hint !== 0)
      );
    }

    return {
      // eslint-disable-next-line @typescript-eslint/require-await
      async decode(parts): Promise<Run[]> {
        const runs: Run[] = [];
        for (const part of parts) {
          for (let at = 0; at < part.length; at += BUFFER_LENGTH) {
            runs.push(...step(part.subarray(at, at + BUFFER_LENGTH)));
          }
        }
        return runs;
      },
      // eslint-disable-next-line @typescript-eslint/require-await
      async finish(): Promise<Run[]> {
        if (hint !== 0) throw frameError('CORRUPT', 'ends before its content is complete', place);
        return [];
      },
      close(): void {
        if (context !== 0) wasm.ZSTD_freeDCtx(context);
        context = 0;
      },
    };
  }

  return {
    decodeFrame(frame, output, place): number {
      const from = inputArea(frame.length, place);
      const to = outputArea(output.length, place);
      memory.set(frame, from);
      const length = call(place, () => wasm.ZSTD_decompress(to, output.length, from, frame.length));
      memory.copy(output, 0, to, to + length);
      return length;
    },
    startFrame,
  };
}
