/** The header of LUKS version 1: every field, with the rules for it that need no key. */

import { alignUp, viewOf } from '../../bytes.ts';
import { quoteUntrusted, SparsecopyError, type ErrorCode } from '../../errors.ts';
import { keyLengths, SECTOR, type AesMode, type IvRule } from './aes.ts';

/** "LUKS", 0xba, 0xbe, as two numbers. */
const MAGIC_HIGH = 0x4c554b53;
const MAGIC_LOW = 0xbabe;

/** Up to the end of the key slots, in bytes. */
const HEADER_SIZE = 592;

const SLOTS_OFFSET = 208;
const SLOT_SIZE = 48;
const SLOT_COUNT = 8;

const SLOT_ACTIVE = 0x00ac71f3;
const SLOT_DISABLED = 0x0000dead;

/** All writers split a key into so many; qemu reads no other count. */
export const STRIPES = 4000;

/** Of the names of cipher, mode and hash, in bytes. */
const NAME_SIZE = 32;

/** Those of qemu's hash functions that OpenSSL is sure to have (some builds go without MD5 and RIPEMD), and their digests' sizes. */
const HASHES: ReadonlyMap<string, number> = new Map([
  ['sha1', 20],
  ['sha224', 28],
  ['sha256', 32],
  ['sha384', 48],
  ['sha512', 64],
]);

/** Keys are split, and passphrases stretched, with `hash`. */
export interface Luks {
  readonly mode: AesMode;
  readonly ivRule: IvRule;
  /** As `node:crypto` has it. */
  readonly hash: string;
  /** Of `hash`, in bytes. */
  readonly digestSize: number;
  /** In bytes; fits `mode`. */
  readonly keyLength: number;
  /** PBKDF2 of the master key with the two that follow. */
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestIterations: number;
  /** Those in use, at most 8. */
  readonly slots: readonly KeySlot[];
}

/** The master key, split and encrypted with a passphrase. */
interface KeySlot {
  readonly iterations: number;
  readonly salt: Uint8Array;
  /** Whole sectors; the split key ends in the last of them. */
  readonly material: Uint8Array;
}

/**
 * Parses `bytes`, the header with all the key material, which lies at `start` in the file called `name`. What it gives are
 * views of `bytes`.
 * @throws SparsecopyError `CORRUPT`, `UNSUPPORTED` (version, cipher, mode, hash).
 * LUKS On-Disk Format Specification 1.2.3, "PHDR layout", "Key slot layout".
 */
export function parseLuks(bytes: Uint8Array, start: number, name: string): Luks {
  function wrong(
    at: number,
    field: string,
    found: string | number,
    expected: string,
    code: ErrorCode = 'CORRUPT',
  ): SparsecopyError {
    return new SparsecopyError(
      code,
      `LUKS header field ${field} is ${found}, expected ${expected}`,
      {
        source: name,
        offset: start + at,
        expected,
        found,
        ...(code === 'UNSUPPORTED' ? { feature: `LUKS ${field} ${found}` } : {}),
      },
    );
  }
  function text(at: number, field: string): string {
    const end = bytes.indexOf(0, at);
    if (end >= 0 && end < at + NAME_SIZE) {
      return Buffer.from(bytes.subarray(at, end)).toString('latin1');
    }
    throw wrong(at, field, `${NAME_SIZE} bytes without an end`, 'a zero byte within them');
  }

  if (bytes.length < HEADER_SIZE) {
    throw new SparsecopyError(
      'CORRUPT',
      `LUKS header at ${start} has ${bytes.length} bytes, expected at least ${HEADER_SIZE}`,
      { source: name, offset: start, expected: HEADER_SIZE, found: bytes.length },
    );
  }
  const view = viewOf(bytes);
  // 0: magic
  if (view.getUint32(0) !== MAGIC_HIGH || view.getUint16(4) !== MAGIC_LOW) {
    throw wrong(0, 'magic', Buffer.from(bytes.subarray(0, 6)).toString('hex'), '4c554b53babe');
  }
  // 6: version
  const version = view.getUint16(6);
  if (version !== 1) throw wrong(6, 'version', version, '1', 'UNSUPPORTED');
  // 8: cipher-name
  const cipher = text(8, 'cipher-name');
  if (cipher !== 'aes') {
    throw wrong(8, 'cipher-name', quoteUntrusted(cipher), 'aes', 'UNSUPPORTED');
  }
  // 40: cipher-mode
  const cipherMode = text(40, 'cipher-mode');
  const parsed = parseMode(cipherMode);
  if (parsed === undefined) {
    const expected = 'xts, cbc or ecb, with -plain, -plain64 or -essiv:sha256';
    throw wrong(40, 'cipher-mode', quoteUntrusted(cipherMode), expected, 'UNSUPPORTED');
  }
  // 72: hash-spec
  const hash = text(72, 'hash-spec');
  const digestSize = HASHES.get(hash);
  if (digestSize === undefined) {
    const expected = [...HASHES.keys()].join(', ');
    throw wrong(72, 'hash-spec', quoteUntrusted(hash), expected, 'UNSUPPORTED');
  }
  // 108: key-bytes
  const keyLength = view.getUint32(108);
  const lengths = keyLengths(parsed.mode);
  if (!lengths.includes(keyLength)) {
    throw wrong(108, 'key-bytes', keyLength, `${lengths.join(', ')} for ${cipherMode}`);
  }
  // 164: mk-digest-iter
  const digestIterations = view.getUint32(164);
  if (digestIterations === 0) throw wrong(164, 'mk-digest-iter', 0, 'at least 1');
  // 104: payload-offset, in sectors: where the header ends. What qcow2 encrypts lies elsewhere.
  const end = Math.min(view.getUint32(104) * SECTOR, bytes.length);
  const materialSize = alignUp(keyLength * STRIPES, SECTOR);
  const slots: KeySlot[] = [];
  for (let number = 0; number < SLOT_COUNT; number++) {
    const at = SLOTS_OFFSET + number * SLOT_SIZE;
    const slot = `of key slot ${number}`;
    // 0: active
    const state = view.getUint32(at);
    if (state !== SLOT_ACTIVE && state !== SLOT_DISABLED) {
      throw wrong(at, `active ${slot}`, state, `${SLOT_ACTIVE} or ${SLOT_DISABLED}`);
    }
    // 4: iterations
    const iterations = view.getUint32(at + 4);
    if (iterations === 0 && state === SLOT_ACTIVE) {
      throw wrong(at + 4, `iterations ${slot}`, 0, 'at least 1');
    }
    // 40: key-material-offset, in sectors
    const offset = view.getUint32(at + 40) * SECTOR;
    if (offset < HEADER_SIZE || offset + materialSize > end) {
      const expected = `${materialSize / SECTOR} sectors between ${HEADER_SIZE} and ${end} bytes`;
      throw wrong(at + 40, `key-material-offset ${slot}`, offset / SECTOR, expected);
    }
    // 44: stripes
    const stripes = view.getUint32(at + 44);
    if (stripes !== STRIPES) throw wrong(at + 44, `stripes ${slot}`, stripes, `${STRIPES}`);
    if (state === SLOT_DISABLED) continue;
    slots.push({
      iterations,
      // 8: salt
      salt: bytes.subarray(at + 8, at + 40),
      material: bytes.subarray(offset, offset + materialSize),
    });
  }
  return {
    ...parsed,
    hash,
    digestSize,
    keyLength,
    // 112: mk-digest, 132: mk-digest-salt
    digest: bytes.subarray(112, 132),
    digestSalt: bytes.subarray(132, 164),
    digestIterations,
    // 168: uuid, ignored
    slots,
  };
}

/** `MODE-IV` or `MODE-IV:HASH`; the hash means something with essiv only, as for qemu and dm-crypt. */
function parseMode(text: string): { mode: AesMode; ivRule: IvRule } | undefined {
  const [, mode, iv, hash] = /^(xts|cbc|ecb)-(plain|plain64|essiv)(?::(.*))?$/.exec(text) ?? [];
  if (mode === undefined) return undefined;
  if (iv === 'essiv') {
    // Of the hashes above this alone is as long as a key of AES.
    return hash === 'sha256' ? { mode: mode as AesMode, ivRule: 'essiv:sha256' } : undefined;
  }
  return { mode: mode as AesMode, ivRule: iv as IvRule };
}
