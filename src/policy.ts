/** What an image may be that strangers hand in: exactly one thing, that which it is said to be, and known (security.md, T7 to T10). */

import { makeEdgeKeeper } from './chunk/edges.ts';
import { SparsecopyError, type ErrorDetails } from './errors.ts';
import { formats } from './format/index.ts';
import { HEAD_LENGTH, probeSignatures, TAIL_LENGTH, type Edges } from './format/signatures.ts';
import type { Limits } from './limits.ts';
import { LONGEST_TIMER } from './source/stream.ts';
import type { Chunk, FormatName, Run, Source } from './types.ts';

/**
 * Refuses an image that could be taken for something else, as its edges show it. `declared` is what the caller says it is.
 * Bytes that only might be a disk are accepted when they are declared raw. To be called again when a `tail` comes later.
 *
 * @throws SparsecopyError `FORMAT` for nothing at all, for another format than the declared one (raw is one, too), for more
 * than one format, and for what has no known signature; `UNSUPPORTED` for a format, archive or compression that is not read here.
 */
export function checkImage(name: string, edges: Edges, declared: FormatName | undefined): void {
  const refuse = (found: string, sentence: string, details: ErrorDetails = {}): SparsecopyError =>
    new SparsecopyError('FORMAT', sentence, { source: name, found, ...details });
  if (edges.head.length === 0) throw refuse('0 bytes', 'is empty: there is no image in it');

  const found = probeSignatures(edges);
  const all = found.formats.join(' and ');
  const [format] = found.formats;
  if (
    declared !== undefined &&
    (declared === 'raw' ? format !== undefined : !found.formats.includes(declared))
  ) {
    const was = format === undefined ? 'is not one' : `has the signature of ${all}`;
    throw refuse(
      format === undefined ? 'another format' : all,
      `was declared to be ${declared}, and ${was}`,
      {
        expected: declared,
      },
    );
  }
  if (found.formats.length > 1) {
    throw refuse(all, `has the signatures of several formats: ${all}`);
  }
  if (found.embedded.length > 0) {
    const inside = found.embedded.join(' and ');
    throw refuse(
      `${all} and ${inside}`,
      `is ${all}, and has the signature of ${inside} in its header`,
    );
  }
  if (format === 'luks') {
    throw new SparsecopyError('UNSUPPORTED', 'is encrypted (luks)', {
      source: name,
      feature: 'encryption',
    });
  }
  const unread =
    format ??
    (declared === undefined && found.contents.length === 0 ? found.containers[0] : undefined);
  if (unread !== undefined && !formats.some((known) => known.name === unread)) {
    const names = formats.map((known) => known.name).join(', ');
    throw new SparsecopyError('UNSUPPORTED', `is ${unread}, expected one of ${names}`, {
      source: name,
      feature: unread,
      expected: names,
      found: unread,
    });
  }
  if (format === undefined && declared === undefined && found.contents.length === 0) {
    const [document] = found.documents;
    const sentence =
      document === undefined
        ? 'has no signature of a disk image, a partition table or a file system; if it is a raw disk, declare it so'
        : `is no disk image, but ${document}`;
    throw refuse(document ?? 'nothing known', sentence);
  }
}

/**
 * `runs`, an image that passes once and begins with `head`. Before they end, it is checked as by `checkImage`, now that its last
 * bytes are known, too.
 */
export async function* checkedRuns(
  runs: AsyncIterable<Run>,
  head: Uint8Array,
  name: string,
  declared: FormatName | undefined,
): AsyncGenerator<Run, void, void> {
  const keeper = makeEdgeKeeper(0, TAIL_LENGTH);
  let offset = 0;
  for await (const run of runs) {
    const length = run.kind === 'data' ? run.bytes.length : run.length;
    keeper.pass(run.kind === 'data' ? { offset, length, bytes: run.bytes } : { offset, length });
    offset += length;
    yield run;
  }
  checkImage(name, { head, tail: keeper.edges().tail }, declared);
}

/** The last bytes of `image`, as `checkImage` wants them. */
export async function readTail(image: Source): Promise<Uint8Array> {
  const tail = Buffer.alloc(Math.min(TAIL_LENGTH, image.size));
  await image.read(tail, image.size - tail.length);
  return tail;
}

/** @throws SparsecopyError `FORMAT` when a disk with these edges is itself a disk image: the next to look at it would take it for one. */
function checkContent(name: string, edges: Edges): void {
  const { formats: found } = probeSignatures(edges);
  if (found.length === 0) return;
  const all = found.join(' and ');
  throw new SparsecopyError('FORMAT', `holds a disk that is itself an image: ${all}`, {
    source: name,
    expected: 'a disk',
    found: all,
  });
}

/**
 * Looks at a disk that can be read at any offset, before anything is done with it.
 * @throws SparsecopyError `FORMAT` when it is itself a disk image; what reading throws.
 */
export async function checkDisk(name: string, disk: Source): Promise<void> {
  const head = Buffer.alloc(Math.min(HEAD_LENGTH, disk.size));
  await disk.read(head, 0);
  checkContent(name, { head, tail: await readTail(disk) });
}

/** Looks at a disk that passes once. */
export interface OutputGuard {
  /** Takes note of a chunk; the chunks may come in any order. */
  pass(chunk: Chunk): void;
  /**
   * To be called when all has passed, and before anybody else sees it.
   * @throws SparsecopyError `FORMAT` when the disk is itself a disk image.
   */
  end(): void;
}

/** `checkDisk` for a disk that passes once, out of the image called `name`. */
export function makeOutputGuard(name: string): OutputGuard {
  const keeper = makeEdgeKeeper(HEAD_LENGTH, TAIL_LENGTH);
  return {
    pass: (chunk) => keeper.pass(chunk),
    end: () => checkContent(name, keeper.edges()),
  };
}

/** @throws SparsecopyError `LIMIT` when the size `found` of `name`, in bytes, is more than allowed. */
export function checkSize(
  name: string,
  limit: 'sourceSize' | 'virtualSize',
  found: number,
  limits: Limits,
): void {
  const expected = limits[limit];
  if (found <= expected) return;
  const what = limit === 'sourceSize' ? 'is' : 'holds a disk of';
  throw new SparsecopyError('LIMIT', `${what} ${found} bytes or more, the limit is ${expected}`, {
    source: name,
    limit,
    expected,
    found,
  });
}

/** Calls `onLimit` with a `LIMIT` error when `totalTime` has passed; the function that is returned ends the watch. */
export function limitTime(
  name: string,
  { totalTime }: Pick<Limits, 'totalTime'>,
  onLimit: (error: SparsecopyError) => void,
): () => void {
  if (totalTime * 1000 > LONGEST_TIMER) return () => undefined;
  const timer = setTimeout(() => {
    onLimit(
      new SparsecopyError('LIMIT', `takes more than ${totalTime} seconds`, {
        source: name,
        limit: 'totalTime',
        expected: totalTime,
      }),
    );
  }, totalTime * 1000).unref();
  return () => clearTimeout(timer);
}
