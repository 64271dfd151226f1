/** Reads the parts of the .xz container whose length shows only in their bytes: integers, padding, the index. */

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { SparsecopyError } from '../errors.ts';
import type { ByteReader } from './reader.ts';
import { MAX_INTEGER_LENGTH, demandCrc32, parseInteger } from './xz-header.ts';

/** The records of an index, summed up: a list of them would grow with the input. */
export interface Records {
  readonly count: number;
  /** Adds a block: its length without its padding, and of what it decodes to, in bytes. */
  add(unpadded: number, uncompressed: number): void;
  /** Sum of what was added; nothing can be added after it. */
  digest(): string;
}

/** No records yet. */
export function makeRecords(): Records {
  const hash = createHash('sha256');
  let count = 0;
  return {
    get count(): number {
      return count;
    },
    add(unpadded, uncompressed): void {
      count++;
      hash.update(`${unpadded} ${uncompressed}\n`);
    },
    digest: () => hash.digest('hex'),
  };
}

/** The next `length` bytes without consuming them. */
export async function readAhead(
  reader: ByteReader,
  length: number,
  what: string,
): Promise<Uint8Array> {
  const bytes = await reader.peek(length);
  return bytes.length === length ? bytes : reader.read(length, what);
}

/** Reads the zeros up to a multiple of four bytes from `start` (sections 3.3 and 4.4). */
export async function readPadding(
  reader: ByteReader,
  start: number,
  what: string,
): Promise<Uint8Array> {
  const { offset } = reader;
  const bytes = await reader.read((start - offset) & 3, what);
  if (bytes.some((byte) => byte !== 0)) {
    throw corrupt(reader, offset, `${what} at ${offset} is not zero`);
  }
  return bytes;
}

/** Skips the zeros that may follow a stream (section 2.2): a multiple of four of them. */
export async function skipStreamPadding(reader: ByteReader): Promise<void> {
  const start = reader.offset;
  for (;;) {
    const bytes = await reader.peek(4);
    if (bytes[0] !== 0) return;
    if (bytes.length < 4 || bytes.some((byte) => byte !== 0)) {
      const sentence = `stream padding at ${start} is not a multiple of four zero bytes`;
      throw corrupt(reader, start, sentence);
    }
    await reader.skip(4);
  }
}

/** Reads an index (section 4), which has to have the records `expected`. Gives its length in bytes. */
export async function readIndex(reader: ByteReader, expected: Records): Promise<number> {
  const start = reader.offset;
  const place = `index at ${start}`;
  let crc = 0;
  const read = async (length: number): Promise<void> => {
    crc = crc32(await reader.read(length, 'index'), crc);
  };
  const readInteger = async (): Promise<number> => {
    const head = await reader.peek(MAX_INTEGER_LENGTH);
    const parsed = parseInteger(head, 0);
    if (parsed !== undefined) {
      await read(parsed.length);
      return parsed.value;
    }
    if (head.every((byte) => byte >= 0x80)) await reader.read(MAX_INTEGER_LENGTH, 'index');
    throw corrupt(reader, reader.offset, `index has no valid integer at ${reader.offset}`);
  };
  // indicator (0), count of records, records, padding, CRC32
  await read(1);
  const count = await readInteger();
  // a count that lies would make work without end
  if (count !== expected.count) {
    throw corrupt(reader, start, `${place} says ${count} blocks, found ${expected.count}`);
  }
  const stored = makeRecords();
  while (stored.count < count) stored.add(await readInteger(), await readInteger());
  if (stored.digest() !== expected.digest()) {
    throw corrupt(reader, start, `${place} has other sizes than the blocks before it`);
  }
  const padding = await readPadding(reader, start, 'index padding');
  // crc32() of no bytes gives 0 and forgets what came before
  if (padding.length > 0) crc = crc32(padding, crc);
  demandCrc32(crc, await reader.read(4, 'index CRC32'), place, start, reader.name);
  return reader.offset - start;
}

/** The error for damage at `offset`. */
export function corrupt(reader: ByteReader, offset: number, sentence: string): SparsecopyError {
  return new SparsecopyError('CORRUPT', sentence, { source: reader.name, offset });
}
