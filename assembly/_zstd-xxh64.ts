/** XXH64 with seed 0 (section 3.1.1 of RFC 8878 has its low 32 bits as the content checksum), of data and of zeros that nobody made. */

import { HASH } from './_zstd-memory';

// @ts-ignore: decorator
@inline const P1: u64 = 0x9e3779b185ebca87;
// @ts-ignore: decorator
@inline const P2: u64 = 0xc2b2ae3d27d4eb4f;
// @ts-ignore: decorator
@inline const P3: u64 = 0x165667b19e3779f9;
// @ts-ignore: decorator
@inline const P4: u64 = 0x85ebca77c2b2ae63;
// @ts-ignore: decorator
@inline const P5: u64 = 0x27d4eb2f165667c5;

/** Bytes that are not in the sums yet, less than 32. */
// @ts-ignore: decorator
@inline const REST: usize = HASH + 32;

let total: u64 = 0;

export function hashStart(): void {
  total = 0;
  store<u64>(HASH, P1 + P2);
  store<u64>(HASH, P2, 8);
  store<u64>(HASH, 0, 16);
  store<u64>(HASH, 0 - P1, 24);
}

// @ts-ignore: decorator
@inline function round(sum: u64, word: u64): u64 {
  return rotl<u64>(sum + word * P2, 31) * P1;
}

/** Puts whole stripes of 32 bytes into the sums. */
function stripes(from: usize, end: usize): void {
  let a = load<u64>(HASH);
  let b = load<u64>(HASH, 8);
  let c = load<u64>(HASH, 16);
  let d = load<u64>(HASH, 24);
  for (; from < end; from += 32) {
    a = round(a, load<u64>(from));
    b = round(b, load<u64>(from, 8));
    c = round(c, load<u64>(from, 16));
    d = round(d, load<u64>(from, 24));
  }
  store<u64>(HASH, a);
  store<u64>(HASH, b, 8);
  store<u64>(HASH, c, 16);
  store<u64>(HASH, d, 24);
}

export function hashData(from: usize, length: u32): void {
  const held = <u32>total & 31;
  const end = from + length;
  total += length;
  if (held > 0) {
    const missing: u32 = 32 - held;
    if (length < missing) {
      memory.copy(REST + held, from, length);
      return;
    }
    memory.copy(REST + held, from, missing);
    stripes(REST, REST + 32);
    from += missing;
  }
  const left = <u32>(end - from) & 31;
  stripes(from, end - left);
  if (left > 0) memory.copy(REST, end - left, left);
}

export function hashZeros(length: u32): void {
  const held = <u32>total & 31;
  total += length;
  if (held > 0) {
    const missing: u32 = 32 - held;
    memory.fill(REST + held, 0, missing);
    if (length < missing) return;
    stripes(REST, REST + 32);
    length -= missing;
  }
  memory.fill(REST, 0, 32);
  let a = load<u64>(HASH);
  let b = load<u64>(HASH, 8);
  let c = load<u64>(HASH, 16);
  let d = load<u64>(HASH, 24);
  for (let count = length >> 5; count > 0; count--) {
    a = rotl<u64>(a, 31) * P1;
    b = rotl<u64>(b, 31) * P1;
    c = rotl<u64>(c, 31) * P1;
    d = rotl<u64>(d, 31) * P1;
  }
  store<u64>(HASH, a);
  store<u64>(HASH, b, 8);
  store<u64>(HASH, c, 16);
  store<u64>(HASH, d, 24);
}

/** The low 32 bits of the hash of everything since `hashStart`. */
export function hashEnd(): u32 {
  const a = load<u64>(HASH);
  const b = load<u64>(HASH, 8);
  const c = load<u64>(HASH, 16);
  const d = load<u64>(HASH, 24);
  let hash = P5;
  if (total >= 32) {
    hash = rotl<u64>(a, 1) + rotl<u64>(b, 7) + rotl<u64>(c, 12) + rotl<u64>(d, 18);
    hash = (hash ^ round(0, a)) * P1 + P4;
    hash = (hash ^ round(0, b)) * P1 + P4;
    hash = (hash ^ round(0, c)) * P1 + P4;
    hash = (hash ^ round(0, d)) * P1 + P4;
  }
  hash += total;
  let at = REST;
  const end = REST + (<usize>total & 31);
  for (; at + 8 <= end; at += 8) hash = rotl<u64>(hash ^ round(0, load<u64>(at)), 27) * P1 + P4;
  if (at + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(at) * P1), 23) * P2 + P3;
    at += 4;
  }
  for (; at < end; at++) hash = rotl<u64>(hash ^ (<u64>load<u8>(at) * P5), 11) * P1;
  hash = (hash ^ (hash >> 33)) * P2;
  hash = (hash ^ (hash >> 29)) * P3;
  return <u32>(hash ^ (hash >> 32));
}
