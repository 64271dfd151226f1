/** The symbols of LZMA: literals and matches. */

import {
  ALIGN,
  DICTIONARY,
  IS_MATCH,
  IS_REP,
  IS_REP0,
  IS_REP0_LONG,
  IS_REP1,
  IS_REP2,
  LENGTH,
  LITERAL,
  PATTERNS,
  POSITION,
  REP_LENGTH,
  RUNS,
  SLOT,
} from './_lzma2-memory';
import { Coder, DAMAGED, DONE, INPUT_ENDS, Input, Ring, SLACK, Zeros } from './_lzma2-state';

/** Below it the range takes in the next byte. */
const TOP: u32 = 0x1000000;

/** A state times the length of its row of probabilities. From 7 on the last thing was not a literal. */
const ROW: u32 = 32;
const AFTER_MATCH: u32 = 7 * ROW;

/** A run of zeros that is noted has at least this many bytes. */
const LONG_RUN: u32 = 4096;

/**
 * Decodes LZMA symbols until `limit`. All of the state is in locals: what lies in memory is slow. So the decoding of a bit is written out at each
 * place, always the same: take in a byte where the range is small, split the range by the probability `p`; the lower part is a 0. Where a bit
 * cannot be foreseen, a mask (-1 for a 1) takes the place of a branch.
 */
export function decode(limit: usize): i32 {
  const end = Input.end;
  const literalShift = 8 - Coder.lc;
  let pos = Ring.position;
  let from = Input.at;
  let r = Coder.range;
  let c = Coder.code;
  let s = Coder.state;
  let distance = Coder.rep0;
  let p: u32;
  let bound: u32;
  let mask: i32;
  let result = DONE;

  if (Coder.rest > 0) {
    // the rest of a match that the end of the ring has cut
    let source = pos - distance - 1;
    if (<u32>(pos - DICTIONARY) <= distance) source += Ring.end - DICTIONARY;
    for (; Coder.rest > 0 && pos < limit; Coder.rest--) {
      store<u8>(pos++, load<u8>(source++));
      if (source == Ring.end) source = DICTIONARY;
    }
    if (Zeros.end == Ring.position && Zeros.length > distance) {
      Zeros.length += <u32>(pos - Ring.position);
      Zeros.end = pos;
    }
  }

  while (pos < limit) {
    if (from > end) {
      result = INPUT_ENDS;
      break;
    }
    const row = ((<u32>pos) & Coder.pbMask) << 1;
    let at: usize = s + row;
    if (r < TOP) {
      r <<= 8;
      c = (c << 8) | load<u8>(from++);
    }
    p = load<u16>(at, IS_MATCH);
    bound = (r >>> 11) * p;
    if (c < bound) {
      r = bound;
      store<u16>(at, p + ((2048 - p) >>> 5), IS_MATCH);
      at =
        LITERAL +
        0x600 *
          ((((<u32>pos) & Coder.lpMask) << Coder.lc) + ((<u32>load<u8>(pos - 1)) >>> literalShift));
      let symbol: u32 = 1;
      if (s < AFTER_MATCH) {
        s = s < 4 * ROW ? 0 : s - 3 * ROW;
        do {
          if (r < TOP) {
            r <<= 8;
            c = (c << 8) | load<u8>(from++);
          }
          p = load<u16>(at + (symbol << 1));
          bound = (r >>> 11) * p;
          mask = -(<i32>(c >= bound));
          r = mask ? r - bound : bound;
          c -= bound & mask;
          store<u16>(at + (symbol << 1), p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
          symbol = (symbol << 1) - mask;
        } while (symbol < 0x100);
      } else {
        s = s < 10 * ROW ? s - 3 * ROW : s - 6 * ROW;
        // the byte at the last distance tells more, as long as the bits are its own
        let source = pos - distance - 1;
        if (<u32>(pos - DICTIONARY) <= distance) source += Ring.end - DICTIONARY;
        let match: u32 = load<u8>(source);
        let offset: u32 = 0x100;
        do {
          match <<= 1;
          const bit = match & offset;
          const place = at + ((offset + bit + symbol) << 1);
          if (r < TOP) {
            r <<= 8;
            c = (c << 8) | load<u8>(from++);
          }
          p = load<u16>(place);
          bound = (r >>> 11) * p;
          mask = -(<i32>(c >= bound));
          r = mask ? r - bound : bound;
          c -= bound & mask;
          store<u16>(place, p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
          symbol = (symbol << 1) - mask;
          offset &= bit ^ ~mask;
        } while (symbol < 0x100);
      }
      store<u8>(pos++, symbol);
      continue;
    }
    r -= bound;
    c -= bound;
    store<u16>(at, p - (p >>> 5), IS_MATCH);
    at = s;
    if (r < TOP) {
      r <<= 8;
      c = (c << 8) | load<u8>(from++);
    }
    p = load<u16>(at, IS_REP);
    bound = (r >>> 11) * p;
    let lengths: usize;
    const isNew = c < bound;
    if (isNew) {
      r = bound;
      store<u16>(at, p + ((2048 - p) >>> 5), IS_REP);
      Coder.rep3 = Coder.rep2;
      Coder.rep2 = Coder.rep1;
      Coder.rep1 = distance;
      lengths = LENGTH;
      s = s < AFTER_MATCH ? 7 * ROW : 10 * ROW;
    } else {
      r -= bound;
      c -= bound;
      store<u16>(at, p - (p >>> 5), IS_REP);
      if (pos == DICTIONARY && !Ring.hasWrapped) {
        result = DAMAGED;
        break;
      }
      if (r < TOP) {
        r <<= 8;
        c = (c << 8) | load<u8>(from++);
      }
      p = load<u16>(at, IS_REP0);
      bound = (r >>> 11) * p;
      if (c < bound) {
        r = bound;
        store<u16>(at, p + ((2048 - p) >>> 5), IS_REP0);
        at = s + row;
        if (r < TOP) {
          r <<= 8;
          c = (c << 8) | load<u8>(from++);
        }
        p = load<u16>(at, IS_REP0_LONG);
        bound = (r >>> 11) * p;
        if (c < bound) {
          r = bound;
          store<u16>(at, p + ((2048 - p) >>> 5), IS_REP0_LONG);
          s = s < AFTER_MATCH ? 9 * ROW : 11 * ROW;
          let source = pos - distance - 1;
          if (<u32>(pos - DICTIONARY) <= distance) source += Ring.end - DICTIONARY;
          store<u8>(pos++, load<u8>(source));
          continue;
        }
        r -= bound;
        c -= bound;
        store<u16>(at, p - (p >>> 5), IS_REP0_LONG);
      } else {
        r -= bound;
        c -= bound;
        store<u16>(at, p - (p >>> 5), IS_REP0);
        if (r < TOP) {
          r <<= 8;
          c = (c << 8) | load<u8>(from++);
        }
        p = load<u16>(at, IS_REP1);
        bound = (r >>> 11) * p;
        let other: u32;
        if (c < bound) {
          r = bound;
          store<u16>(at, p + ((2048 - p) >>> 5), IS_REP1);
          other = Coder.rep1;
        } else {
          r -= bound;
          c -= bound;
          store<u16>(at, p - (p >>> 5), IS_REP1);
          if (r < TOP) {
            r <<= 8;
            c = (c << 8) | load<u8>(from++);
          }
          p = load<u16>(at, IS_REP2);
          bound = (r >>> 11) * p;
          if (c < bound) {
            r = bound;
            store<u16>(at, p + ((2048 - p) >>> 5), IS_REP2);
            other = Coder.rep2;
          } else {
            r -= bound;
            c -= bound;
            store<u16>(at, p - (p >>> 5), IS_REP2);
            other = Coder.rep3;
            Coder.rep3 = Coder.rep2;
          }
          Coder.rep2 = Coder.rep1;
        }
        Coder.rep1 = distance;
        distance = other;
      }
      lengths = REP_LENGTH;
      s = s < AFTER_MATCH ? 8 * ROW : 11 * ROW;
    }

    let tree: usize;
    let size: u32 = 8;
    let length: u32 = 2 - 8;
    if (r < TOP) {
      r <<= 8;
      c = (c << 8) | load<u8>(from++);
    }
    p = load<u16>(lengths);
    bound = (r >>> 11) * p;
    if (c < bound) {
      r = bound;
      store<u16>(lengths, p + ((2048 - p) >>> 5));
      tree = lengths + 0x20 + (row << 3);
    } else {
      r -= bound;
      c -= bound;
      store<u16>(lengths, p - (p >>> 5));
      if (r < TOP) {
        r <<= 8;
        c = (c << 8) | load<u8>(from++);
      }
      p = load<u16>(lengths, 2);
      bound = (r >>> 11) * p;
      if (c < bound) {
        r = bound;
        store<u16>(lengths, p + ((2048 - p) >>> 5), 2);
        tree = lengths + 0x120 + (row << 3);
        length = 10 - 8;
      } else {
        r -= bound;
        c -= bound;
        store<u16>(lengths, p - (p >>> 5), 2);
        tree = lengths + 0x220;
        size = 256;
        length = 18 - 256;
      }
    }
    let symbol: u32 = 1;
    do {
      if (r < TOP) {
        r <<= 8;
        c = (c << 8) | load<u8>(from++);
      }
      p = load<u16>(tree + (symbol << 1));
      bound = (r >>> 11) * p;
      mask = -(<i32>(c >= bound));
      r = mask ? r - bound : bound;
      c -= bound & mask;
      store<u16>(tree + (symbol << 1), p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
      symbol = (symbol << 1) - mask;
    } while (symbol < size);
    length += symbol;

    if (isNew) {
      tree = SLOT + (min<u32>(length - 2, 3) << 7);
      symbol = 1;
      do {
        if (r < TOP) {
          r <<= 8;
          c = (c << 8) | load<u8>(from++);
        }
        p = load<u16>(tree + (symbol << 1));
        bound = (r >>> 11) * p;
        mask = -(<i32>(c >= bound));
        r = mask ? r - bound : bound;
        c -= bound & mask;
        store<u16>(tree + (symbol << 1), p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
        symbol = (symbol << 1) - mask;
      } while (symbol < 64);
      distance = symbol - 64;
      if (distance >= 4) {
        const slot = distance;
        let bits = (slot >>> 1) - 1;
        distance = (2 | (slot & 1)) << bits;
        let bit: u32 = 1;
        symbol = 1;
        if (slot < 14) {
          tree = POSITION + ((distance - slot) << 1) - 2;
          const top: u32 = 1 << bits;
          do {
            at = tree + (symbol << 1);
            if (r < TOP) {
              r <<= 8;
              c = (c << 8) | load<u8>(from++);
            }
            p = load<u16>(at);
            bound = (r >>> 11) * p;
            mask = -(<i32>(c >= bound));
            r = mask ? r - bound : bound;
            c -= bound & mask;
            store<u16>(at, p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
            symbol = (symbol << 1) - mask;
            distance += mask & bit;
            bit <<= 1;
          } while (bit < top);
        } else {
          // bits of even chance
          let direct: u32 = 0;
          do {
            if (r < TOP) {
              r <<= 8;
              c = (c << 8) | load<u8>(from++);
            }
            r >>>= 1;
            c -= r;
            mask = (<i32>c) >> 31;
            c += r & mask;
            direct = (direct << 1) + (mask + 1);
          } while (--bits > 4);
          distance += direct << 4;
          do {
            at = ALIGN + (symbol << 1);
            if (r < TOP) {
              r <<= 8;
              c = (c << 8) | load<u8>(from++);
            }
            p = load<u16>(at);
            bound = (r >>> 11) * p;
            mask = -(<i32>(c >= bound));
            r = mask ? r - bound : bound;
            c -= bound & mask;
            store<u16>(at, p - <u32>((<i32>(p - (2017 & ~mask))) >> 5));
            symbol = (symbol << 1) - mask;
            distance += mask & bit;
            bit <<= 1;
          } while (bit < 16);
        }
      }
      if (
        distance >= Ring.dictionarySize ||
        (<u32>(pos - DICTIONARY) <= distance && !Ring.hasWrapped)
      ) {
        result = DAMAGED;
        break;
      }
    }

    if (length > <u32>(limit - pos)) {
      // more than the chunk has, or than fits before the end of the ring
      if (limit != Ring.end || length > Input.left - <u32>(pos - Ring.position)) {
        result = DAMAGED;
        break;
      }
      Coder.rest = length - <u32>(limit - pos);
      length = <u32>(limit - pos);
    }
    let source = pos - distance - 1;
    if (<u32>(pos - DICTIONARY) <= distance) source += Ring.end - DICTIONARY;
    const next = pos + length;
    if (source + length > Ring.end) {
      do {
        store<u8>(pos++, load<u8>(source++));
        if (source == Ring.end) source = DICTIONARY;
      } while (pos < next);
      continue;
    }
    if (length >= 32 || pos == Zeros.end) {
      // zeros of zeros: known where the run goes back far enough
      if (pos != Zeros.end || Zeros.length <= distance) {
        let test = source;
        const last = source + min<u32>(length, distance + 1);
        while (test + 16 <= last && !v128.any_true(v128.load(test))) test += 16;
        while (test < last && load<u8>(test) == 0) test++;
        mask = test == last ? 1 : 0;
      } else mask = 1;
      if (mask) {
        if (pos != Zeros.end) {
          Zeros.length = 0;
          Zeros.start = pos;
        }
        // a ring of nothing but zeros stays one
        if (Zeros.length < <u32>(Ring.end - DICTIONARY) + SLACK) {
          do {
            v128.store(pos, i32x4.splat(0));
            pos += 16;
          } while (pos < next);
        }
        pos = Zeros.end = next;
        Zeros.length += length;
        if (Zeros.length >= LONG_RUN) {
          at = RUNS + (Zeros.count << 3);
          if (Zeros.count > 0 && load<u32>(at - 8) == <u32>Zeros.start) at -= 8;
          else {
            // a zero that was decoded by itself is often before it
            const least = Zeros.count > 0 ? load<u32>(at - 8) + load<u32>(at - 4) : <u32>Ring.taken;
            for (; <u32>Zeros.start > least && load<u8>(Zeros.start - 1) == 0; Zeros.length++)
              Zeros.start--;
            Zeros.count++;
          }
          store<u32>(at, <u32>Zeros.start);
          store<u32>(at, <u32>(next - Zeros.start), 4);
        }
        continue;
      }
    }
    if (distance >= 15) {
      do {
        v128.store(pos, v128.load(source));
        source += 16;
        pos += 16;
      } while (pos < next);
    } else {
      // what repeats, 16 bytes of it at a time
      const step = load<u8>(PATTERNS + distance);
      const pattern = i8x16.swizzle(v128.load(source), v128.load(PATTERNS + ((distance + 1) << 4)));
      do {
        v128.store(pos, pattern);
        pos += step;
      } while (pos < next);
    }
    pos = next;
  }

  if (result == DONE && <u32>(pos - Ring.position) == Input.left && Coder.rest == 0) {
    // the end of the chunk: all input is used, and nothing is left of it
    if (r < TOP) {
      r <<= 8;
      c = (c << 8) | load<u8>(from++);
    }
    if (from != end || c != 0) result = from > end ? INPUT_ENDS : DAMAGED;
  }
  Ring.position = pos;
  Input.at = from;
  Coder.range = r;
  Coder.code = c;
  Coder.state = s;
  Coder.rep0 = distance;
  return result;
}
