/** The inside of LZ4 blocks: sequences of literals and matches, which may reach into the blocks before. */

import { alignUp, freshBytes } from '../bytes.ts';
import type { Run } from '../types.ts';
import { ensureSize, makeLz4Module, PAGE, STATE_SIZE, type Lz4Module } from './lz4-module.ts';

/** What is wrong with a block: a reason for a message, and where in the block, in bytes. */
export interface Lz4BlockFault {
  readonly fault: string;
  readonly at: number;
}

/** What all blocks of a frame have in common. */
interface Lz4BlockRules {
  /** What a block holds at most, in bytes. */
  readonly maximum: number;
  /** What its compressed form has at most, in bytes. */
  readonly stored: number;
  /** Whether matches may reach into the blocks before. */
  readonly linked: boolean;
  /** Whether `contentChecksum` is wanted. */
  readonly checksum: boolean;
}

/**
 * Decodes the blocks of frames, in order. Nothing in it waits, and nothing is shared with another one. A block goes
 * through `input`, then `decode` or `store`, then `runs`.
 */
export interface Lz4BlockDecoder {
  /** Begins a frame: no history, no checksum. Views that `input` gave are of no use after that. */
  begin(rules: Lz4BlockRules): void;
  /** Where the `length` bytes of the next block must be put; `length` is at most `stored`. */
  input(length: number): Uint8Array;
  /** XXH32 of the block as it was put there. */
  inputChecksum(): number;
  /** Decodes a compressed block; what is wrong with it, if something is. Never writes outside its memory. */
  decode(): Lz4BlockFault | undefined;
  /** Takes a block that is not compressed, of at most `maximum` bytes. */
  store(): void;
  /** Bytes that the last block holds. */
  readonly length: number;
  /** The content of the last block. Its bytes belong to the caller, or are `lent` until the next block. Adds it to the checksum, so it is called once a block. */
  runs(): Run[];
  /** XXH32 of the content that `runs` gave since `begin`. */
  contentChecksum(): number;
}

/** How far a match can reach back: its offset has 16 bits. */
const HISTORY = 65_536;

/** What the module may read and write behind what it is given. */
const SLACK = 64;

/** Room for the output of linked blocks, at least: the history is moved less often. */
const LINKED_ROOM = 1024 * 1024;

/** Zeros are looked for in parts of a block of this size, so that a large block with some data does not count as data as a whole. */
const PART = 65_536;

/** The longest run of data: so long that the rest of the work goes by chunks of this. */
const LONGEST_RUN = 1024 * 1024;

/** A new decoder, whose runs are copies, or `lent`. Its memory grows with the rules: 0.3 MiB for blocks of 64 KiB (linked: 1.3), 16 MiB for those of 8 MiB. */
export function makeBlockDecoder(lent = false): Lz4BlockDecoder {
  const module = makeLz4Module(PAGE);
  const contentState = module.states.value;
  const inputState = contentState + STATE_SIZE;
  let rules: Lz4BlockRules = { maximum: 0, stored: 0, linked: false, checksum: false };
  let memory = Buffer.alloc(0);
  /** Where the output area begins. The history of linked blocks is a part of it. */
  let area = PAGE;
  /** Length of the block in the input area, which begins at `PAGE`. */
  let given = 0;
  /** Length of the content of the last block; whether it is all zeros; where it lies, and how much of it really does. */
  let length = 0;
  let zero = false;
  let start = PAGE;
  let held = 0;
  /** Linked blocks: how much of the content before `start` is kept, and how many zeros that ends with. */
  let history = 0;
  let zeroTail = 0;
  /** The last block that was decoded to zeros, and how many. A sparse image repeats it. */
  let zeros: Buffer = Buffer.alloc(0);
  let zerosLength = 0;

  /** Makes the last block history, and room for the next one. */
  function advance(): void {
    if (!rules.linked) return;
    start += held;
    history = Math.min(HISTORY, history + held);
    zeroTail = zero ? Math.min(HISTORY, zeroTail + held) : 0;
    held = 0;
    if (start + rules.maximum + SLACK <= memory.length) return;
    module.move(area, start - history, history);
    start = area + history;
  }

  /** Whether the block that was given is known to hold zeros: it did before, and it cannot reach anything else. */
  function isKnown(): boolean {
    if (zerosLength === 0 || (rules.linked && zeroTail < HISTORY)) return false;
    return zeros.compare(memory, PAGE, PAGE + given) === 0;
  }

  function zeroRun(count: number): Run {
    if (rules.checksum) module.hashZeros(contentState, count);
    return { kind: 'zero', length: count };
  }

  /** The part of the last block that begins with `from` and is all zeros, or all parts with data up to the next such. */
  function runFrom(from: number): Run {
    const end = start + length;
    let to = from;
    let isData = false;
    while (to < end) {
      const next = Math.min(end, to + PART);
      const isZero = module.isZero(to, next - to) !== 0;
      if (to === from) isData = !isZero;
      if (isZero === isData || next - from > LONGEST_RUN) break;
      if (isData && rules.checksum) module.hash(contentState, to, next - to);
      to = next;
    }
    if (!isData) return zeroRun(to - from);
    return { kind: 'data', bytes: lent ? memory.subarray(from, to) : copyOf(memory, from, to) };
  }

  return {
    begin(next): void {
      rules = next;
      area = PAGE + alignUp(rules.stored + SLACK, PAGE);
      const room = rules.linked ? HISTORY + Math.max(LINKED_ROOM, rules.maximum) : rules.maximum;
      ensureSize(module, area + room + SLACK);
      memory = Buffer.from(module.memory.buffer, 0, area + room + SLACK);
      start = area;
      length = held = history = zeroTail = zerosLength = 0;
      module.hashReset(contentState);
    },
    input(size): Uint8Array {
      given = size;
      return memory.subarray(PAGE, PAGE + size);
    },
    inputChecksum(): number {
      module.hashReset(inputState);
      module.hash(inputState, PAGE, given);
      return module.hashDigest(inputState) >>> 0;
    },
    decode(): Lz4BlockFault | undefined {
      advance();
      if (isKnown()) {
        length = zerosLength;
        zero = true;
        return undefined;
      }
      const decoded = module.decode(PAGE, given, start, history, rules.maximum);
      if (decoded < 0) return faultOf(module, rules.maximum);
      length = held = decoded;
      zero = module.isZero(start, length) !== 0;
      if (zero && length > 0) {
        zeros = copyOf(memory, PAGE, PAGE + given);
        zerosLength = length;
      }
      return undefined;
    },
    store(): void {
      advance();
      module.move(start, PAGE, given);
      length = held = given;
      zero = module.isZero(start, length) !== 0;
    },
    get length(): number {
      return length;
    },
    runs(): Run[] {
      if (zero) {
        return length === 0 ? [] : [zeroRun(length)];
      }
      const runs: Run[] = [];
      for (let at = 0; at < length;) {
        const run = runFrom(start + at);
        runs.push(run);
        at += runLength(run);
      }
      return runs;
    },
    contentChecksum: () => module.hashDigest(contentState) >>> 0,
  };
}

function copyOf(bytes: Buffer, from: number, to: number): Buffer {
  const copy = freshBytes(to - from);
  bytes.copy(copy, 0, from, to);
  return copy;
}

/** What the module says is wrong with a block. */
function faultOf(module: Lz4Module, maximum: number): Lz4BlockFault {
  const offset = module.faultOffset.value;
  const reach = module.faultReach.value;
  const sentences = [
    'ends where a token should be',
    'ends inside a length',
    `decodes to more than ${maximum} bytes`,
    'has literals past its end',
    'does not end with 5 literals',
    `has a match with offset ${offset} after ${reach} bytes`,
  ];
  const fault = sentences[module.fault.value - 1] ?? 'is not right';
  // Unsigned: literals may claim more than 2^31 bytes.
  return { fault, at: module.faultAt.value >>> 0 };
}

/** Bytes that a run stands for. */
export function runLength(run: Run): number {
  return run.kind === 'zero' ? run.length : run.bytes.length;
}
