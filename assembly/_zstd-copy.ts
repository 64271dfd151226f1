/** Copying matches: 16 bytes at a time, up to 16 bytes more than asked for. */

/** By offset, from 0 to 15: where each of 16 bytes of a pattern that repeats comes from. */
const PATTERNS: usize = memory.data<u8>([
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1,
  0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0,
  0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0,
  0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1,
  0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2, 3, 4,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1, 2,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 1,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0,
]);

/** By offset: the largest multiple of it up to 16. */
const STEPS: usize = memory.data<u8>([16, 16, 16, 15, 16, 15, 12, 14, 16, 9, 10, 11, 12, 13, 14, 15]);

/** Repeats the `offset` bytes (1 to 15) before `to` up to `end`. */
export function repeat(to: usize, end: usize, offset: u32): void {
  const pattern = i8x16.swizzle(v128.load(to - offset), v128.load(PATTERNS + (offset << 4)));
  const step = <usize>load<u8>(STEPS + offset);
  do {
    v128.store(to, pattern);
    to += step;
  } while (to < end);
}

/** Copies from `from` to `to`, up to `end`; what is read may have been written before by the same copy if `from` is 16 before `to` or more. */
// @ts-ignore: decorator
@inline export function copyWide(from: usize, to: usize, end: usize): void {
  do {
    v128.store(to, v128.load(from));
    from += 16;
    to += 16;
  } while (to < end);
}

/** Copies to `to`, up to `end`, from `from` on, where the bytes from `base` follow those that end at `olderEnd`. */
export function copyOlder(from: usize, olderEnd: usize, base: usize, to: usize, end: usize): void {
  if (end - to <= olderEnd - from) {
    copyWide(from, to, end);
    return;
  }
  for (; from < olderEnd; from++, to++) store<u8>(to, load<u8>(from));
  for (from = base; to < end; from++, to++) store<u8>(to, load<u8>(from));
}

/** True when all of `from` to `end` is zero. */
export function isZero(from: usize, end: usize): bool {
  while (end - from >= 16) {
    if (v128.any_true(v128.load(from))) return false;
    from += 16;
  }
  for (; from < end; from++) if (load<u8>(from) != 0) return false;
  return true;
}
