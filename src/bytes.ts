/** Reading integers out of bytes, and telling zeros from data: pure functions over Uint8Array. */

/** A view of `bytes` for reading integers. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The same bytes as a Buffer, without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Length of the first test: a block with data almost always shows it here. */
const FIRST = 16;

/**
 * True when `bytes` from `start` to `end` (exclusive) are all zero.
 *
 * The first bytes are tested one by one; then the range is compared with itself shifted, which runs at the speed
 * of memory (the trick of nbdkit's iszero.h: a[0..n) is zero when a[0..k) is zero and a[0..n-k) equals a[k..n)).
 */
export function isZero(bytes: Uint8Array, start = 0, end: number = bytes.length): boolean {
  const first = Math.min(end, start + FIRST);
  for (let at = start; at < first; at++) if (bytes[at] !== 0) return false;
  if (end - start <= FIRST) return true;
  const buffer = asBuffer(bytes);
  return buffer.compare(buffer, start, end - FIRST, start + FIRST, end) === 0;
}

/** `value` rounded down to a multiple of `unit`; safe beyond 2^32. */
export function alignDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** `value` rounded up to a multiple of `unit`; safe beyond 2^32. */
export function alignUp(value: number, unit: number): number {
  return alignDown(value + unit - 1, unit);
}

/** Memory for `length` bytes, with arbitrary content, that nothing shares. */
export function freshBytes(length: number): Buffer {
  return Buffer.allocUnsafeSlow(length);
}

const lenders = new WeakMap<Uint8Array, () => void>();

/** `bytes`, which `takeBack` wants back, to use them again, when nobody needs them any more. */
export function lend(bytes: Buffer, takeBack: () => void): Buffer {
  lenders.set(bytes, takeBack);
  return bytes;
}

/** Tells whoever lent `bytes`, if somebody did, that they are needed no more. Not doing so is safe. */
export function giveBack(bytes: Uint8Array): void {
  const takeBack = lenders.get(bytes);
  lenders.delete(bytes);
  takeBack?.();
}

/**
 * `bytes`, or a copy where they lie in memory that threads share and use again when `release` is called: for whoever keeps bytes, or hands
 * them to somebody who knows nothing of that.
 */
export function unshared(bytes: Uint8Array, release?: () => void): Uint8Array {
  if (!(bytes.buffer instanceof SharedArrayBuffer)) return bytes;
  const copy = Buffer.from(bytes);
  release?.();
  return copy;
}
