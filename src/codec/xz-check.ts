/** Knows the integrity checks of .xz blocks (section 3.4 of the format), each as a sum over runs. */

import { crc32 } from 'node:zlib';
import type { Run } from '../types.ts';
import { makeCrc64 } from './xz-crc64.ts';

/** The check of one block, over what was decoded of it. */
export interface Check {
  /** For messages. */
  readonly name: string;
  update(run: Run): void;
  /** The check as the format stores it. */
  digest(): Uint8Array;
}

/** Check id (section 2.1.1.2). */
const SHA256 = 0x0a;

/** As long as the longest run of zeros that the decoder gives, and shared: CRC32 over it runs at memory speed. */
const ZEROS = Buffer.alloc(64 * 1024);

const noCheck = (): Check => ({
  name: 'no check',
  update(): void {
    // nothing is stored to compare with
  },
  digest: () => new Uint8Array(0),
});

const makeCrc32Check = (): Check => {
  let crc = 0;
  return {
    name: 'CRC32',
    update(run): void {
      if (run.kind === 'data') {
        crc = crc32(run.bytes, crc);
        return;
      }
      for (let left = run.length; left > 0; left -= ZEROS.length) {
        crc = crc32(ZEROS.subarray(0, left), crc);
      }
    },
    digest(): Uint8Array {
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
    update(run): void {
      if (run.kind === 'data') crc.update(run.bytes);
      else crc.updateZeros(run.length);
    },
    digest(): Uint8Array {
      const stored = Buffer.alloc(8);
      const [low, high] = crc.digest();
      stored.writeUInt32LE(low, 0);
      stored.writeUInt32LE(high, 4);
      return stored;
    },
  };
};

/** By check id (section 2.1.1.2). */
const makers: ReadonlyMap<number, () => Check> = new Map([
  [0x00, noCheck],
  [0x01, makeCrc32Check],
  [0x04, makeCrc64Check],
]);

/** What makes the check with `id`, for each block anew; undefined when it is not implemented. */
export function checkMaker(id: number): (() => Check) | undefined {
  return makers.get(id);
}

/** Name of a check that is not implemented. */
export function checkName(id: number): string {
  return id === SHA256 ? 'SHA-256 check' : `check with id ${id}`;
}
