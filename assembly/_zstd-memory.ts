/**
 * Where everything lies in the linear memory of the Zstandard decoder, in bytes. Nothing is allocated: the areas have the largest size that
 * RFC 8878 allows, and the window comes last, so that it can grow.
 */

/** The most that a block decodes to, and that it is made of (section 3.1.1.2.4). */
// @ts-ignore: decorator
@inline export const MAX_BLOCK: u32 = 128 * 1024;

/** Copies write and read whole vectors, which may lie up to this far beyond what is copied. */
// @ts-ignore: decorator
@inline export const SLACK: u32 = 64;

/** Entries of 8 bytes, see _zstd-fse.ts. Constant data of the module lies below. */
// @ts-ignore: decorator
@inline export const LL_DEFAULT: usize = 8192;
// @ts-ignore: decorator
@inline export const ML_DEFAULT: usize = LL_DEFAULT + 64 * 8;
// @ts-ignore: decorator
@inline export const OF_DEFAULT: usize = ML_DEFAULT + 64 * 8;
// @ts-ignore: decorator
@inline export const LL_TABLE: usize = OF_DEFAULT + 32 * 8;
// @ts-ignore: decorator
@inline export const ML_TABLE: usize = LL_TABLE + 512 * 8;
// @ts-ignore: decorator
@inline export const OF_TABLE: usize = ML_TABLE + 512 * 8;
// @ts-ignore: decorator
@inline export const WEIGHT_TABLE: usize = OF_TABLE + 256 * 8;

/** What each code stands for, in the form of a table's entry: 64 codes of 8 bytes. */
// @ts-ignore: decorator
@inline export const LL_CODES: usize = WEIGHT_TABLE + 64 * 8;
// @ts-ignore: decorator
@inline export const ML_CODES: usize = LL_CODES + 64 * 8;
// @ts-ignore: decorator
@inline export const OF_CODES: usize = ML_CODES + 64 * 8;
// @ts-ignore: decorator
@inline export const WEIGHT_CODES: usize = OF_CODES + 64 * 8;

/** Of the table that is being built: probabilities (i16) and the next state of each symbol (u16), 256 symbols. */
// @ts-ignore: decorator
@inline export const COUNTS: usize = WEIGHT_CODES + 64 * 8;
// @ts-ignore: decorator
@inline export const NEXT: usize = COUNTS + 256 * 2;

/** Of the Huffman tree that is being built: the weight of each symbol (u8), and how many have each weight (u32). */
// @ts-ignore: decorator
@inline export const WEIGHTS: usize = NEXT + 256 * 2;
// @ts-ignore: decorator
@inline export const RANKS: usize = WEIGHTS + 256 + SLACK;

/** By the next 11 bits: one symbol and the length of its code (u8), and one symbol or two (u32), see _zstd-huffman.ts. */
// @ts-ignore: decorator
@inline export const CODE_LENGTHS: usize = RANKS + 64;
// @ts-ignore: decorator
@inline export const CODE_SYMBOLS: usize = CODE_LENGTHS + 2048;
// @ts-ignore: decorator
@inline export const HUFFMAN_2: usize = CODE_SYMBOLS + 2048;

/** XXH64: four sums, then up to 32 bytes that are not in them yet. */
// @ts-ignore: decorator
@inline export const HASH: usize = HUFFMAN_2 + 2048 * 4;

/** The last three offsets, the last one first, which can be named again (section 3.1.1.5). */
// @ts-ignore: decorator
@inline export const OFFSETS: usize = HASH + 128;

// @ts-ignore: decorator
@inline export const LITERALS: usize = 65536;

/** The block that is decoded. Bits are read backwards, up to 8 bytes before its start. */
// @ts-ignore: decorator
@inline export const INPUT: usize = LITERALS + MAX_BLOCK + 2 * SLACK;
// @ts-ignore: decorator
@inline export const WINDOW: usize = INPUT + MAX_BLOCK + 2 * SLACK;

/** What functions give instead of a length, which is never negative; src/codec/zstd-decoder.ts has the sentences. */
// @ts-ignore: decorator
@inline export const BAD_LITERALS: i32 = -1;
// @ts-ignore: decorator
@inline export const BAD_TREE: i32 = -2;
// @ts-ignore: decorator
@inline export const BAD_TABLE: i32 = -3;
// @ts-ignore: decorator
@inline export const BAD_SEQUENCES: i32 = -4;
// @ts-ignore: decorator
@inline export const BAD_OFFSET: i32 = -5;
// @ts-ignore: decorator
@inline export const TOO_LONG: i32 = -6;
