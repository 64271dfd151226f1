/** Knows the integrity checks of .xz blocks (section 3.4 of the format), each as a sum over runs. */

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Run } from '../types.ts';
import { makeCrc64 } from './xz-crc64.ts';

/** The check of one block, over what was decoded of it. */
export interface Check {
  /** For messages. */
  readonly name: string;
  /** How the format stores it, in bytes. */
  readonly length: number;
  update(run: Run): void;
  /** The check as the format stores it; nothing can be added after it. */
  digest(): Buffer;
}

/** What is hashed where zeros cannot be skipped. */
const ZEROS = Buffer.alloc(64 * 1024);

const noCheck = (): Check => ({
  name: 'no check',
  length: 0,
  update(): void {
    // nothing is stored to compare with
  },
  digest: () => Buffer.alloc(0),
});

const makeCrc32Check = (): Check => {
  let crc = 0;
  return {
    name: 'CRC32',
    length: 4,
    update(run): void {
      crc = run.kind === 'data' ? crc32(run.bytes, crc) : crc32OfZeros(crc, run.length);
    },
    digest(): Buffer {
      const stored = Buffer.alloc(4);
      stored.writeUInt32LE(crc);
      return stored;
    },
  };
};

const makeCrc64Check = (): Check => {
  const crc = makeCrc64();
  return {
    name: 'CRC64',
    length: 8,
    update(run): void {
      if (run.kind === 'data') crc.update(run.bytes);
      else crc.updateZeros(run.length);
    },
    digest(): Buffer {
      const stored = Buffer.alloc(8);
      const [low, high] = crc.digest();
      stored.writeUInt32LE(low, 0);
      stored.writeUInt32LE(high, 4);
      return stored;
    },
  };
};

const makeSha256Check = (): Check => {
  const hash = createHash('sha256');
  return {
    name: 'SHA-256',
    length: 32,
    update(run): void {
      if (run.kind === 'data') {
        hash.update(run.bytes);
        return;
      }
      for (let left = run.length; left > 0; left -= ZEROS.length) {
        hash.update(left < ZEROS.length ? ZEROS.subarray(0, left) : ZEROS);
      }
    },
    digest: () => hash.digest(),
  };
};

/** By check id (section 2.1.1.2). */
const makers: ReadonlyMap<number, () => Check> = new Map([
  [0x00, noCheck],
  [0x01, makeCrc32Check],
  [0x04, makeCrc64Check],
  [0x0a, makeSha256Check],
]);

/** What makes the check with `id`, for each block anew; undefined when the format does not define it. */
export function checkMaker(id: number): (() => Check) | undefined {
  return makers.get(id);
}

/*
 * A CRC is the remainder of a polynomial division over GF(2), here with bit 0 as the coefficient of x^31: a shift to the right multiplies by x.
 */

/** The divisor of CRC32 (section 6), reflected. */
const POLYNOMIAL = 0xedb88320 | 0;

/** x^8, reflected. */
const X8 = 0x00800000;

/** `crc` after `length` zero bytes, each of which multiplies the inverted CRC by x^8. */
function crc32OfZeros(crc: number, length: number): number {
  let state = ~crc;
  let square = X8;
  for (let left = length; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) state = multiply(state, square);
    square = multiply(square, square);
  }
  return ~state >>> 0;
}

function multiply(a: number, b: number): number {
  let product = 0;
  let factor = a;
  for (let power = 31; power >= 0; power--) {
    product ^= factor & -((b >>> power) & 1);
    factor = (factor >>> 1) ^ (POLYNOMIAL & -(factor & 1));
  }
  return product;
}
