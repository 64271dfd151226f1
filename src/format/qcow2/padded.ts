/** A file that goes on with zeros behind its end, as qemu reads it: what is not there is nothing, and no error. */

import { alignUp } from '../../bytes.ts';
import type { Source } from '../../types.ts';

/** qemu measures files in these. */
const SECTOR_SIZE = 512;

export interface PaddedFile {
  /** For messages. */
  readonly name: string;
  /** In bytes, up to the end of the last sector. */
  readonly size: number;
  /** Fills all of `into` with the bytes from `offset` on, and with zeros from the end of the file on. */
  read(into: Uint8Array, offset: number): Promise<void>;
}

/** `file`, which is not disposed of. */
export function padded(file: Source): PaddedFile {
  return {
    name: file.name,
    size: alignUp(file.size, SECTOR_SIZE),
    async read(into, offset): Promise<void> {
      const length = Math.max(0, Math.min(into.length, file.size - offset));
      into.fill(0, length);
      if (length > 0) await file.read(into.subarray(0, length), offset);
    },
  };
}
