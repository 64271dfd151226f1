/** Digests of a disk that cost nothing for its zeros: the non-zero blocks of 64 KiB, counted and hashed. */

import { createHash, type Hash } from 'node:crypto';
import { Writable } from 'node:stream';
import { isZero } from '../src/bytes.ts';
import { openFile } from '../src/source/file.ts';
import type { Source } from '../src/types.ts';

const BLOCK = 65_536;
/** Up to which size a whole disk is hashed, zeros included, where that is asked for. */
const WHOLE = 256 * 2 ** 20;

export interface Digest {
  /** Size of the disk in bytes. */
  readonly size: number;
  /** Count of non-zero blocks, and the start of sha256 over u64le(offset) and content of each: the corpora's digest. */
  readonly blocks: string;
  /** Of all bytes; absent where it was not asked for, or the disk is too large. */
  readonly sha256: string | undefined;
}

/** Takes a disk from its start to its end. */
interface Digester {
  data(bytes: Uint8Array): void;
  zeros(length: number): void;
  end(): Digest;
}

const noZeros = Buffer.alloc(BLOCK);

/** `whole`: make the sha256 of all bytes too. */
function makeDigester(whole = false): Digester {
  const block = Buffer.alloc(BLOCK);
  const blocks = createHash('sha256');
  const all: Hash | undefined = whole ? createHash('sha256') : undefined;
  const offset = Buffer.alloc(8);
  let count = 0;
  let at = 0;
  /** How much of `block` is filled, and up to where it may hold something else than zeros. */
  let filled = 0;
  let dirty = 0;
  const finish = (): void => {
    if (dirty > 0 && !isZero(block, 0, dirty)) {
      count++;
      offset.writeBigUInt64LE(BigInt(at - filled));
      blocks.update(offset).update(block.subarray(0, filled));
      block.fill(0, 0, dirty);
    }
    filled = 0;
    dirty = 0;
  };
  const advance = (length: number): void => {
    at += length;
    filled += length;
    if (filled === BLOCK) finish();
  };
  return {
    data(bytes) {
      all?.update(bytes);
      for (let start = 0; start < bytes.length;) {
        const length = Math.min(BLOCK - filled, bytes.length - start);
        block.set(bytes.subarray(start, start + length), filled);
        dirty = filled + length;
        advance(length);
        start += length;
      }
    },
    zeros(length) {
      if (at + length <= WHOLE) {
        for (let left = length; all !== undefined && left > 0; left -= BLOCK) {
          all.update(left < BLOCK ? noZeros.subarray(0, left) : noZeros);
        }
      }
      for (let left = length; left > 0;) {
        if (filled === 0 && left >= BLOCK) {
          at += left - (left % BLOCK);
          left %= BLOCK;
        } else {
          const step = Math.min(BLOCK - filled, left);
          advance(step);
          left -= step;
        }
      }
    },
    end() {
      finish();
      return {
        size: at,
        blocks: `${count}:${blocks.digest('hex').slice(0, 16)}`,
        sha256: at <= WHOLE ? all?.digest('hex') : undefined,
      };
    },
  };
}

/** A sink of bytes that keeps nothing but their digest, which is in `digest` when it has finished. */
export function digestSink(whole = false): Writable & { digest: Digest | undefined } {
  const digester = makeDigester(whole);
  const sink = new Writable({
    write(bytes: Buffer, _encoding, done): void {
      digester.data(bytes);
      done();
    },
    final(done): void {
      Object.assign(sink, { digest: digester.end() });
      done();
    },
  });
  return Object.assign(sink, { digest: undefined as Digest | undefined });
}

/** The digest of what `source` holds; holes are not read. */
async function digestOf(source: Source, whole = false): Promise<Digest> {
  const digester = makeDigester(whole);
  const buffer = Buffer.alloc(Math.min(source.size, 2 ** 20));
  for await (const { kind, offset, length } of source.extents()) {
    if (kind === 'zero') digester.zeros(length);
    else {
      for (let at = 0; at < length; at += buffer.length) {
        const part = buffer.subarray(0, Math.min(buffer.length, length - at));
        await source.read(part, offset + at);
        digester.data(part);
      }
    }
  }
  return digester.end();
}

/** The digest of the raw file `path`. */
export async function digestOfFile(path: string, whole = false): Promise<Digest> {
  await using file = await openFile(path);
  return await digestOf(file, whole);
}
