/** Bytes of a file that passes once, kept until it is known who wants them: in memory, and beyond a limit in a temporary file. */

import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { alignUp, asBuffer, isZero } from './bytes.ts';
import { openTemporary, type TemporaryFile } from './spool.ts';
import type { Parked } from './types.ts';

const read = promisify(fs.read);

/** What is kept is moved to the temporary file in pages of at most this size. */
const PAGE = 1024 * 1024;

/** A small limit still makes several pages, of which one can be filled while others are written. */
const LEAST_PAGES = 4;
const LEAST_PAGE = 4096;

/** Zeros are looked for in blocks of this size. */
const ZERO_GRAIN = 4096;

/** They are noted, not kept, from this length on: less is read with what is around it, in one read of the file. */
const LEAST_ZEROS = 32 * 1024;

/** A gap between compressed clusters comes for some 20 KiB of file: so many cover 20 GiB, in 24 MiB of notes. */
const MOST_RANGES = 1024 * 1024;

export interface ParkingOptions {
  /** Bytes kept in memory; what is more goes to a temporary file. */
  readonly limit: number;
  /** Folder for the temporary file; default the system's. */
  readonly folder?: string | undefined;
  /** Ranges noted before the parking calls itself crowded. */
  readonly mostRanges?: number;
}

/** Bytes by their offset in the file. Dispose of it when no read is under way. */
export interface Parking extends AsyncDisposable {
  /**
   * Keeps a copy of `bytes`, which lie at `offset`; each call goes on behind the last one. A promise is to be awaited
   * before the next call; `bytes` must not change until then.
   * @throws the system's error when the temporary file cannot be made or written.
   */
  keep(bytes: Uint8Array, offset: number): Promise<void> | undefined;
  /** Notes that there are zeros; as `keep` otherwise. */
  keepZeros(length: number, offset: number): Promise<void> | undefined;
  /** What is kept at `offset`: how far it reaches as one kind (there may be more behind it), and whether it is zeros. */
  at(offset: number): { readonly end: number; readonly isZero: boolean } | undefined;
  /** Fills `into` with what lies at `offset`, all of which is kept. `undefined` when that is done already. */
  read(into: Uint8Array, offset: number): Promise<void> | undefined;
  /** Forgets everything; nothing is kept after it. */
  clear(): void;
  /** True when more ranges with gaps between them would need too much memory: keeping the gaps too costs less. */
  readonly isCrowded: boolean;
  /** Bytes kept, without zeros that were only noted. */
  readonly parked: Parked;
}

/**
 * A parking without anything in it. Bytes lie one behind the other, in pages; the oldest page goes to the file when there
 * is no memory for a new one, and stays there.
 */
export function makeParking(options: ParkingOptions): Parking {
  const { limit, folder, mostRanges = MOST_RANGES } = options;
  const pageSize = Math.min(PAGE, Math.max(LEAST_PAGE, Math.floor(limit / LEAST_PAGES)));
  const mostPages = Math.max(1, Math.floor(limit / pageSize));

  /** Pages in memory by their number, oldest first, those being written included. */
  const pages = new Map<number, Buffer>();
  const free: Buffer[] = [];
  let made = 0;
  /** Bytes kept: where the next one goes, in all pages. */
  let filled = 0;
  /** The page in hand, and where it goes there. */
  let page: Buffer | undefined;
  let pageFilled = 0;
  /** Number of the first page that has not been given to the file. */
  let firstUnwritten = 0;
  let file: TemporaryFile | undefined;

  /** Ranges, ascending: their offsets, their ends, and where their bytes lie in the pages, or -1 for zeros. */
  let offsets = new Float64Array(64);
  let ends = new Float64Array(64);
  let positions = new Float64Array(64);
  let count = 0;
  /** Number of the range that was found last: whoever asks next asks for what lies behind it. */
  let hint = 0;

  let peak = 0;
  let spooled = 0;

  function note(offset: number, length: number, position: number): void {
    const last = count - 1;
    if (count > 0 && ends[last] === offset && (positions[last] === -1) === (position === -1)) {
      ends[last] = offset + length;
      return;
    }
    if (count === offsets.length) {
      [offsets, ends, positions] = [grown(offsets), grown(ends), grown(positions)];
    }
    offsets[count] = offset;
    ends[count] = offset + length;
    positions[count] = position;
    count++;
  }

  const isCrowded = (): boolean => count >= mostRanges;

  /** Number of the range that has `offset`, or -1. */
  function find(offset: number): number {
    for (let at = hint; at < Math.min(hint + 2, count); at++) {
      if (offset >= (offsets[at] ?? 0) && offset < (ends[at] ?? 0)) return (hint = at);
    }
    let low = 0;
    for (let high = count; low < high;) {
      const middle = (low + high) >>> 1;
      if ((ends[middle] ?? 0) > offset) high = middle;
      else low = middle + 1;
    }
    return low < count && offset >= (offsets[low] ?? 0) ? (hint = low) : -1;
  }

  /** A buffer for the page that comes next; a promise when one must be written first. */
  function takePage(): Buffer | Promise<Buffer> {
    const buffer = free.pop();
    if (buffer !== undefined) return buffer;
    if (made === mostPages) return emptyPage();
    made++;
    return Buffer.allocUnsafeSlow(pageSize);
  }

  function takeInHand(buffer: Buffer): void {
    pages.set(filled / pageSize, buffer);
    page = buffer;
    pageFilled = 0;
  }

  async function emptyPage(): Promise<Buffer> {
    file ??= await openTemporary(folder);
    const { writer } = file;
    for (;;) {
      const buffer = free.pop();
      if (buffer !== undefined) return buffer;
      const number = firstUnwritten;
      const oldest = pages.get(number);
      if (oldest === undefined) await writer.drain();
      else {
        firstUnwritten++;
        spooled += pageSize;
        await writer.write(oldest, number * pageSize, () => {
          if (pages.get(number) !== oldest) return;
          pages.delete(number);
          free.push(oldest);
        });
      }
    }
  }

  /** Copies bytes into the page in hand, as far as it has room. */
  function append(bytes: Buffer, from: number, to: number, offset: number): number {
    if (page === undefined || pageFilled === pageSize) return 0;
    const length = Math.min(to - from, pageSize - pageFilled);
    bytes.copy(page, pageFilled, from, from + length);
    note(offset + from, length, filled);
    filled += length;
    pageFilled += length;
    if (filled > peak) peak = filled;
    return length;
  }

  function keep(piece: Uint8Array, offset: number): Promise<void> | undefined {
    const bytes = asBuffer(piece);
    // The small change between compressed clusters, which is most of what comes.
    const done = bytes.length < LEAST_ZEROS ? append(bytes, 0, bytes.length, offset) : 0;
    return done === bytes.length ? undefined : keepLong(bytes, done, offset);
  }

  function keepLong(bytes: Buffer, from: number, offset: number): Promise<void> | undefined {
    for (let at = from; at < bytes.length;) {
      const zeros = isCrowded() ? undefined : nextZeros(bytes, at, offset);
      const dataEnd = zeros?.start ?? bytes.length;
      while (at < dataEnd) {
        const length = append(bytes, at, dataEnd, offset);
        at += length;
        if (length > 0) continue;
        const next = takePage();
        if (next instanceof Promise) {
          return next.then((buffer) => {
            takeInHand(buffer);
            return keepLong(bytes, at, offset);
          });
        }
        takeInHand(next);
      }
      if (zeros !== undefined && zeros.end > at) {
        note(offset + at, zeros.end - at, -1);
        at = zeros.end;
      }
    }
    return undefined;
  }

  function readAt(into: Uint8Array, offset: number): Promise<void> | undefined {
    /** What is not in memory: where it goes, and where it is in the file. */
    const stored: { target: Uint8Array; position: number }[] = [];
    for (let done = 0; done < into.length;) {
      const range = find(offset + done);
      if (range === -1) throw new RangeError(`nothing is parked at ${offset + done}`);
      const length = Math.min(into.length, (ends[range] ?? 0) - offset) - done;
      const target = into.subarray(done, done + length);
      const position = positions[range] ?? -1;
      if (position === -1) target.fill(0);
      else copyPages(target, position + (offset + done - (offsets[range] ?? 0)), stored);
      done += length;
    }
    return stored.length === 0 ? undefined : readStored(stored);
  }

  function copyPages(
    into: Uint8Array,
    position: number,
    stored: { target: Uint8Array; position: number }[],
  ): void {
    for (let done = 0; done < into.length;) {
      const at = (position + done) % pageSize;
      const length = Math.min(into.length - done, pageSize - at);
      const there = pages.get(Math.floor((position + done) / pageSize));
      if (there !== undefined) there.copy(into, done, at, at + length);
      else stored.push({ target: into.subarray(done, done + length), position: position + done });
      done += length;
    }
  }

  async function readStored(
    stored: readonly { readonly target: Uint8Array; readonly position: number }[],
  ): Promise<void> {
    if (file === undefined) throw new RangeError('there is no temporary file');
    // A page leaves the memory however its write ended.
    await file.writer.drain();
    for (const { target, position } of stored) {
      for (let done = 0; done < target.length;) {
        const left = target.length - done;
        const { bytesRead } = await read(file.fd, target, done, left, position + done);
        if (bytesRead === 0) throw new RangeError(`the temporary file ends at ${position + done}`);
        done += bytesRead;
      }
    }
  }

  return {
    keep,
    keepZeros(length: number, offset: number): Promise<void> | undefined {
      if (isCrowded() && length < PAGE) return keep(Buffer.alloc(length), offset);
      note(offset, length, -1);
      return undefined;
    },
    at(offset: number): { end: number; isZero: boolean } | undefined {
      const range = find(offset);
      if (range === -1) return undefined;
      return { end: ends[range] ?? 0, isZero: positions[range] === -1 };
    },
    read: readAt,
    clear(): void {
      if (count === 0) return;
      pages.clear();
      free.length = 0;
      page = undefined;
      offsets = ends = positions = new Float64Array(0);
      count = 0;
    },
    get isCrowded(): boolean {
      return isCrowded();
    },
    parked: {
      get peak(): number {
        return peak;
      },
      get spooled(): number {
        return spooled;
      },
    },
    async [Symbol.asyncDispose](): Promise<void> {
      this.clear();
      await file?.close();
    },
  };
}

function grown(array: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(array.length * 2);
  larger.set(array);
  return larger;
}

/** The next zeros worth noting in `bytes`, from `at` on; both are the end when there are none. `offset` is that of the first byte. */
function nextZeros(bytes: Buffer, at: number, offset: number): { start: number; end: number } {
  let start = alignUp(offset + at, ZERO_GRAIN) - offset;
  while (start + LEAST_ZEROS <= bytes.length) {
    let end = start;
    while (end + ZERO_GRAIN <= bytes.length && isZero(bytes, end, end + ZERO_GRAIN)) {
      end += ZERO_GRAIN;
    }
    if (end - start >= LEAST_ZEROS) return { start, end };
    start = end + ZERO_GRAIN;
  }
  return { start: bytes.length, end: bytes.length };
}
