/**
 * LZ4 blocks and XXH32. The caller lays out the memory behind `freeFrom`: a block with 64 spare bytes behind it, and an
 * output area with the history before it and 64 spare bytes behind it, which are spoilt.
 */

export { decode, fault, faultAt, faultOffset, faultReach } from './_lz4-block';
export { hash, hashDigest, hashReset, hashZeros } from './_xxh32';

/** A checksum's state, for as many bytes as one takes; there are two, 64 bytes apart. */
export const states: usize = memory.data(128, 16);

/** Whether all `length` bytes at `at` are zero. */
export function isZero(at: usize, length: usize): bool {
  const end = at + length;
  for (; at + 64 <= end; at += 64) {
    const one = v128.or(v128.load(at), v128.load(at, 16));
    const other = v128.or(v128.load(at, 32), v128.load(at, 48));
    if (v128.any_true(v128.or(one, other))) return false;
  }
  for (; at < end; at++) if (load<u8>(at) !== 0) return false;
  return true;
}

/** Moves bytes that may overlap. */
export function move(to: usize, from: usize, length: usize): void {
  memory.copy(to, from, length);
}
