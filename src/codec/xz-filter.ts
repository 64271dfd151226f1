/** Undoes the filters that may stand before LZMA2 in a chain (section 5.3 of the .xz format), run by run. */

import { SparsecopyError } from '../errors.ts';
import type { Run } from '../types.ts';
import { bcjConverters } from './xz-bcj.ts';

/** What a block header says of a filter that is not LZMA2. */
export interface FilterFlags {
  /** Section 5.4. */
  readonly id: number;
  readonly properties: Uint8Array;
}

/** One filter of one block, undone. */
export interface Filter {
  /** Takes a run, and may change its bytes; what comes out may be kept back until later. */
  push(run: Run): Iterable<Run>;
  /** What was kept back. */
  end(): Iterable<Run>;
}

/** Section 5.3.3. */
const DELTA = 0x03;

/**
 * What undoes the filter `flags`, for each block anew; undefined when there is no filter with that id.
 * @throws SparsecopyError `CORRUPT` when its properties are none. `place` and `details` are for the message.
 */
export function filterMaker(
  { id, properties }: FilterFlags,
  place: string,
  details: { readonly source: string; readonly offset: number },
): (() => Filter) | undefined {
  if (id === DELTA) {
    if (properties.length === 1) return () => makeDelta((properties[0] ?? 0) + 1);
    const sentence = `${place} has ${properties.length} bytes of delta properties, expected 1`;
    throw new SparsecopyError('CORRUPT', sentence, details);
  }
  const bcj = bcjConverters.get(id);
  if (bcj === undefined) return undefined;
  // nothing, or from which address on the code was converted (section 5.3.2)
  if (properties.length !== 0 && properties.length !== 4) {
    const sentence = `${place} has ${properties.length} bytes of BCJ properties, expected 0 or 4`;
    throw new SparsecopyError('CORRUPT', sentence, details);
  }
  const start = properties.length === 0 ? 0 : Buffer.from(properties).readUInt32LE();
  if (start % bcj.alignment !== 0) {
    const sentence = `${place} has a BCJ filter with start offset ${start}, expected a multiple of ${bcj.alignment}`;
    throw new SparsecopyError('CORRUPT', sentence, details);
  }
  return () => makeBcj(bcj.make(), start);
}

/** Each byte is what is stored plus the byte `distance` before it, which is 0 before the first one. */
function makeDelta(distance: number): Filter {
  let history = Buffer.alloc(distance);
  function* push(run: Run): Generator<Run, void> {
    if (run.kind === 'zero') {
      // nothing added to nothing
      if (history.every((byte) => byte === 0)) yield run;
      else for (const part of bytesOfZeros(run.length)) yield* push({ kind: 'data', bytes: part });
      return;
    }
    const { bytes } = run;
    const first = Math.min(distance, bytes.length);
    for (let at = 0; at < first; at++) bytes[at] = (bytes[at] ?? 0) + (history[at] ?? 0);
    for (let at = first; at < bytes.length; at++) {
      bytes[at] = (bytes[at] ?? 0) + (bytes[at - distance] ?? 0);
    }
    // a copy: the bytes are the receiver's
    history = Buffer.concat([history, bytes.subarray(-distance)]).subarray(-distance);
    yield run;
  }
  return { push, end: () => [] };
}

/** More zeros than any converter looks ahead: behind them it sees nothing but zeros, which it leaves alone. */
const SETTLED = 32;

/** A multiple of every instruction's length. */
const UNIT = 16;

/** `convert` changes addresses in `bytes`, whose first is at `address`, and gives how many it is done with. */
function makeBcj(convert: (bytes: Buffer, address: number) => number, start: number): Filter {
  let address = start;
  let rest: Buffer = Buffer.alloc(0);

  function* pushBytes(bytes: Uint8Array): Generator<Run, void> {
    const all =
      rest.length > 0
        ? Buffer.concat([rest, bytes])
        : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const done = convert(all, address);
    address += done;
    rest = Buffer.from(all.subarray(done));
    if (done > 0) yield { kind: 'data', bytes: all.subarray(0, done) };
  }

  return {
    *push(run): Generator<Run, void> {
      if (run.kind === 'data') {
        yield* pushBytes(run.bytes);
        return;
      }
      const before = Math.min(run.length, SETTLED);
      yield* pushBytes(Buffer.alloc(before));
      const after = (run.length - before) % UNIT;
      const length = run.length - before - after;
      address += length;
      if (length > 0) yield { kind: 'zero', length };
      if (after > 0) yield* pushBytes(Buffer.alloc(after));
    },
    *end(): Generator<Run, void> {
      if (rest.length > 0) yield { kind: 'data', bytes: rest };
    },
  };
}

/** `length` zero bytes, in parts. */
function* bytesOfZeros(length: number): Generator<Buffer, void> {
  const PART = 1024 * 1024;
  for (let left = length; left > 0; left -= PART) yield Buffer.alloc(Math.min(left, PART));
}

/** `run` through `filters`, the first of which comes first. */
export function* throughFilters(run: Run, filters: readonly Filter[], from = 0): Generator<Run> {
  const filter = filters[from];
  if (filter === undefined) yield run;
  else for (const part of filter.push(run)) yield* throughFilters(part, filters, from + 1);
}

/** What `filters` have kept back. */
export function* endOfFilters(filters: readonly Filter[]): Generator<Run> {
  for (const [at, filter] of filters.entries()) {
    for (const part of filter.end()) yield* throughFilters(part, filters, at + 1);
  }
}
