/** AES as disks use it: in sectors of 512 bytes, each decrypted by itself with an initialization vector made of its number. */

import { createCipheriv, createDecipheriv, createHash, type Decipher } from 'node:crypto';
import { viewOf } from '../../bytes.ts';

/** All formats that encrypt in sectors count in these, whatever the disk's own sector size is. */
export const SECTOR = 512;

/** Of AES, in bytes. */
const BLOCK = 16;

/**
 * A setup of OpenSSL's costs 6 microseconds, as much as decrypting 8 KiB: one for each sector gives 77 MiB/s, pieces of 4 KiB
 * 250 MiB/s, pieces this long 500 MiB/s of XTS; longer ones leave the processor's cache, and are slower again.
 */
const PIECE = 128 * 1024;

const TWO_32 = 2 ** 32;

export type AesMode = 'xts' | 'cbc' | 'ecb';

/**
 * What a sector's initialization vector is: its number in 32 (`plain`) or 64 bits, little-endian, padded with zeros; or the
 * latter encrypted with the hash of the key (`essiv`).
 */
export type IvRule = 'plain' | 'plain64' | 'essiv:sha256';

/**
 * Decrypts whole sectors in place; `firstSector` is the number of the first.
 * @throws RangeError when `bytes` are not whole sectors or the number is not whole.
 */
export type SectorDecipher = (bytes: Uint8Array, firstSector: number) => void;

/** Decrypts sectors in place, given the initialization vectors of all of them in a row. */
type PieceDecipher = (piece: Uint8Array, ivs: Uint8Array) => void;

/** `key` is as long as the mode needs: 16, 24 or 32 bytes, twice that for XTS. */
export function makeSectorDecipher(mode: AesMode, ivRule: IvRule, key: Uint8Array): SectorDecipher {
  const ivsOf = makeIvs(ivRule, key);
  const decipher = pieceDeciphers[mode](key);
  return (bytes: Uint8Array, firstSector: number): void => {
    if (bytes.length % SECTOR !== 0 || !Number.isSafeInteger(firstSector)) {
      throw new RangeError(
        `${bytes.length} bytes from sector ${firstSector} are not whole sectors`,
      );
    }
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      decipher(piece, ivsOf(firstSector + at / SECTOR, piece.length / SECTOR));
    }
  };
}

/** The length of keys that `mode` can have, in bytes. */
export function keyLengths(mode: AesMode): readonly number[] {
  return mode === 'xts' ? [32, 48, 64] : [16, 24, 32];
}

const pieceDeciphers: Record<AesMode, (key: Uint8Array) => PieceDecipher> = {
  xts: makeXts,
  cbc: makeCbc,
  ecb(key: Uint8Array): PieceDecipher {
    const decipher = makeBlockDecipher(key);
    return (piece) => piece.set(decipher.update(piece));
  },
};

/** It has no state between its blocks, and so can be used for ever. */
function makeBlockDecipher(key: Uint8Array): Decipher {
  return createDecipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
}

/**
 * XTS on top of single blocks, because OpenSSL's own wants a setup for each sector: a block is masked, decrypted and masked
 * again; the mask of a sector's first block is its encrypted initialization vector, that of the next is its double.
 * IEEE 1619-2007, 5.3.
 */
function makeXts(key: Uint8Array): PieceDecipher {
  const half = key.length / 2;
  const decipher = makeBlockDecipher(key.subarray(0, half));
  const tweaks = createCipheriv(`aes-${half * 8}-ecb`, key.subarray(half), null);
  return (piece: Uint8Array, ivs: Uint8Array): void => {
    const view = viewOf(piece);
    const masks = viewOf(tweaks.update(ivs));
    applyMasks(view, view, masks);
    applyMasks(view, viewOf(decipher.update(piece)), masks);
  };
}

/** Puts into `to` what is in `from`, each block combined with its mask; `masks` has those of the sectors' first blocks. */
function applyMasks(to: DataView, from: DataView, masks: DataView): void {
  for (let sector = 0, at = 0; at < to.byteLength; sector++) {
    let mask0 = masks.getInt32(sector * BLOCK, true);
    let mask1 = masks.getInt32(sector * BLOCK + 4, true);
    let mask2 = masks.getInt32(sector * BLOCK + 8, true);
    let mask3 = masks.getInt32(sector * BLOCK + 12, true);
    for (const end = at + SECTOR; at < end; at += BLOCK) {
      to.setInt32(at, from.getInt32(at, true) ^ mask0, true);
      to.setInt32(at + 4, from.getInt32(at + 4, true) ^ mask1, true);
      to.setInt32(at + 8, from.getInt32(at + 8, true) ^ mask2, true);
      to.setInt32(at + 12, from.getInt32(at + 12, true) ^ mask3, true);
      // Doubled modulo x^128 + x^7 + x^2 + x + 1.
      const carry = (mask3 >> 31) & 0x87;
      mask3 = (mask3 << 1) | (mask2 >>> 31);
      mask2 = (mask2 << 1) | (mask1 >>> 31);
      mask1 = (mask1 << 1) | (mask0 >>> 31);
      mask0 = (mask0 << 1) ^ carry;
    }
  }
}

/** CBC over all sectors as if they were one: only the first block of each comes out wrong, combined with what lies before it. */
function makeCbc(key: Uint8Array): PieceDecipher {
  const name = `aes-${key.length * 8}-cbc`;
  const none = new Uint8Array(BLOCK);
  return (piece: Uint8Array, ivs: Uint8Array): void => {
    const plain = createDecipheriv(name, key, none).setAutoPadding(false).update(piece);
    const view = viewOf(plain);
    const before = viewOf(piece);
    const right = viewOf(ivs);
    for (let at = 0; at < piece.length; at += SECTOR) {
      if (at > 0) combine(view, at, before, at - BLOCK);
      combine(view, at, right, (at / SECTOR) * BLOCK);
    }
    piece.set(plain);
  };
}

/** Exclusive or of a block of `other` into one of `view`. */
function combine(view: DataView, at: number, other: DataView, otherAt: number): void {
  for (let i = 0; i < BLOCK; i += 4) {
    view.setInt32(at + i, view.getInt32(at + i) ^ other.getInt32(otherAt + i));
  }
}

/** The initialization vectors of `count` sectors from `first` on. */
function makeIvs(rule: IvRule, key: Uint8Array): (first: number, count: number) => Uint8Array {
  const numbers = (first: number, count: number): Uint8Array => {
    const ivs = new Uint8Array(count * BLOCK);
    const view = viewOf(ivs);
    for (let i = 0; i < count; i++) {
      const sector = first + i;
      view.setUint32(i * BLOCK, sector % TWO_32, true);
      if (rule !== 'plain') view.setUint32(i * BLOCK + 4, Math.floor(sector / TWO_32), true);
    }
    return ivs;
  };
  if (rule !== 'essiv:sha256') return numbers;
  const salt = createHash('sha256').update(key).digest();
  const cipher = createCipheriv('aes-256-ecb', salt, null);
  return (first, count) => cipher.update(numbers(first, count));
}
