/** The inside of LZ4 blocks: sequences of literals and matches, which may reach into the blocks before. */

import { isZero, viewOf } from '../bytes.ts';
import type { Run } from '../types.ts';

/** What is wrong with a block: a reason for a message, and where in the block, in bytes. */
export interface Lz4BlockFault {
  readonly fault: string;
  readonly at: number;
}

/** The smallest match; its length is stored less this (LZ4 Block Format, "Compressed block format"). */
const MIN_MATCH = 4;

/** A block that holds a match ends with this many literals at least ("End of block conditions"). */
const LAST_LITERALS = 5;

/** How far a match can reach back: its offset has 16 bits. */
const HISTORY = 65536;

/**
 * Room that the decoders get behind the decoded bytes: `decodeLz4Block` copies in fixed amounts that overshoot by less
 * than 32 bytes, and liblz4 leaves its fast loop 64 bytes before the end of the room.
 */
const SLACK = 64;

/**
 * The decoded length of `block` in bytes, or what is wrong with it. Nothing is decoded and no memory is taken. A block
 * that passes is safe for any decoder: each length stays inside the block and `maximum`, and each match begins in the
 * bytes decoded before it or the `history` bytes before those. Offset 0 is a fault as well; liblz4 lets it pass and
 * gives out whatever the memory held before.
 */
export function measureLz4Block(
  block: Uint8Array,
  history: number,
  maximum: number,
): number | Lz4BlockFault {
  const view = viewOf(block);
  const end = block.length;
  // An offset is followed by at least a token and the last literals.
  const lastOffset = end - 2 - 1 - LAST_LITERALS;
  // Up to here a token and 14 literals leave room for an offset.
  const lastFast = lastOffset - 15;
  // A bundler makes variables of module constants; inside the loop they would cost.
  const minMatch = MIN_MATCH;
  let at = 0;
  let length = 0;
  for (;;) {
    // Most sequences have two short lengths, and need few tests.
    while (at <= lastFast) {
      const token = view.getUint8(at);
      if (token >= 0xf0 || (token & 15) === 15) break;
      at += 1 + (token >>> 4);
      length += token >>> 4;
      const offset = view.getUint16(at, true);
      if (offset === 0 || offset > length + history) return badOffset(offset, length + history, at);
      at += 2;
      length += (token & 15) + minMatch;
    }
    if (at >= end) return { fault: 'ends where a token should be', at };
    const token = view.getUint8(at++);
    let literals = token >>> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (at >= end) return { fault: 'ends inside a length', at };
        more = view.getUint8(at++);
        literals += more;
      }
    }
    at += literals;
    length += literals;
    if (length > maximum) return tooLong(maximum, at);
    if (at > lastOffset) {
      if (at === end) return length;
      return at > end ? { fault: 'has literals past its end', at: end } : shortEnd(at);
    }
    const offset = view.getUint16(at, true);
    if (offset === 0 || offset > length + history) return badOffset(offset, length + history, at);
    at += 2;
    let match = token & 15;
    if (match === 15) {
      let more = 255;
      while (more === 255) {
        if (at >= end) return { fault: 'ends inside a length', at };
        more = view.getUint8(at++);
        match += more;
      }
      if (at > lastOffset + 2) return shortEnd(at);
    }
    length += match + minMatch;
    if (length > maximum) return tooLong(maximum, at);
  }
}

function badOffset(offset: number, available: number, at: number): Lz4BlockFault {
  return { fault: `has a match with offset ${offset} after ${available} bytes`, at };
}

function tooLong(maximum: number, at: number): Lz4BlockFault {
  return { fault: `decodes to more than ${maximum} bytes`, at };
}

function shortEnd(at: number): Lz4BlockFault {
  return { fault: `does not end with ${LAST_LITERALS} literals`, at };
}

/** From this length on, one call that copies is faster than a loop (measured: between 32 and 64). */
const LONG_RUN = 48;

/**
 * Decodes `block` into `output` from `start` on and gives the end of what it wrote. The block must have passed
 * `measureLz4Block` with a `history` of at most `start`: matches reach back into `output` before `start`. `output` must
 * have room for the measured length and 64 bytes more, which are spoilt.
 */
export function decodeLz4Block(block: Uint8Array, output: Uint8Array, start = 0): number {
  const minMatch = MIN_MATCH;
  const end = block.length;
  const from = viewOf(block);
  const to = viewOf(output);
  const lastShort = end - 16;
  let at = 0;
  let out = start;
  for (;;) {
    const token = from.getUint8(at++);
    let length = token >>> 4;
    if (length < 15 && at <= lastShort) {
      // A fixed number of words, often too many, beats a loop whose count the processor guesses wrong.
      to.setInt32(out, from.getInt32(at, true), true);
      to.setInt32(out + 4, from.getInt32(at + 4, true), true);
      if (length > 8) {
        to.setInt32(out + 8, from.getInt32(at + 8, true), true);
        to.setInt32(out + 12, from.getInt32(at + 12, true), true);
      }
      at += length;
      out += length;
    } else {
      if (length === 15) {
        let more = 255;
        while (more === 255) {
          more = from.getUint8(at++);
          length += more;
        }
      }
      if (length < LONG_RUN) {
        for (const stop = at + length; at < stop; at++) output[out++] = from.getUint8(at);
      } else {
        output.set(block.subarray(at, at + length), out);
        at += length;
        out += length;
      }
      if (at >= end) return out;
    }
    const offset = from.getUint16(at, true);
    const match = out - offset;
    at += 2;
    length = token & 15;
    if (length < 15 && offset >= 8) {
      to.setInt32(out, to.getInt32(match, true), true);
      to.setInt32(out + 4, to.getInt32(match + 4, true), true);
      if (length > 4) {
        to.setInt32(out + 8, to.getInt32(match + 8, true), true);
        to.setInt32(out + 12, to.getInt32(match + 12, true), true);
        to.setInt16(out + 16, to.getInt16(match + 16, true), true);
      }
    } else {
      if (length === 15) {
        let more = 255;
        while (more === 255) {
          more = from.getUint8(at++);
          length += more;
        }
      }
      copyMatch(output, to, match, out, length + minMatch);
    }
    out += length + minMatch;
  }
}

/** Copies `length` bytes from `match` to `out`. Where the two overlap, the `out - match` bytes between them repeat. */
function copyMatch(
  output: Uint8Array,
  view: DataView,
  match: number,
  out: number,
  length: number,
): void {
  const offset = out - match;
  if (length >= LONG_RUN) {
    // What was copied repeats the same bytes, so each copy can be twice as long as the one before.
    for (let done = 0; done < length;) {
      const part = Math.min(offset + done, length - done);
      output.copyWithin(out + done, match, match + part);
      done += part;
    }
  } else if (offset >= 4) {
    for (let at = 0; at < length; at += 4) {
      view.setInt32(out + at, view.getInt32(match + at, true), true);
    }
  } else {
    for (let at = 0; at < length; at++) output[out + at] = output[match + at] ?? 0;
  }
}

/** A block decoder of another library: decodes to the start of `output`, gives the length, negative on an error. */
export type NativeBlockDecoder = (block: Uint8Array, output: Uint8Array) => number;

/** The blocks of one frame, in order. The bytes of a run belong to the caller. */
export interface Lz4Blocks {
  /** The content of a compressed block, or what is wrong with the block. */
  decode(block: Uint8Array): Run | Lz4BlockFault;
  /** The content of an uncompressed block. */
  store(block: Uint8Array): Run;
}

/** Blocks that need nothing of each other, of at most `maximum` bytes decoded. */
export function makeIndependentBlocks(maximum: number, native?: NativeBlockDecoder): Lz4Blocks {
  /** The last block that was all zeros, and its length. A sparse image repeats it. */
  let zeros: Buffer | undefined;
  let zerosLength = 0;
  return {
    decode(block): Run | Lz4BlockFault {
      if (zeros?.equals(block) === true) return { kind: 'zero', length: zerosLength };
      const length = measureLz4Block(block, 0, maximum);
      if (typeof length !== 'number') return length;
      // Not cleared before: a measured block writes every byte of its length.
      const output = Buffer.allocUnsafeSlow(length + SLACK);
      const written = native === undefined ? decodeLz4Block(block, output) : native(block, output);
      if (written !== length) return { fault: `decodes to ${written} bytes, not ${length}`, at: 0 };
      const run = runOf(output.subarray(0, length));
      if (run.kind === 'zero') {
        zeros = Buffer.from(block);
        zerosLength = length;
      }
      return run;
    },
    store: runOf,
  };
}

/** Blocks whose matches may reach into the blocks before, of at most `maximum` bytes decoded. */
export function makeLinkedBlocks(maximum: number): Lz4Blocks {
  // The caller may write to what it got, so the history is a copy of it.
  const window = new Uint8Array(HISTORY + maximum + SLACK);
  let held = 0;

  /** Makes room for `length` more bytes; at least `HISTORY` bytes before them stay. */
  function makeRoom(length: number): void {
    if (held + length + SLACK <= window.length) return;
    window.copyWithin(0, held - HISTORY, held);
    held = HISTORY;
  }

  return {
    decode(block): Run | Lz4BlockFault {
      const length = measureLz4Block(block, held, maximum);
      if (typeof length !== 'number') return length;
      makeRoom(length);
      const start = held;
      held = decodeLz4Block(block, window, start);
      if (isZero(window, start, held)) return { kind: 'zero', length };
      return { kind: 'data', bytes: window.slice(start, held) };
    },
    store(block): Run {
      makeRoom(block.length);
      window.set(block, held);
      held += block.length;
      return runOf(block);
    },
  };
}

function runOf(bytes: Uint8Array): Run {
  return isZero(bytes) ? { kind: 'zero', length: bytes.length } : { kind: 'data', bytes };
}

/** Bytes that a run stands for. */
export function runLength(run: Run): number {
  return run.kind === 'zero' ? run.length : run.bytes.length;
}
