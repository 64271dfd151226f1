/**
 * XXH32 with seed 0 over bytes that come in parts, and over zeros that nobody made (xxHash specification, "XXH32 algorithm
 * description").
 */

const PRIME1: u32 = 0x9e3779b1;
const PRIME2: u32 = 0x85ebca77;
const PRIME3: u32 = 0xc2b2ae3d;
const PRIME4: u32 = 0x27d4eb2f;
const PRIME5: u32 = 0x165667b1;

// A state, in bytes: 0 the four accumulators, 16 bytes added modulo 2^32, 20 bytes held, 24 one when there was a stripe,
// 32 the bytes held: fewer than a stripe of 16.
const TOTAL: usize = 16;
const HELD: usize = 20;
const STRIPED: usize = 24;
const REST: usize = 32;

/** Makes `state` that of no bytes. */
export function hashReset(state: usize): void {
  store<u32>(state, PRIME1 + PRIME2);
  store<u32>(state, PRIME2, 4);
  store<u32>(state, 0, 8);
  store<u32>(state, 0 - PRIME1, 12);
  store<u32>(state, 0, TOTAL);
  store<u32>(state, 0, HELD);
  store<u32>(state, 0, STRIPED);
}

/** Adds `length` bytes at `at`. */
export function hash(state: usize, at: usize, length: usize): void {
  store<u32>(state, load<u32>(state, TOTAL) + <u32>length, TOTAL);
  const end = at + length;
  let held = load<u32>(state, HELD);
  if (held > 0) {
    for (; held < 16 && at < end; at++) store<u8>(state + held++, load<u8>(at), REST);
    if (held < 16) {
      store<u32>(state, held, HELD);
      return;
    }
    addStripes(state, state + REST, 1);
  }
  const stripes = (end - at) >>> 4;
  if (stripes > 0) addStripes(state, at, stripes);
  at += stripes << 4;
  for (held = 0; at < end; at++) store<u8>(state + held++, load<u8>(at), REST);
  store<u32>(state, held, HELD);
}

/** Adds `length` zeros, and reads none. */
export function hashZeros(state: usize, length: usize): void {
  store<u32>(state, load<u32>(state, TOTAL) + <u32>length, TOTAL);
  let held = load<u32>(state, HELD);
  if (held > 0) {
    for (; held < 16 && length > 0; length--) store<u8>(state + held++, 0, REST);
    if (held < 16) {
      store<u32>(state, held, HELD);
      return;
    }
    addStripes(state, state + REST, 1);
  }
  if (length >= 16) addZeroStripes(state, length >>> 4);
  v128.store(state, i64x2.splat(0), REST);
  store<u32>(state, (<u32>length) & 15, HELD);
}

/** The hash of all that was added. More can be added after it. */
export function hashDigest(state: usize): u32 {
  let value: u32 = PRIME5;
  if (load<u32>(state, STRIPED) !== 0) {
    value = rotl(load<u32>(state), 1) + rotl(load<u32>(state, 4), 7);
    value += rotl(load<u32>(state, 8), 12) + rotl(load<u32>(state, 12), 18);
  }
  value += load<u32>(state, TOTAL);
  let at = state + REST;
  const end = at + load<u32>(state, HELD);
  for (; at + 4 <= end; at += 4) value = rotl(value + load<u32>(at) * PRIME3, 17) * PRIME4;
  for (; at < end; at++) value = rotl(value + <u32>load<u8>(at) * PRIME5, 11) * PRIME1;
  value = (value ^ (value >>> 15)) * PRIME2;
  value = (value ^ (value >>> 13)) * PRIME3;
  return value ^ (value >>> 16);
}

/**
 * Takes `count` stripes at `at` into the accumulators. Plain numbers: one vector for all four is a tenth faster on AMD's
 * processors, but its multiplication takes three times as long on Intel's.
 */
function addStripes(state: usize, at: usize, count: usize): void {
  let a = load<u32>(state);
  let b = load<u32>(state, 4);
  let c = load<u32>(state, 8);
  let d = load<u32>(state, 12);
  const end = at + (count << 4);
  for (; at < end; at += 16) {
    a = rotl(a + load<u32>(at) * PRIME2, 13) * PRIME1;
    b = rotl(b + load<u32>(at, 4) * PRIME2, 13) * PRIME1;
    c = rotl(c + load<u32>(at, 8) * PRIME2, 13) * PRIME1;
    d = rotl(d + load<u32>(at, 12) * PRIME2, 13) * PRIME1;
  }
  store<u32>(state, a);
  store<u32>(state, b, 4);
  store<u32>(state, c, 8);
  store<u32>(state, d, 12);
  store<u32>(state, 1, STRIPED);
}

/** Takes `count` stripes of zeros into the accumulators. */
function addZeroStripes(state: usize, count: usize): void {
  let a = load<u32>(state);
  let b = load<u32>(state, 4);
  let c = load<u32>(state, 8);
  let d = load<u32>(state, 12);
  for (; count > 0; count--) {
    a = rotl(a, 13) * PRIME1;
    b = rotl(b, 13) * PRIME1;
    c = rotl(c, 13) * PRIME1;
    d = rotl(d, 13) * PRIME1;
  }
  store<u32>(state, a);
  store<u32>(state, b, 4);
  store<u32>(state, c, 8);
  store<u32>(state, d, 12);
  store<u32>(state, 1, STRIPED);
}
