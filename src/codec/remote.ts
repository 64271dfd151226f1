/** Decoding in another thread: compressed bytes over, runs back, and no more of either than the other side keeps up with. */

import { giveBack } from '../bytes.ts';
import type { Threads } from '../threads.ts';
import type { ByteStream, Codec, CodecContext, CodecName, Run } from '../types.ts';
import {
  ENOUGH,
  type DecodeAnswer,
  type DecodeQuestion,
  type DecoderSettings,
} from './decode-protocol.ts';
import { HEAD, readStart } from './start.ts';

/**
 * Questions that wait for an answer: one that is being answered, and more, so that the thread need not wait while this one is busy. With two
 * a thread that decodes LZ4 waited a third of the time.
 */
const QUESTIONS = 4;

/** For parts of a stream that several threads decode: while one waits, others work. */
const QUESTIONS_WHOLE = 2;

/** Pieces that the thread has and has not looked at yet. */
const PIECES = 4;

/** From how many compressed bytes on a codec is worth a thread of its own. gzip is decoded by zlib's own threads. */
const worth: Partial<Record<CodecName, number>> = {
  lz4: 16 * 1024 * 1024,
  xz: 2 * 1024 * 1024,
  zstd: 8 * 1024 * 1024,
};

/**
 * As `codec.decode`, with the help of threads where that is worth it; `size` is that of `bytes`, when known. A codec that can tell its
 * parts from each other has several threads decode these; else one thread decodes all of it.
 */
export async function* decode(
  codec: Codec,
  bytes: ByteStream,
  context: CodecContext,
  size: number | undefined,
): AsyncGenerator<Run, void, void> {
  const { name, limits, untrusted = false, threads } = context;
  const least = worth[codec.name];
  if (least === undefined || threads?.areWorth(Infinity, least) !== true) {
    yield* codec.decode(bytes, { ...context, threads: undefined });
    return;
  }
  const isSmall = !threads.areWorth(size ?? 0, least);
  const start = await readStart(bytes, size === undefined && isSmall ? least : HEAD);
  if (!threads.areWorth(size ?? start.length, least)) {
    yield* codec.decode(start.bytes, { ...context, threads: undefined });
  } else if (codec.hasParts?.(start.head) === true) yield* codec.decode(start.bytes, context);
  else {
    const settings: DecoderSettings = { codec: codec.name, name, limits, untrusted };
    yield* decodeRemotely(threads, settings, start.bytes);
  }
}

let lastStream = 0;

/** How a stream is handed to a thread. */
export interface Handing {
  /** How many answers, of a MiB of data each, may be asked for or wait to be taken. */
  readonly ahead?: number;
  /** All bytes go with the first question, in shared memory: a decoder that keeps none of them when it is done. */
  readonly isWhole?: boolean;
  /** For streams that follow each other; by default each has one of its own. */
  readonly area?: Area;
}

/**
 * Memory that a thread writes to, in parts of one answer each. Parts that were never used take no memory; one that is never released is lost
 * to this area only.
 */
export interface Area {
  readonly buffer: SharedArrayBuffer;
  /** Numbers of the parts that nobody uses. */
  readonly free: number[];
}

/** Parts for a stream: as many as the thread may be ahead, and those that are on their way to the sink. */
const PARTS = 16;

export function makeArea(count: number = PARTS): Area {
  return {
    buffer: new SharedArrayBuffer(count * ENOUGH),
    free: Array.from({ length: count }, (_, at) => count - 1 - at),
  };
}

function partOf({ buffer }: Area, part: number): Uint8Array {
  return new Uint8Array(buffer, part * ENOUGH, ENOUGH);
}

/** A question that has been sent, and its answer; both have the number of a part of the area for the data. */
interface Sent {
  readonly part: number | undefined;
  readonly answered: Promise<DecodeAnswer>;
}
interface Asked {
  readonly part: number | undefined;
  readonly answer: DecodeAnswer;
}

/**
 * The runs that the decoder of `settings` makes of `bytes`, in a thread of `threads`, which may be ahead as far as the last parameter says.
 * Its errors, and those of `bytes`, are thrown here.
 */
export async function* decodeRemotely(
  threads: Threads,
  settings: DecoderSettings,
  bytes: ByteStream,
  { ahead = QUESTIONS, isWhole = false, area = makeArea() }: Handing = {},
): AsyncGenerator<Run, void, void> {
  const lane = threads.lane();
  const stream = ++lastStream;
  const questions = isWhole ? QUESTIONS_WHOLE : QUESTIONS;
  const input = bytes[Symbol.asyncIterator]();
  let isOpen = false as boolean;
  let hasEnded = false as boolean;
  let isDone = false;
  /** Pieces sent, and those that the thread has taken. */
  let sent = 0;
  let taken = 0;

  /** `runs`, which lie in the part of the area with the number `part`: that is free when all of them have been released. */
  function* shared(runs: readonly Run[], part: number | undefined): Generator<Run, void> {
    let users = 1;
    const release = (): void => {
      if (--users === 0 && part !== undefined) area.free.push(part);
    };
    for (const run of runs) {
      if (run.kind === 'data') users++;
      yield run.kind === 'zero' ? run : { kind: 'data', bytes: run.bytes, release };
    }
    release();
  }

  /** Ends the wait for a piece. */
  let stopWaiting: (() => void) | undefined;

  /** The next piece; nobody waits for one any more that may never come, once nobody wants the runs. */
  function nextPiece(): Promise<IteratorResult<Uint8Array>> {
    return new Promise((resolve, reject) => {
      stopWaiting = (): void => reject(new Error('nobody wants the bytes any more'));
      const settle = (): void => {
        stopWaiting = undefined;
      };
      input.next().then(resolve, reject).finally(settle).catch(settle);
    });
  }

  /** Numbers of the parts of the area in which the input is. */
  const inputParts: number[] = [];
  /** What is left of the last one. */
  let inputRoom: Uint8Array = new Uint8Array(0);

  /** Copies `bytes` to the area, as long as it has free parts, and adds where they are to `pieces`. */
  function putInArea(bytes: Uint8Array, pieces: Uint8Array[]): void {
    for (let at = 0; at < bytes.length;) {
      if (inputRoom.length === 0) {
        const part = area.free.pop();
        if (part === undefined) {
          pieces.push(new Uint8Array(bytes.subarray(at)));
          return;
        }
        inputParts.push(part);
        inputRoom = partOf(area, part);
      }
      const length = Math.min(inputRoom.length, bytes.length - at);
      inputRoom.set(bytes.subarray(at, at + length));
      pieces.push(inputRoom.subarray(0, length));
      inputRoom = inputRoom.subarray(length);
      at += length;
    }
  }

  /** Sends the next question; what is awaited is the input, not the answer. */
  async function send(): Promise<Sent> {
    const pieces: Uint8Array[] = [];
    while (!hasEnded && (isWhole || sent - taken < PIECES)) {
      const next = await nextPiece();
      if (next.done === true) {
        hasEnded = true;
        break;
      }
      sent++;
      if (isWhole) putInArea(next.value, pieces);
      // A copy: what it lies in may be larger, and is somebody else's.
      else pieces.push(new Uint8Array(next.value));
      giveBack(next.value);
      if (!isWhole) break;
    }
    const first = isOpen ? undefined : settings;
    isOpen = true;
    const part = area.free.pop();
    const room = part === undefined ? undefined : partOf(area, part);
    const question: DecodeQuestion = { stream, settings: first, pieces, hasEnded, room };
    const transfer = pieces.flatMap(({ buffer }) =>
      buffer instanceof ArrayBuffer ? [buffer] : [],
    );
    return { part, answered: lane.ask<DecodeAnswer>('decode', question, transfer) };
  }

  /** Answers in order, and questions that wait for theirs or for input. */
  const queue: Promise<Asked>[] = [];
  let last: Promise<unknown> = Promise.resolve();
  let unanswered = 0;
  let hasLast = false;

  /** Asks as far ahead as may be. */
  function askMore(): void {
    while (!hasLast && unanswered < questions && queue.length < ahead) {
      unanswered++;
      const sending = last.then(send);
      const asked = sending.then(answerTo);
      // It may fail while nobody waits for it; whoever comes to its turn gets the error.
      asked.catch(() => {
        hasLast = true;
      });
      last = sending;
      queue.push(asked);
    }
  }

  async function answerTo({ part, answered }: Sent): Promise<Asked> {
    try {
      const answer = await answered;
      taken = answer.taken;
      unanswered--;
      hasLast ||= answer.isDone;
      askMore();
      return { part, answer };
    } catch (error) {
      if (part !== undefined) area.free.push(part);
      throw error;
    }
  }

  try {
    askMore();
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { part, answer } = await next;
      isDone = answer.isDone;
      askMore();
      yield* shared(answer.runs, part);
      if (isDone) break;
    }
  } finally {
    const isWaiting = stopWaiting !== undefined;
    stopWaiting?.();
    hasLast = true;
    for (const left of await Promise.allSettled(queue)) {
      if (left.status === 'fulfilled' && left.value.part !== undefined) {
        area.free.push(left.value.part);
      }
    }
    if (isOpen && !isDone) {
      await lane
        .ask('decode', { stream, isOver: true } satisfies DecodeQuestion)
        .catch(() => undefined);
    }
    area.free.push(...inputParts);
    lane.close();
    const ending = hasEnded ? undefined : Promise.resolve(input.return?.());
    // It ends after the piece that nobody waits for, which may never come.
    if (isWaiting) ending?.catch(() => undefined);
    else await ending;
  }
}
