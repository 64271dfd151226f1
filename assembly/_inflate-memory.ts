/**
 * Where everything lies in the linear memory of the deflate decoder, in bytes. Nothing is allocated: the areas have the largest size that
 * RFC 1951 allows. The output comes last but one, the input behind it, so that both can grow.
 */

/** The tables are found by this many bits, codes that are longer have another table each (see _inflate-tables.ts). */
// @ts-ignore: decorator
@inline export const LITERAL_BITS: u32 = 11;
// @ts-ignore: decorator
@inline export const DISTANCE_BITS: u32 = 9;
// @ts-ignore: decorator
@inline export const LENGTH_BITS: u32 = 7;

/** The longest code of literals, lengths and distances (section 3.2.7). */
// @ts-ignore: decorator
@inline export const MAX_BITS: u32 = 15;

/** Bits are looked at with as many others below them: what remains of them is an offset of u32 in a table. */
// @ts-ignore: decorator
@inline export const SHIFT: u32 = 2;

/**
 * Entries are u32. A complete code of 288 symbols has at most 143 other tables, of 16 entries; one of 32 has at most
 * 15, of 64. Constant data of the module lies below.
 */
// @ts-ignore: decorator
@inline export const LITERAL_TABLE: usize = 8192;
// @ts-ignore: decorator
@inline export const DISTANCE_TABLE: usize = LITERAL_TABLE + (2048 + 143 * 16) * 4 + 64;
// @ts-ignore: decorator
@inline export const LENGTH_TABLE: usize = DISTANCE_TABLE + (512 + 15 * 64) * 4 + 64;

/** What each symbol stands for, in the form of a table's entry. */
// @ts-ignore: decorator
@inline export const LITERAL_SYMBOLS: usize = LENGTH_TABLE + 128 * 4 + 64;
// @ts-ignore: decorator
@inline export const DISTANCE_SYMBOLS: usize = LITERAL_SYMBOLS + 288 * 4;
// @ts-ignore: decorator
@inline export const LENGTH_SYMBOLS: usize = DISTANCE_SYMBOLS + 32 * 4;

/** By the number of extra bits of a distance: their mask (u32). */
// @ts-ignore: decorator
@inline export const MASKS: usize = LENGTH_SYMBOLS + 32 * 4;

/** The code length (u8) of each symbol, of literals, then of distances; a repetition may write 138 of them behind the last one. */
// @ts-ignore: decorator
@inline export const LENGTHS: usize = MASKS + 16 * 4;
// @ts-ignore: decorator
@inline export const LENGTH_LENGTHS: usize = LENGTHS + 512;

/** Of the code that is being made: how many codes have each length, where their symbols start (u32), symbols by length (u16). */
// @ts-ignore: decorator
@inline export const COUNTS: usize = LENGTH_LENGTHS + 32;
// @ts-ignore: decorator
@inline export const STARTS: usize = COUNTS + 64;
// @ts-ignore: decorator
@inline export const SORTED: usize = STARTS + 64;

/** Where decoding is: bits (u64) and their number (u32), and the next byte of the input and of the output, and the ends of both. */
// @ts-ignore: decorator
@inline export const BIT_BUFFER: usize = SORTED + 288 * 2;
// @ts-ignore: decorator
@inline export const BIT_COUNT: usize = BIT_BUFFER + 8;
// @ts-ignore: decorator
@inline export const FROM: usize = BIT_BUFFER + 12;
// @ts-ignore: decorator
@inline export const FROM_END: usize = BIT_BUFFER + 16;
// @ts-ignore: decorator
@inline export const TO: usize = BIT_BUFFER + 20;
// @ts-ignore: decorator
@inline export const TO_END: usize = BIT_BUFFER + 24;

/** Reading and writing go up to this far beyond the end of the input, where zeros are, and of the output. */
// @ts-ignore: decorator
@inline export const SLACK: usize = 512;

// @ts-ignore: decorator
@inline export const OUTPUT: usize = 65536;

/** How decoding ended, or a block; src/codec/inflate.ts has the sentences of the errors. */
// @ts-ignore: decorator
@inline export const FULL: i32 = 0;
// @ts-ignore: decorator
@inline export const END: i32 = 1;
// @ts-ignore: decorator
@inline export const NO_INPUT: i32 = 2;
// @ts-ignore: decorator
@inline export const BAD_TYPE: i32 = 3;
// @ts-ignore: decorator
@inline export const BAD_STORED: i32 = 4;
// @ts-ignore: decorator
@inline export const BAD_COUNTS: i32 = 5;
// @ts-ignore: decorator
@inline export const BAD_LENGTHS: i32 = 6;
// @ts-ignore: decorator
@inline export const BAD_LENGTH_CODE: i32 = 7;
// @ts-ignore: decorator
@inline export const BAD_LITERAL_CODE: i32 = 8;
// @ts-ignore: decorator
@inline export const BAD_DISTANCE_CODE: i32 = 9;
// @ts-ignore: decorator
@inline export const NO_END_CODE: i32 = 10;
// @ts-ignore: decorator
@inline export const BAD_LITERAL: i32 = 11;
// @ts-ignore: decorator
@inline export const BAD_DISTANCE: i32 = 12;
// @ts-ignore: decorator
@inline export const TOO_FAR: i32 = 13;
