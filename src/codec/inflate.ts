/** Raw deflate streams (RFC 1951) that lie in memory, decoded by the WebAssembly of assembly/inflate.ts. */

import { SparsecopyError } from '../errors.ts';
import { instantiate } from './module.ts';
import { wasm } from './wasm/inflate.ts';

/** Decodes one stream at a time, and keeps the memory that the largest so far has needed. */
export interface Inflater {
  /**
   * Fills all of `output` from the stream at the start of `input`. Decoding ends there, so the stream may go on, and what it goes on with
   * does not matter. After an error `output` is as it was.
   * @throws SparsecopyError `CORRUPT`, `LIMIT`, without the name of the source.
   */
  inflate(input: Uint8Array, output: Uint8Array): void;
}

/** Addresses and lengths are in bytes; numbers without a sign come out with one. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  outputArea(): number;
  slack(): number;
  inflate(from: number, inputLength: number, outputLength: number): number;
  produced(): number;
}

/** The page of a WebAssembly memory. */
const PAGE = 65_536;

/** What `inflate` of the module gives. */
const FULL = 0;
const END = 1;
const NO_INPUT = 2;
const FAULTS: Readonly<Record<number, string>> = {
  3: 'a block has the type 3, which is reserved',
  4: 'the length of a stored block contradicts its complement',
  5: 'a block has more codes than there are symbols',
  6: 'code lengths are repeated that are not there, or too often',
  7: 'the code of the code lengths is not complete, or has too many codes',
  8: 'the code of literals and lengths is not complete, or has too many codes',
  9: 'the code of distances is not complete, or has too many codes',
  10: 'a block has no code for its end',
  11: 'a code stands for no literal and no length',
  12: 'a code stands for no distance',
  13: 'a distance reaches back before the start',
};

/** An inflater with a memory of its own, which has room for the input and the output of the largest stream so far. */
export function makeInflater(): Inflater {
  const module = instantiate<Exports>(wasm);
  const outputArea = module.outputArea();
  const slack = module.slack();
  let memory = new Uint8Array(module.memory.buffer);
  /** The output; made anew when its length is another. */
  let result = memory.subarray(0, 0);

  return {
    inflate(input, output): void {
      const { length } = output;
      const inputArea = outputArea + length + slack;
      const missing = inputArea + input.length + slack - memory.length;
      if (missing > 0) {
        grow(module, missing);
        memory = new Uint8Array(module.memory.buffer);
      }
      if (missing > 0 || result.length !== length) {
        result = memory.subarray(outputArea, outputArea + length);
      }
      memory.set(input, inputArea);
      const end = module.inflate(inputArea, input.length, length);
      if (end !== FULL) throw inflateError(end, length, module.produced() >>> 0);
      output.set(result);
    },
  };
}

/** Adds at least `size` bytes. */
function grow({ memory }: Exports, size: number): void {
  try {
    memory.grow(Math.ceil(size / PAGE));
  } catch (cause) {
    throw new SparsecopyError(
      'LIMIT',
      `deflate stream needs ${size} bytes more memory than there is`,
      { cause },
    );
  }
}

function inflateError(end: number, expected: number, found: number): SparsecopyError {
  if (end === END || end === NO_INPUT) {
    return new SparsecopyError(
      'CORRUPT',
      `deflate stream ends after ${found} bytes, expected ${expected}`,
      { expected, found },
    );
  }
  const fault = FAULTS[end] ?? 'it cannot be decoded';
  return new SparsecopyError(
    'CORRUPT',
    `deflate stream is broken: ${fault} (after ${found} bytes)`,
  );
}
