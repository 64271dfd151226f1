/** Streams decoded in a thread, one part after the other. */

import { freshBytes } from '../bytes.ts';
import type { ByteStream, JobResult, Run } from '../types.ts';
import {
  ENOUGH,
  type DecodeAnswer,
  type DecodeQuestion,
  type DecoderSettings,
} from './decode-protocol.ts';
import { codecs } from './index.ts';
import { decodeXzBlock } from './xz-blocks.ts';

/** An answer is given after so many zeros at the latest, so that who waits can tell how far it is, or stop. */
const MOST_ZEROS = 256 * 1024 * 1024;

interface Stream {
  answer(question: DecodeQuestion): Promise<JobResult & { readonly answer: DecodeAnswer }>;
  close(): Promise<void>;
}

const streams = new Map<number, Stream>();

/** The job `decode`. It throws what the decoder throws. */
export async function decodeStream(question: DecodeQuestion): Promise<JobResult> {
  const { stream: id, settings } = question;
  const stream = streams.get(id) ?? (settings === undefined ? undefined : makeStream(settings));
  if (stream === undefined) throw new TypeError('there is no such stream');
  streams.set(id, stream);
  let isOver = true;
  try {
    if (question.isOver === true) return { answer: undefined };
    const result = await stream.answer(question);
    isOver = result.answer.isDone;
    return result;
  } finally {
    if (isOver) {
      streams.delete(id);
      await stream.close();
    }
  }
}

/** The bytes of its runs are lent until the next one is asked for. */
function decoderOf(settings: DecoderSettings, bytes: ByteStream): AsyncIterable<Run> {
  if ('xzBlock' in settings) return decodeXzBlock(settings.xzBlock, bytes);
  const { codec: name, ...context } = settings;
  const codec = codecs.find((candidate) => candidate.name === name);
  if (codec === undefined) throw new TypeError(`there is no codec ${name}`);
  return codec.decode(bytes, { ...context, lent: true });
}

function makeStream(settings: DecoderSettings): Stream {
  const pieces: Uint8Array[] = [];
  let hasEnded = false;
  let taken = 0;
  /** Set while the decoder waits for a piece. */
  let goOn: (() => void) | undefined;
  /** Called when the decoder starts to wait. */
  let onHunger: (() => void) | undefined;

  async function* input(): AsyncGenerator<Uint8Array, void, void> {
    for (;;) {
      const piece = pieces.shift();
      if (piece !== undefined) {
        taken++;
        yield piece;
      } else if (hasEnded) return;
      else {
        await new Promise<void>((resolve) => {
          goOn = resolve;
          onHunger?.();
        });
      }
    }
  }

  const runs = decoderOf(settings, input())[Symbol.asyncIterator]();
  /** The run that was asked for when the decoder began to wait. */
  let pending: Promise<IteratorResult<Run>> | undefined;
  /** What had no room in the last answer: lent, so no other run is asked for before it has gone. */
  let rest: Uint8Array | undefined;

  /** The next run; `undefined` when the decoder waits for more input. */
  async function nextRun(): Promise<IteratorResult<Run> | undefined> {
    if (rest !== undefined) return { done: false, value: { kind: 'data', bytes: rest } };
    if (goOn !== undefined) return undefined;
    const hunger = new Promise<undefined>((resolve) => {
      onHunger = (): void => resolve(undefined);
    });
    pending ??= runs.next();
    const next = await Promise.race([pending, hunger]);
    onHunger = undefined;
    if (next !== undefined) pending = undefined;
    return next;
  }

  return {
    async answer({ room, ...question }): Promise<JobResult & { readonly answer: DecodeAnswer }> {
      pieces.push(...(question.pieces ?? []));
      hasEnded ||= question.hasEnded === true;
      if (pieces.length > 0 || hasEnded) {
        const wake = goOn;
        goOn = undefined;
        wake?.();
      }
      const target = room ?? freshBytes(ENOUGH);
      const found: Run[] = [];
      let isDone = false;
      let zeros = 0;
      for (let filled = 0; filled < target.length && zeros < MOST_ZEROS;) {
        const next = await nextRun();
        if (next === undefined) break;
        if (next.done === true) {
          isDone = true;
          break;
        }
        const run = next.value;
        // Neighbours of one kind become one.
        const last = found.at(-1);
        if (last?.kind === run.kind) found.pop();
        if (run.kind === 'zero') {
          zeros += run.length;
          const before = last?.kind === 'zero' ? last.length : 0;
          found.push({ kind: 'zero', length: before + run.length });
          continue;
        }
        const part = run.bytes.subarray(0, target.length - filled);
        target.set(part, filled);
        const start = filled - (last?.kind === 'data' ? last.bytes.length : 0);
        filled += part.length;
        found.push({ kind: 'data', bytes: target.subarray(start, filled) });
        rest = part.length < run.bytes.length ? run.bytes.subarray(part.length) : undefined;
      }
      const transfer = target.buffer instanceof ArrayBuffer ? [target.buffer] : [];
      return { answer: { runs: found, taken, isDone }, transfer };
    },
    async close(): Promise<void> {
      hasEnded = true;
      goOn?.();
      await pending?.catch(() => undefined);
      await runs.return?.();
    },
  };
}
