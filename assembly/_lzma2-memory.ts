/** Where things are in the memory of lzma2, in bytes; a probability has two. */

/** For each distance below 16, a row of 16 bytes: which of the bytes before repeats at each place. */
export const PATTERNS: usize = 0x400;

/** Runs of zeros, two words each: of a chunk of 2 MiB there are 512 of 4 KiB at most. */
export const RUNS: usize = 0x800;

/** By state, a row of 32 bytes each, and in it by the low bits of the position. */
export const IS_MATCH: usize = 0x2000;
export const IS_REP0_LONG: usize = 0x2180;
/** By state, in rows of 32 bytes too. */
export const IS_REP: usize = 0x2300;
export const IS_REP0: usize = 0x2302;
export const IS_REP1: usize = 0x2304;
export const IS_REP2: usize = 0x2306;
/** Four trees of six bits, by the length. */
export const SLOT: usize = 0x2480;
/** Trees for the distances of slots 4 to 13, from their last bit. */
export const POSITION: usize = 0x2680;
/** A tree for the last four bits of other distances. */
export const ALIGN: usize = 0x2780;
/** Two bits of choice, from 0x20 on 16 trees of three bits, from 0x120 on 16 more, from 0x220 on one of eight bits. */
export const LENGTH: usize = 0x27a0;
export const REP_LENGTH: usize = 0x2bc0;
/** Up to 16 coders of 0x300 probabilities. */
export const LITERAL: usize = 0x3000;

/** For CRC64, 32 KiB. */
export const TABLES: usize = 0x9000;

/** The data of one chunk, at most 64 KiB, and what may be read past its end. */
export const INPUT: usize = 0x11000;

/** The ring starts here, with the byte before it as its guard. A multiple of 16: positions count from it. */
export const DICTIONARY: usize = 0x21100;

/** All probabilities to a half, with 2^`bits` coders for literals. */
export function resetProbabilities(bits: u32): void {
  const end = LITERAL + (0x600 << bits);
  for (let at = IS_MATCH; at < end; at += 16) v128.store(at, i16x8.splat(1024));
}
