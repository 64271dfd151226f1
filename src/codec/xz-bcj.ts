/**
 * Branch converters (section 5.3.2 of the .xz format): machine code in which the targets of calls were made absolute becomes what it was. Each knows
 * the instructions of one kind of processor, and leaves zeros alone.
 */

/** A kind of machine code. */
export interface Bcj {
  /** Instructions start at multiples of it, in bytes. */
  readonly alignment: number;
  /**
   * Makes a function for one stream of code. It converts `bytes` in place, the first of which is at `address`, and gives the count of
   * bytes it is done with; the rest it wants to see again, with more behind it.
   */
  make(): (bytes: Buffer, address: number) => number;
}

/** By filter id (section 5.4). */
export const bcjConverters: ReadonlyMap<number, Bcj> = new Map([
  [0x04, { alignment: 1, make: makeX86 }],
  [0x05, { alignment: 4, make: () => eachWord(powerPc, true) }],
  [0x06, { alignment: 16, make: () => ia64 }],
  [0x07, { alignment: 4, make: () => eachWord(arm) }],
  [0x08, { alignment: 2, make: () => armThumb }],
  [0x09, { alignment: 4, make: () => eachWord(sparc, true) }],
  [0x0a, { alignment: 4, make: () => eachWord(arm64) }],
  [0x0b, { alignment: 2, make: () => riscV }],
]);

/** For processors whose instructions are single words: `convert` gives the word that belongs at `address`. */
function eachWord(
  convert: (word: number, address: number) => number,
  isBigEndian = false,
): (bytes: Buffer, address: number) => number {
  return (bytes, address) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const end = bytes.length & ~3;
    for (let at = 0; at < end; at += 4) {
      const word = view.getInt32(at, !isBigEndian);
      const converted = convert(word, (address + at) | 0);
      if (converted !== word) view.setInt32(at, converted, !isBigEndian);
    }
    return end;
  };
}

/** `bl` with link bit, absolute bit clear. */
function powerPc(word: number, address: number): number {
  if ((word & 0xfc000003) !== (0x48000001 | 0)) return word;
  return 0x48000001 | ((word - address) & 0x03fffffc);
}

/** `bl` without a condition; the target counts from two instructions on. */
function arm(word: number, address: number): number {
  if (word >>> 24 !== 0xeb) return word;
  return 0xeb000000 | 0 | ((word - ((address + 8) >>> 2)) & 0x00ffffff);
}

/** `call` whose 30 bits of distance are 22 bits with their sign. */
function sparc(word: number, address: number): number {
  const top = word >>> 22;
  if (top !== 0x100 && top !== 0x1ff) return word;
  const target = word - (address >>> 2);
  const sign = -((target >>> 22) & 1);
  return 0x40000000 | ((sign << 22) & 0x3fffffff) | (target & 0x3fffff);
}

/** `bl`, and `adrp` of the lowest and highest 512 MiB. */
function arm64(word: number, address: number): number {
  if (word >>> 26 === 0x25) return 0x94000000 | 0 | ((word - (address >>> 2)) & 0x03ffffff);
  if ((word & 0x9f000000) !== (0x90000000 | 0)) return word;
  const page = ((word >>> 29) & 3) | ((word >>> 3) & 0x1ffffc);
  if (((page + 0x20000) & 0x1c0000) !== 0) return word;
  const target = page - (address >>> 12);
  const sign = -(target & 0x20000) & 0xe00000;
  return (word & 0x9000001f) | ((target & 3) << 29) | ((target & 0x3fffc) << 3) | sign;
}

/** `bl` in two halves of eleven bits each. */
function armThumb(bytes: Buffer, address: number): number {
  let at = 0;
  for (; at + 4 <= bytes.length; at += 2) {
    const high = bytes.readUInt16LE(at);
    const low = bytes.readUInt16LE(at + 2);
    if ((high & 0xf800) !== 0xf000 || (low & 0xf800) !== 0xf800) continue;
    const target = (((high & 0x7ff) << 11) | (low & 0x7ff)) - ((address + at + 4) >>> 1);
    bytes.writeUInt16LE(0xf000 | ((target >>> 11) & 0x7ff), at);
    bytes.writeUInt16LE(0xf800 | (target & 0x7ff), at + 2);
    at += 2;
  }
  return at;
}

/** Which of the three slots of a bundle hold branches, by its template (bits 0 to 4). */
const BRANCH_SLOTS = [
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 6, 6, 0, 0, 7, 7, 4, 4, 0, 0, 4, 4, 0, 0,
];

/** `br.call` in bundles of 16 bytes: five bits of template, three instructions of 41 bits. */
function ia64(bytes: Buffer, address: number): number {
  const end = bytes.length & ~15;
  for (let at = 0; at < end; at += 16) {
    const slots = BRANCH_SLOTS[(bytes[at] ?? 0) & 31] ?? 0;
    for (let slot = 0; slot < 3; slot++) {
      if (((slots >> slot) & 1) === 0) continue;
      const bit = 5 + slot * 41;
      const place = at + (bit >> 3);
      const shift = BigInt(bit & 7);
      const stored = BigInt(bytes.readUIntLE(place, 6));
      const instruction = stored >> shift;
      if (((instruction >> 37n) & 0xfn) !== 5n || ((instruction >> 9n) & 7n) !== 0n) continue;
      // 20 bits, and their sign at bit 36
      const target =
        Number((instruction >> 13n) & 0xfffffn) | (Number((instruction >> 36n) & 1n) << 20);
      const distance = BigInt((target - ((address + at) >>> 4)) & 0x1fffff);
      const cleared = instruction & ~((0xfffffn << 13n) | (1n << 36n));
      const converted = cleared | ((distance & 0xfffffn) << 13n) | ((distance >> 20n) << 36n);
      const kept = stored & ((1n << shift) - 1n);
      bytes.writeUIntLE(Number(kept | (converted << shift)), place, 6);
    }
  }
  return end;
}

/** `jal` to ra or t0, and `auipc` with the instruction behind it. */
function riscV(bytes: Buffer, address: number): number {
  let at = 0;
  while (at + 8 <= bytes.length) {
    const word = bytes.readUInt32LE(at);
    const pc = (address + at) | 0;
    if ((word & 0xff) === 0xef) {
      if ((word & 0x0d00) !== 0) {
        at += 2;
        continue;
      }
      // the converted form has the bits of the target in their order, big-endian
      const b1 = (word >>> 8) & 0xff;
      const target =
        (((b1 & 0xf0) << 13) | (((word >>> 16) & 0xff) << 9) | ((word >>> 24) << 1)) - pc;
      bytes[at + 1] = (b1 & 0x0f) | ((target >> 8) & 0xf0);
      bytes[at + 2] = ((target >> 16) & 0x0f) | ((target >> 7) & 0x10) | ((target << 4) & 0xe0);
      bytes[at + 3] = ((target >> 4) & 0x7f) | ((target >> 13) & 0x80);
      at += 4;
      continue;
    }
    if ((word & 0x7f) !== 0x17) {
      at += 2;
      continue;
    }
    const second = bytes.readUInt32LE(at + 4);
    let auipc: number;
    let paired: number;
    if ((word & 0xe80) !== 0) {
      // neither x0 nor x2: a pair that the encoder has moved out of the way, if the second uses what the first sets
      if ((((word << 8) ^ (second - 3)) & 0xf8003) !== 0) {
        at += 6;
        continue;
      }
      auipc = 0x17 | (2 << 7) | (second << 12);
      paired = (word & 0xfffff000) + (second >>> 20);
    } else {
      const register = word >>> 27;
      if (((word - 0x3117) << 18) >>> 0 >= (register & 0x1d)) {
        at += 4;
        continue;
      }
      const target = bytes.readUInt32BE(at + 4) - pc;
      auipc = 0x17 | (register << 7) | ((target + 0x800) & 0xfffff000);
      paired = (word >>> 12) | (target << 20);
    }
    bytes.writeInt32LE(auipc | 0, at);
    bytes.writeInt32LE(paired | 0, at + 4);
    at += 8;
  }
  return at;
}

/** True for the last byte of a distance of 24 bits with its sign. */
function isSign(byte: number): boolean {
  return byte === 0x00 || byte === 0xff;
}

/** `call` and `jmp` (E8, E9) with 32 bits of distance, unless bytes before look as if they were one that overlaps. */
function makeX86(): (bytes: Buffer, address: number) => number {
  /** Where the last such byte was, and which of the four before the present one were (bits 1 to 3, from the last; bit 4: see below). */
  let last = -Infinity;
  let mask = 0;
  return (bytes, address) => {
    let at = 0;
    while (at + 5 <= bytes.length) {
      const opcode = bytes[at] ?? 0;
      if ((opcode & 0xfe) !== 0xe8) {
        at++;
        continue;
      }
      const gap = address + at - last;
      last = address + at;
      if (gap > 5) mask = 0;
      for (let step = 0; step < gap && mask !== 0; step++) mask = (mask & 0x77) << 1;
      const before = mask >> 1;
      const top = bytes[at + 4] ?? 0;
      if (!isSign(top) || before > 4 || before === 3) {
        mask |= isSign(top) ? 0x11 : 0x01;
        at++;
        continue;
      }
      let target = bytes.readInt32LE(at + 1);
      for (;;) {
        target = (target - (address + at + 5)) | 0;
        if (mask === 0) break;
        const shift = 24 - 8 * (before === 4 ? 3 : before === 0 ? 0 : before);
        if (!isSign((target >>> shift) & 0xff)) break;
        target ^= shift === 24 ? -1 : (1 << (shift + 8)) - 1;
      }
      // the sign fills the last byte
      bytes.writeInt32LE((target << 7) >> 7, at + 1);
      at += 5;
      mask = 0;
    }
    return at;
  };
}
