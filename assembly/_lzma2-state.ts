/** What the parts of lzma2 share, in globals: what is kept between two calls. */

import { DICTIONARY } from './_lzma2-memory';

/** Results: all is decoded; the ring is full up to its end, and what is in it must be taken; faults. */
export const DONE: i32 = 0;
export const FULL: i32 = 1;
export const DAMAGED: i32 = 2;
export const INPUT_ENDS: i32 = 3;
export const NO_MEMORY: i32 = 4;
export const NOT_RESET: i32 = 5;

/** What a copy in steps of 16 may write past its end: bytes that lie before every distance allowed. */
export const SLACK: u32 = 64;

/** The dictionary of a block. */
export class Ring {
  /** No distance is larger. */
  static dictionarySize: u32 = 0;
  /** How long it may become, and its end now. */
  static capacity: u32 = 0;
  static end: usize = DICTIONARY;
  static hasWrapped: bool = false;
  /** Where the next byte goes, and up to where everything has been taken. */
  static position: usize = DICTIONARY;
  static taken: usize = DICTIONARY;
}

/** LZMA: properties, state, the range coder. */
export class Coder {
  static lc: u32 = 0;
  static lpMask: u32 = 0;
  static pbMask: u32 = 0;
  static state: u32 = 0;
  static rep0: u32 = 0;
  static rep1: u32 = 0;
  static rep2: u32 = 0;
  static rep3: u32 = 0;
  static range: u32 = 0;
  static code: u32 = 0;
  /** What the end of the ring cut off a match. */
  static rest: u32 = 0;
}

/** The chunk: its data that are left, and how many bytes are still to come out. */
export class Input {
  static at: usize = 0;
  static end: usize = 0;
  static left: u32 = 0;
}

/** The run of zeros that ends at `end`: how long it is, where the part of it starts that has not been taken, and how many are in the list. */
export class Zeros {
  static length: u32 = 0;
  static start: usize = 0;
  static end: usize = 0;
  static count: u32 = 0;
}
