/** Decodes Zstandard frames with Node's own libzstd (Node 22.15 and later), in its thread pool. */

import { finished } from 'node:stream/promises';
import type { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import type { Run } from '../types.ts';
import type { FrameDecoder, ZstdEngine } from './zstd-engine.ts';
import { MAX_BLOCK, frameError } from './zstd-frame.ts';
import type { Place } from './zstd-frame.ts';
import { engineError, makeRun } from './zstd-result.ts';

/** The part of node:zlib that Node 20 does not have. */
interface NativeZstd {
  createZstdDecompress(options: { chunkSize: number }): Transform;
  zstdDecompressSync(
    bytes: Uint8Array,
    options: { chunkSize: number; maxOutputLength: number },
  ): Buffer;
}

/** True when this Node has zstd. */
export function hasNativeZstd(): boolean {
  return 'createZstdDecompress' in zlib && 'zstdDecompressSync' in zlib;
}

/** An engine without a state: each frame has a decoder of its own. */
export function makeNativeEngine(): ZstdEngine {
  const native = zlib as unknown as NativeZstd;
  return {
    decodeFrame(frame, output, place): number {
      let bytes: Buffer;
      try {
        bytes = native.zstdDecompressSync(frame, {
          // larger than what comes out, or a second, empty piece is allocated and joined
          chunkSize: output.length + 64,
          maxOutputLength: Math.max(1, output.length),
        });
      } catch (error) {
        throw wrap(error, place);
      }
      if (bytes.length > output.length) throw wrap(undefined, place);
      output.set(bytes);
      return bytes.length;
    },
    startFrame: (place) => startFrame(native.createZstdDecompress({ chunkSize: MAX_BLOCK }), place),
  };
}

function startFrame(stream: Transform, place: Place): FrameDecoder {
  let pieces: Buffer[] = [];
  let fail: ((error: Error) => void) | undefined;
  stream.on('data', (piece: Buffer) => pieces.push(piece));
  // a write that ends in an error is never called back
  stream.on('error', (error) => fail?.(error));
  const takeRuns = (): Run[] => {
    const runs = pieces.map((piece) => makeRun(piece, 0, piece.length, false));
    pieces = [];
    return runs;
  };
  return {
    async decode(parts): Promise<Run[]> {
      // each write is a job for the thread pool, which costs more than the copy
      const bytes = Buffer.concat(parts);
      try {
        await new Promise<void>((resolve, reject) => {
          fail = reject;
          stream.write(bytes, (error) => (error == null ? resolve() : reject(error)));
        });
      } catch (error) {
        throw wrap(error, place);
      }
      return takeRuns();
    },
    async finish(): Promise<Run[]> {
      try {
        const end = finished(stream);
        stream.end();
        await end;
      } catch (error) {
        throw wrap(error, place);
      }
      return takeRuns();
    },
    close(): void {
      stream.destroy();
    },
  };
}

/** Node gives zlib's codes (negative) and libzstd's (positive) as `errno`, and its own as names. */
function wrap(error: unknown, place: Place): Error {
  const { errno, code } = (error ?? {}) as { errno?: number; code?: string };
  if (code === 'ERR_BUFFER_TOO_LARGE') {
    return frameError('CORRUPT', 'decodes to more bytes than expected', place, error);
  }
  return engineError(errno, place, error);
}
