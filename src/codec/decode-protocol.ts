/** What goes between the thread that wants something decoded and the one that decodes it. */

import type { Limits } from '../limits.ts';
import type { CodecName, Run } from '../types.ts';
import type { XzBlock } from './xz-blocks.ts';

/** Which decoder is wanted, and what it is told: a codec for all that comes, or a block of .xz that comes in one piece. */
export type DecoderSettings =
  | {
      readonly codec: CodecName;
      readonly name: string;
      readonly limits: Limits;
      readonly untrusted: boolean;
    }
  | { readonly xzBlock: XzBlock };

export interface DecodeQuestion {
  readonly stream: number;
  /** With the first question about a stream. */
  readonly settings?: DecoderSettings | undefined;
  readonly pieces?: readonly Uint8Array[];
  /** No more pieces follow. */
  readonly hasEnded?: boolean;
  /** Where the data of the answer go: in memory that both sides share, and use again. By default they get memory of their own. */
  readonly room?: Uint8Array | undefined;
  /** Nobody wants more of the stream. */
  readonly isOver?: boolean;
}

export interface DecodeAnswer {
  readonly runs: readonly Run[];
  /** Pieces that have been looked at, of all that came. */
  readonly taken: number;
  /** All of the stream has been decoded. */
  readonly isDone: boolean;
}

/** An answer holds this much data, in bytes, when there is more to come. */
export const ENOUGH: number = 1024 * 1024;
