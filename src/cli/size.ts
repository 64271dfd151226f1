/** The C tool's SIZE and POS: a count of blocks, or of bytes with a suffix. */

/** In order of powers of 1024, from bytes on. */
const SUFFIXES = 'bkmgtpe';

/**
 * `text` in bytes: digits alone count blocks of `blockSize`; a letter of `bkmgtpe` in either case multiplies by a power of
 * 1024, and what follows it is ignored (`4KiB` is 4096). `undefined` for anything else, and beyond 2^53.
 */
export function parseSize(text: string, blockSize: number): number | undefined {
  const match = /^(\d+)(.?)/.exec(text);
  if (match?.[1] === undefined) return undefined;
  const power = SUFFIXES.indexOf((match[2] ?? '').toLowerCase());
  const size = Number(match[1]) * (match[2] === '' ? blockSize : 1024 ** power);
  return power >= 0 && Number.isSafeInteger(size) ? size : undefined;
}
