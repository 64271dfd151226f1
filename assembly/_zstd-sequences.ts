/** The sequences section of a compressed block (RFC 8878, section 3.1.1.3.2): which tables, and carrying the sequences out. */

import { copyOlder, copyWide, repeat } from './_zstd-copy';
import { makeSingle, readTable, tableLog } from './_zstd-fse';
import {
  BAD_OFFSET,
  BAD_SEQUENCES,
  BAD_TABLE,
  LL_CODES,
  LL_DEFAULT,
  LL_TABLE,
  ML_CODES,
  ML_DEFAULT,
  ML_TABLE,
  OF_CODES,
  OF_DEFAULT,
  OF_TABLE,
  TOO_LONG,
} from './_zstd-memory';

/** Accuracy logs of the tables in use, which are those of a block of this frame. */
let hasTables: bool = false;
let llLog: u32 = 0;
let ofLog: u32 = 0;
let mlLog: u32 = 0;

/** The last offsets, which can be named again (section 3.1.1.5). */
let recent1: u32 = 1;
let recent2: u32 = 4;
let recent3: u32 = 8;

/** Forgets the tables and offsets of the frame before. */
export function forgetSequences(): void {
  hasTables = false;
  recent1 = 1;
  recent2 = 4;
  recent3 = 8;
}

/** Sets up a table. Gives its accuracy log, and above bit 8 the length of the description; or `BAD_TABLE`. */
function setTable(
  mode: u32,
  table: usize,
  log: u32,
  mostLog: u32,
  standard: usize,
  standardLog: u32,
  codes: usize,
  most: u32,
  from: usize,
  length: u32,
): i32 {
  // predefined, one code, described, as before (section 3.1.1.3.2.1)
  if (mode == 3) return hasTables ? log : BAD_TABLE;
  if (mode == 0) {
    memory.copy(table, standard, 8 << standardLog);
    return standardLog;
  }
  if (mode == 1) {
    if (length == 0 || <u32>load<u8>(from) > most) return BAD_TABLE;
    makeSingle(table, codes, load<u8>(from));
    return 1 << 8;
  }
  const used = readTable(table, codes, most, mostLog, from, length);
  return used < 0 ? used : (used << 8) | tableLog;
}

/**
 * Carries out the sequences at `from`, up to `end`, with the literals from `literal` to `literalEnd`, and puts the block out at `start`.
 * What was put out before lies from `base` to `start`, and before that, `olderLength` bytes up to `olderEnd`. An offset is `window` at
 * most. Gives the length, at most `most`, or an error.
 */
export function runSequences(
  from: usize,
  end: usize,
  literal: usize,
  literalEnd: usize,
  start: usize,
  most: u32,
  base: usize,
  olderEnd: usize,
  olderLength: u32,
  window: u32,
): i32 {
  if (from >= end) return BAD_SEQUENCES;
  const first = <u32>load<u8>(from++);
  let count = first;
  if (first == 255) {
    if (from + 2 > end) return BAD_SEQUENCES;
    count = <u32>load<u16>(from) + 0x7f00;
    from += 2;
  } else if (first > 127) {
    if (from + 1 > end) return BAD_SEQUENCES;
    count = ((first - 128) << 8) + <u32>load<u8>(from++);
  }
  if (count == 0) {
    if (from != end) return BAD_SEQUENCES;
    const rest = <u32>(literalEnd - literal);
    if (rest > most) return TOO_LONG;
    memory.copy(start, literal, rest);
    return rest;
  }
  if (from >= end) return BAD_SEQUENCES;
  // 7-6: literal lengths, 5-4: offsets, 3-2: match lengths, 1-0: reserved
  const modes = <u32>load<u8>(from++);
  if ((modes & 3) != 0) return BAD_TABLE;
  let result = setTable(modes >> 6, LL_TABLE, llLog, 9, LL_DEFAULT, 6, LL_CODES, 35, from, <u32>(end - from));
  if (result < 0) return result;
  llLog = result & 0xff;
  from += result >> 8;
  result = setTable((modes >> 4) & 3, OF_TABLE, ofLog, 8, OF_DEFAULT, 5, OF_CODES, 31, from, <u32>(end - from));
  if (result < 0) return result;
  ofLog = result & 0xff;
  from += result >> 8;
  result = setTable((modes >> 2) & 3, ML_TABLE, mlLog, 9, ML_DEFAULT, 6, ML_CODES, 52, from, <u32>(end - from));
  if (result < 0) return result;
  mlLog = result & 0xff;
  from += result >> 8;
  hasTables = true;

  if (from >= end) return BAD_SEQUENCES;
  const last = <u32>load<u8>(end - 1);
  if (last == 0) return BAD_SEQUENCES;
  return carryOut(
    count,
    from - 7,
    <i32>(((<u32>(end - from) - 1) << 3) + 31 - clz<u32>(last)),
    literal,
    literalEnd,
    start,
    start + most,
    base,
    olderEnd,
    olderLength,
    window,
  );
}

/** The next bits, from the top of a word on: at least 56. `below` is 7 bytes before the bits start, `bits` how many are left. */
// @ts-ignore: decorator
@inline function wordAt(below: usize, bits: i32): u64 {
  return load<u64>(below + (bits >> 3)) << (8 - (bits & 7));
}

/** The top bits of `word`, as many as the low six bits of `count` say. */
// @ts-ignore: decorator
@inline function top(word: u64, count: u64): u32 {
  return <u32>((word >> 1) >> ~count);
}

function carryOut(
  count: u32,
  below: usize,
  bits: i32,
  literal: usize,
  literalEnd: usize,
  start: usize,
  end: usize,
  base: usize,
  olderEnd: usize,
  olderLength: u32,
  window: u32,
): i32 {
  let rep1 = recent1;
  let rep2 = recent2;
  let rep3 = recent3;
  let to = start;

  let word = wordAt(below, bits);
  let llState = top(word, llLog);
  word <<= <u64>llLog;
  let ofState = top(word, ofLog);
  word <<= <u64>ofLog;
  let mlState = top(word, mlLog);
  bits -= llLog + ofLog + mlLog;
  if (bits < 0) return BAD_SEQUENCES;

  for (;;) {
    const l = load<u64>(llState << 3, LL_TABLE);
    const o = load<u64>(ofState << 3, OF_TABLE);
    const m = load<u64>(mlState << 3, ML_TABLE);
    // the sums of the bits for states, and for values
    const sums = <u32>l + <u32>o + <u32>m;
    const extra = <i32>((sums >> 8) & 0xff);

    // a word has 56 bits: for an offset (31 at most), a match length (16), a literals length (16), and three states (26 together)
    word = wordAt(below, bits);
    let offset = <u32>(o >> 32) + top(word, o >> 8);
    let matchLength = <u32>(m >> 32);
    let literals = <u32>(l >> 32);
    // short lengths have no bits
    if (((<u32>l | <u32>m) & 0xff00) != 0) {
      matchLength += top(word << (o >> 8), m >> 8);
      literals += top(word << ((o >> 8) + (m >> 8)), l >> 8);
    }
    word <<= extra;
    bits -= extra;
    if (extra > 30) {
      if (extra > 56) literals = <u32>(l >> 32) + top(wordAt(below, bits + <i32>((l >> 8) & 0xff)), l >> 8);
      word = wordAt(below, bits);
    }

    if (<u32>(o >> 8) & 0xfe) {
      rep3 = rep2;
      rep2 = rep1;
      rep1 = offset;
    } else {
      // 1 to 3, and one more after no literals: the last offset, the one before, the third, the last less one
      const which = offset + (literals == 0 ? 1 : 0);
      if (which == 1) {
        offset = rep1;
      } else {
        offset = which == 2 ? rep2 : which == 3 ? rep3 : rep1 - 1;
        if (which != 2) rep3 = rep2;
        rep2 = rep1;
        rep1 = offset;
      }
    }

    const matchTo = to + literals;
    const matchEnd = matchTo + matchLength;
    if (matchEnd > end) return TOO_LONG;
    if (literals > <u32>(literalEnd - literal)) return BAD_SEQUENCES;
    v128.store(to, v128.load(literal));
    if (literals > 16) copyWide(literal + 16, to + 16, matchTo);
    literal += literals;

    // offset 0 is beyond it as well
    if (offset - 1 >= window) return BAD_OFFSET;
    const since = <u32>(matchTo - base);
    if (offset > since) {
      if (offset - since > olderLength) return BAD_OFFSET;
      copyOlder(olderEnd - (offset - since), olderEnd, base, matchTo, matchEnd);
    } else if (offset >= 16) {
      const match = matchTo - offset;
      v128.store(matchTo, v128.load(match));
      if (matchLength > 16) copyWide(match + 16, matchTo + 16, matchEnd);
    } else {
      repeat(matchTo, matchEnd, offset);
    }
    to = matchEnd;

    if (--count == 0) break;
    if (bits < 0) return BAD_SEQUENCES;
    llState = nextState(l, word);
    word <<= l;
    mlState = nextState(m, word);
    word <<= m;
    ofState = nextState(o, word);
    bits -= sums & 0xff;
  }
  if (bits != 0) return BAD_SEQUENCES;
  recent1 = rep1;
  recent2 = rep2;
  recent3 = rep3;
  const rest = <u32>(literalEnd - literal);
  if (rest > <u32>(end - to)) return TOO_LONG;
  memory.copy(to, literal, rest);
  return <i32>(to + rest - start);
}

/** What the entry of a state makes of the next bits. */
// @ts-ignore: decorator
@inline function nextState(entry: u64, word: u64): u32 {
  return (<u32>(entry >> 16) & 0xffff) + top(word, entry);
}
