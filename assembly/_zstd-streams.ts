/**
 * Streams of Huffman codes (RFC 8878, sections 4.2.2 and 3.1.1.3.1.6), by the tables of _zstd-huffman.ts. Bits are read backwards.
 *
 * The loops over four streams are written out, as one after the other would wait for its own bits. There, bits are taken from the top of a word
 * whose lowest bit was set when it was loaded: the zeros below that bit count the bits taken.
 */

import { hasPairs, makePairs } from './_zstd-huffman';
import { BAD_LITERALS, CODE_LENGTHS, CODE_SYMBOLS, HUFFMAN_2 } from './_zstd-memory';

/** Decodes one stream of `length` bytes to exactly `size` symbols, using up all its bits; false when it is damaged. */
export function readStream(from: usize, length: u32, to: usize, size: u32): bool {
  if (length == 0) return false;
  const last = load<u8>(from + length - 1);
  if (last == 0) return false;
  return finishStream(from, <i32>(((length - 1) << 3) + 31 - clz<u32>(last)), to, to + size);
}

/** Decodes what is left of a stream: the `bits` from `from` on, which give the symbols up to `end`. */
function finishStream(from: usize, bits: i32, to: usize, end: usize): bool {
  const below = from - 7;
  while (hasPairs && to + 10 <= end && bits >= 56) {
    let word = load<u64>(below + (bits >> 3)) << (8 - (bits & 7));
    for (let step = 0; step < 5; step++) {
      const entry = load<u32>((<u32>(word >> 53)) << 2, HUFFMAN_2);
      store<u16>(to, <u16>(entry >> 16));
      to += (entry >> 8) & 3;
      word <<= entry;
      bits -= entry & 0xff;
    }
  }
  while (to + 5 <= end && bits >= 56) {
    let word = load<u64>(below + (bits >> 3)) << (8 - (bits & 7));
    for (let step = 0; step < 5; step++) {
      const code = <u32>(word >> 53);
      const length = load<u8>(code, CODE_LENGTHS);
      store<u8>(to++, load<u8>(code, CODE_SYMBOLS));
      word <<= length;
      bits -= length;
    }
  }
  while (to < end) {
    if (bits < 0) return false;
    const word = load<u64>(below + (bits >> 3)) << (8 - (bits & 7));
    const code = <u32>(word >> 53);
    store<u8>(to++, load<u8>(code, CODE_SYMBOLS));
    bits -= load<u8>(code, CODE_LENGTHS);
  }
  return bits == 0;
}

// @ts-ignore: decorator
@inline function least(a: usize, b: usize): usize {
  return a < b ? a : b;
}

/** Symbols that have this many bits on average, or more, are faster decoded one by one. */
// @ts-ignore: decorator
@inline const PAIR_BITS: u32 = 5;

/** Decodes four streams (section 3.1.1.3.1.6) of `length` bytes together to `size` symbols at `to`. Gives 0 or `BAD_LITERALS`. */
export function readFourStreams(from: usize, length: u32, to: usize, size: u32): i32 {
  if (length < 10 || size < 6) return BAD_LITERALS;
  const lengthA = <u32>load<u16>(from);
  const lengthB = <u32>load<u16>(from, 2);
  const lengthC = <u32>load<u16>(from, 4);
  if (lengthA + lengthB + lengthC + 6 >= length) return BAD_LITERALS;
  const startA = from + 6;
  const startB = startA + lengthA;
  const startC = startB + lengthB;
  const startD = startC + lengthC;
  const end = from + length;
  const lastA = <u32>load<u8>(startB - 1);
  const lastB = <u32>load<u8>(startC - 1);
  const lastC = <u32>load<u8>(startD - 1);
  const lastD = <u32>load<u8>(end - 1);
  if (lengthA == 0 || lengthB == 0 || lengthC == 0) return BAD_LITERALS;
  if (lastA == 0 || lastB == 0 || lastC == 0 || lastD == 0) return BAD_LITERALS;
  const part: u32 = (size + 3) >> 2;
  if (part * 3 > size) return BAD_LITERALS;
  let toA = to;
  const endA = to + part;
  let toB = endA;
  const endB = toB + part;
  let toC = endB;
  const endC = toC + part;
  let toD = endC;
  const endD = to + size;

  let atA = startB - 8;
  let atB = startC - 8;
  let atC = startD - 8;
  let atD = end - 8;
  // the mark of the end and the zeros above it are taken at once
  let wordA = (load<u64>(atA) | 1) << (clz<u32>(lastA) - 23);
  let wordB = (load<u64>(atB) | 1) << (clz<u32>(lastB) - 23);
  let wordC = (load<u64>(atC) | 1) << (clz<u32>(lastC) - 23);
  let wordD = (load<u64>(atD) | 1) << (clz<u32>(lastD) - 23);
  if (length << 3 >= size * PAIR_BITS) {
    for (;;) {
      if (atA < startA || atB < startB || atC < startC || atD < startD) break;
      // in a turn each stream uses 7 bytes at most, and gives 5 symbols
      const input = least(least(atA - startA, atB - startB), least(atC - startC, atD - startD));
      let turns = least(input / 7 + 1, least(endA - toA, endD - toD) / 5);
      if (turns == 0) break;
      do {
        let a: u32, b: u32, c: u32, d: u32;
      a = <u32>(wordA >> 53);
      wordA <<= load<u8>(a, CODE_LENGTHS);
      store<u8>(toA, load<u8>(a, CODE_SYMBOLS));
      b = <u32>(wordB >> 53);
      wordB <<= load<u8>(b, CODE_LENGTHS);
      store<u8>(toB, load<u8>(b, CODE_SYMBOLS));
      c = <u32>(wordC >> 53);
      wordC <<= load<u8>(c, CODE_LENGTHS);
      store<u8>(toC, load<u8>(c, CODE_SYMBOLS));
      d = <u32>(wordD >> 53);
      wordD <<= load<u8>(d, CODE_LENGTHS);
      store<u8>(toD, load<u8>(d, CODE_SYMBOLS));
      a = <u32>(wordA >> 53);
      wordA <<= load<u8>(a, CODE_LENGTHS);
      store<u8>(toA, load<u8>(a, CODE_SYMBOLS), 1);
      b = <u32>(wordB >> 53);
      wordB <<= load<u8>(b, CODE_LENGTHS);
      store<u8>(toB, load<u8>(b, CODE_SYMBOLS), 1);
      c = <u32>(wordC >> 53);
      wordC <<= load<u8>(c, CODE_LENGTHS);
      store<u8>(toC, load<u8>(c, CODE_SYMBOLS), 1);
      d = <u32>(wordD >> 53);
      wordD <<= load<u8>(d, CODE_LENGTHS);
      store<u8>(toD, load<u8>(d, CODE_SYMBOLS), 1);
      a = <u32>(wordA >> 53);
      wordA <<= load<u8>(a, CODE_LENGTHS);
      store<u8>(toA, load<u8>(a, CODE_SYMBOLS), 2);
      b = <u32>(wordB >> 53);
      wordB <<= load<u8>(b, CODE_LENGTHS);
      store<u8>(toB, load<u8>(b, CODE_SYMBOLS), 2);
      c = <u32>(wordC >> 53);
      wordC <<= load<u8>(c, CODE_LENGTHS);
      store<u8>(toC, load<u8>(c, CODE_SYMBOLS), 2);
      d = <u32>(wordD >> 53);
      wordD <<= load<u8>(d, CODE_LENGTHS);
      store<u8>(toD, load<u8>(d, CODE_SYMBOLS), 2);
      a = <u32>(wordA >> 53);
      wordA <<= load<u8>(a, CODE_LENGTHS);
      store<u8>(toA, load<u8>(a, CODE_SYMBOLS), 3);
      b = <u32>(wordB >> 53);
      wordB <<= load<u8>(b, CODE_LENGTHS);
      store<u8>(toB, load<u8>(b, CODE_SYMBOLS), 3);
      c = <u32>(wordC >> 53);
      wordC <<= load<u8>(c, CODE_LENGTHS);
      store<u8>(toC, load<u8>(c, CODE_SYMBOLS), 3);
      d = <u32>(wordD >> 53);
      wordD <<= load<u8>(d, CODE_LENGTHS);
      store<u8>(toD, load<u8>(d, CODE_SYMBOLS), 3);
      a = <u32>(wordA >> 53);
      wordA <<= load<u8>(a, CODE_LENGTHS);
      store<u8>(toA, load<u8>(a, CODE_SYMBOLS), 4);
      b = <u32>(wordB >> 53);
      wordB <<= load<u8>(b, CODE_LENGTHS);
      store<u8>(toB, load<u8>(b, CODE_SYMBOLS), 4);
      c = <u32>(wordC >> 53);
      wordC <<= load<u8>(c, CODE_LENGTHS);
      store<u8>(toC, load<u8>(c, CODE_SYMBOLS), 4);
      d = <u32>(wordD >> 53);
      wordD <<= load<u8>(d, CODE_LENGTHS);
      store<u8>(toD, load<u8>(d, CODE_SYMBOLS), 4);
        toA += 5;
        toB += 5;
        toC += 5;
        toD += 5;
        let taken = ctz<u64>(wordA);
        atA -= <usize>(taken >> 3);
        wordA = (load<u64>(atA) | 1) << (taken & 7);
        taken = ctz<u64>(wordB);
        atB -= <usize>(taken >> 3);
        wordB = (load<u64>(atB) | 1) << (taken & 7);
        taken = ctz<u64>(wordC);
        atC -= <usize>(taken >> 3);
        wordC = (load<u64>(atC) | 1) << (taken & 7);
        taken = ctz<u64>(wordD);
        atD -= <usize>(taken >> 3);
        wordD = (load<u64>(atD) | 1) << (taken & 7);
      } while (--turns != 0);
    }
  }
  if (length << 3 < size * PAIR_BITS) makePairs();
  // pairs
  while (hasPairs) {
    if (atA < startA || atB < startB || atC < startC || atD < startD) break;
    // in a turn each stream uses 7 bytes at most, and gives 10 symbols at most
    const input = least(least(atA - startA, atB - startB), least(atC - startC, atD - startD));
    const output = least(least(endA - toA, endB - toB), least(endC - toC, endD - toD));
    let turns = least(input / 7 + 1, output / 10);
    if (turns == 0) break;
    do {
      let a: u32, b: u32, c: u32, d: u32;
      a = load<u32>((<u32>(wordA >> 53)) << 2, HUFFMAN_2);
      wordA <<= a;
      store<u16>(toA, <u16>(a >> 16));
      toA += (a >> 8) & 3;
      b = load<u32>((<u32>(wordB >> 53)) << 2, HUFFMAN_2);
      wordB <<= b;
      store<u16>(toB, <u16>(b >> 16));
      toB += (b >> 8) & 3;
      c = load<u32>((<u32>(wordC >> 53)) << 2, HUFFMAN_2);
      wordC <<= c;
      store<u16>(toC, <u16>(c >> 16));
      toC += (c >> 8) & 3;
      d = load<u32>((<u32>(wordD >> 53)) << 2, HUFFMAN_2);
      wordD <<= d;
      store<u16>(toD, <u16>(d >> 16));
      toD += (d >> 8) & 3;
      a = load<u32>((<u32>(wordA >> 53)) << 2, HUFFMAN_2);
      wordA <<= a;
      store<u16>(toA, <u16>(a >> 16));
      toA += (a >> 8) & 3;
      b = load<u32>((<u32>(wordB >> 53)) << 2, HUFFMAN_2);
      wordB <<= b;
      store<u16>(toB, <u16>(b >> 16));
      toB += (b >> 8) & 3;
      c = load<u32>((<u32>(wordC >> 53)) << 2, HUFFMAN_2);
      wordC <<= c;
      store<u16>(toC, <u16>(c >> 16));
      toC += (c >> 8) & 3;
      d = load<u32>((<u32>(wordD >> 53)) << 2, HUFFMAN_2);
      wordD <<= d;
      store<u16>(toD, <u16>(d >> 16));
      toD += (d >> 8) & 3;
      a = load<u32>((<u32>(wordA >> 53)) << 2, HUFFMAN_2);
      wordA <<= a;
      store<u16>(toA, <u16>(a >> 16));
      toA += (a >> 8) & 3;
      b = load<u32>((<u32>(wordB >> 53)) << 2, HUFFMAN_2);
      wordB <<= b;
      store<u16>(toB, <u16>(b >> 16));
      toB += (b >> 8) & 3;
      c = load<u32>((<u32>(wordC >> 53)) << 2, HUFFMAN_2);
      wordC <<= c;
      store<u16>(toC, <u16>(c >> 16));
      toC += (c >> 8) & 3;
      d = load<u32>((<u32>(wordD >> 53)) << 2, HUFFMAN_2);
      wordD <<= d;
      store<u16>(toD, <u16>(d >> 16));
      toD += (d >> 8) & 3;
      a = load<u32>((<u32>(wordA >> 53)) << 2, HUFFMAN_2);
      wordA <<= a;
      store<u16>(toA, <u16>(a >> 16));
      toA += (a >> 8) & 3;
      b = load<u32>((<u32>(wordB >> 53)) << 2, HUFFMAN_2);
      wordB <<= b;
      store<u16>(toB, <u16>(b >> 16));
      toB += (b >> 8) & 3;
      c = load<u32>((<u32>(wordC >> 53)) << 2, HUFFMAN_2);
      wordC <<= c;
      store<u16>(toC, <u16>(c >> 16));
      toC += (c >> 8) & 3;
      d = load<u32>((<u32>(wordD >> 53)) << 2, HUFFMAN_2);
      wordD <<= d;
      store<u16>(toD, <u16>(d >> 16));
      toD += (d >> 8) & 3;
      a = load<u32>((<u32>(wordA >> 53)) << 2, HUFFMAN_2);
      wordA <<= a;
      store<u16>(toA, <u16>(a >> 16));
      toA += (a >> 8) & 3;
      b = load<u32>((<u32>(wordB >> 53)) << 2, HUFFMAN_2);
      wordB <<= b;
      store<u16>(toB, <u16>(b >> 16));
      toB += (b >> 8) & 3;
      c = load<u32>((<u32>(wordC >> 53)) << 2, HUFFMAN_2);
      wordC <<= c;
      store<u16>(toC, <u16>(c >> 16));
      toC += (c >> 8) & 3;
      d = load<u32>((<u32>(wordD >> 53)) << 2, HUFFMAN_2);
      wordD <<= d;
      store<u16>(toD, <u16>(d >> 16));
      toD += (d >> 8) & 3;
      let taken = ctz<u64>(wordA);
      atA -= <usize>(taken >> 3);
      wordA = (load<u64>(atA) | 1) << (taken & 7);
      taken = ctz<u64>(wordB);
      atB -= <usize>(taken >> 3);
      wordB = (load<u64>(atB) | 1) << (taken & 7);
      taken = ctz<u64>(wordC);
      atC -= <usize>(taken >> 3);
      wordC = (load<u64>(atC) | 1) << (taken & 7);
      taken = ctz<u64>(wordD);
      atD -= <usize>(taken >> 3);
      wordD = (load<u64>(atD) | 1) << (taken & 7);
    } while (--turns != 0);
  }
  const isSound =
    finishStream(startA, bitsLeft(startA, atA, wordA), toA, endA) &&
    finishStream(startB, bitsLeft(startB, atB, wordB), toB, endB) &&
    finishStream(startC, bitsLeft(startC, atC, wordC), toC, endC) &&
    finishStream(startD, bitsLeft(startD, atD, wordD), toD, endD);
  return isSound ? 0 : BAD_LITERALS;
}

/** Bits from `start` up to those that were taken of the word at `at`. */
// @ts-ignore: decorator
@inline function bitsLeft(start: usize, at: usize, word: u64): i32 {
  return (<i32>(at - start) << 3) + 64 - <i32>ctz<u64>(word);
}
