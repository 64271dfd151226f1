/** Encrypted qcow2 images: which way an image is encrypted, and whether offsets of the file or of the disk matter to it. */

import { SparsecopyError, type ErrorCode, type ErrorDetails } from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import { makeSectorDecipher, SECTOR } from './aes.ts';
import type { Header } from './header.ts';
import { findMasterKey } from './luks-key.ts';
import { parseLuks } from './luks.ts';

/** Values of the header's crypt_method. */
const AES = 1;
const LUKS = 2;

/** The key of AES-128. */
const LEGACY_KEY_SIZE = 16;

/** Makes the bytes of plain clusters readable; compressed clusters are never encrypted. */
export interface Decryptor {
  /** Decrypts in place. `bytes` are whole 512-byte sectors that lie at `hostOffset` in the file and at `guestOffset` on the disk. */
  decrypt(bytes: Uint8Array, hostOffset: number, guestOffset: number): void;
}

/**
 * The decryptor of the image called `name`, which has `header`, with `cryptoHeader.length` bytes from `cryptoHeader.offset` on.
 *
 * With legacy AES nothing tells a wrong passphrase: the disk is noise then. LUKS knows its passphrases.
 * @throws SparsecopyError `UNSUPPORTED` (no passphrase; a method, version, cipher, mode or hash that is not known), `FORBIDDEN`
 * (the passphrase opens no key slot), `CORRUPT`, `LIMIT` (more iterations than allowed).
 * Specification: "crypt_method", "Full disk encryption header pointer", "Data encryption".
 */
export async function makeDecryptor(
  cryptoHeaderBytes: Uint8Array | undefined,
  header: Pick<Header, 'cryptMethod' | 'cryptoHeader'>,
  name: string,
  passphrase: Uint8Array | undefined,
  limits: Pick<Limits, 'keyIterations'>,
): Promise<Decryptor> {
  const fail = (code: ErrorCode, sentence: string, details: ErrorDetails = {}): SparsecopyError =>
    new SparsecopyError(code, sentence, { source: name, offset: 32, ...details });

  const { cryptMethod } = header;
  if (cryptMethod !== AES && cryptMethod !== LUKS) {
    throw fail('UNSUPPORTED', `has encryption method ${cryptMethod}, expected 1 or 2`, {
      feature: 'encryption',
      expected: '1 or 2',
      found: cryptMethod,
    });
  }
  if (passphrase === undefined) {
    const method = cryptMethod === AES ? 'aes' : 'luks';
    throw fail('UNSUPPORTED', `is encrypted (${method}), give a passphrase`, {
      feature: 'encryption',
      found: cryptMethod,
    });
  }
  if (cryptMethod === AES) {
    const key = new Uint8Array(LEGACY_KEY_SIZE);
    key.set(passphrase.subarray(0, LEGACY_KEY_SIZE));
    const decipher = makeSectorDecipher('cbc', 'plain64', key);
    return { decrypt: (bytes, _, guestOffset) => decipher(bytes, guestOffset / SECTOR) };
  }
  const start = header.cryptoHeader?.offset;
  if (cryptoHeaderBytes === undefined || start === undefined) {
    throw fail('CORRUPT', 'is encrypted with LUKS, but has no LUKS header', { found: 'none' });
  }
  const luks = parseLuks(cryptoHeaderBytes, start, name);
  const key = await findMasterKey(luks, passphrase, limits.keyIterations, name);
  if (key === undefined) {
    const { length } = luks.slots;
    throw fail('FORBIDDEN', `the passphrase opens none of the ${length} key slots in use`, {
      offset: start,
    });
  }
  const decipher = makeSectorDecipher(luks.mode, luks.ivRule, key);
  return { decrypt: (bytes, hostOffset) => decipher(bytes, hostOffset / SECTOR) };
}
