/** From a passphrase to the master key of a LUKS header. */

import { createHash, pbkdf2 } from 'node:crypto';
import { promisify } from 'node:util';
import { SparsecopyError } from '../../errors.ts';
import { makeSectorDecipher } from './aes.ts';
import { STRIPES, type Luks } from './luks.ts';

/** OpenSSL takes no more at a time. */
const MOST_ITERATIONS = 2 ** 31 - 1;

const stretch = promisify(pbkdf2);

/**
 * Finds the key slot that `passphrase` opens, trying them in their order; `undefined` when it opens none. `name` is the
 * file's. At most `iterationLimit` iterations of PBKDF2 are made in all.
 * @throws SparsecopyError `LIMIT`.
 * LUKS On-Disk Format Specification 1.2.3, "Master key recovery".
 */
export async function findMasterKey(
  luks: Luks,
  passphrase: Uint8Array,
  iterationLimit: number,
  name: string,
): Promise<Uint8Array | undefined> {
  const { digest, digestIterations, digestSalt, hash, ivRule, keyLength, mode, slots } = luks;
  const most = Math.min(iterationLimit, MOST_ITERATIONS);
  let iterations = 0;
  for (const slot of slots) {
    iterations += slot.iterations + digestIterations;
    if (iterations > most) {
      throw new SparsecopyError(
        'LIMIT',
        `trying the passphrase takes ${iterations} iterations of PBKDF2 or more, at most ${most} are allowed`,
        { source: name, limit: 'keyIterations', expected: most, found: iterations },
      );
    }
    const slotKey = await stretch(passphrase, slot.salt, slot.iterations, keyLength, hash);
    const material = new Uint8Array(slot.material);
    makeSectorDecipher(mode, ivRule, slotKey)(material, 0);
    const key = mergeStripes(material, luks);
    const found = await stretch(key, digestSalt, digestIterations, digest.length, hash);
    if (found.equals(digest)) return key;
  }
  return undefined;
}

/** Puts a split key together: stripe after stripe is combined into it, and all of it scattered between two of them. "AF-Splitter". */
function mergeStripes(material: Uint8Array, { digestSize, hash, keyLength }: Luks): Uint8Array {
  const key = new Uint8Array(material.subarray(0, keyLength));
  const number = Buffer.alloc(4);
  for (let stripe = 1; stripe < STRIPES; stripe++) {
    for (let at = 0; at < keyLength; at += digestSize) {
      number.writeUInt32BE(at / digestSize);
      const part = key.subarray(at, at + digestSize);
      const digest = createHash(hash).update(number).update(part).digest();
      part.set(digest.subarray(0, part.length));
    }
    const start = stripe * keyLength;
    for (let i = 0; i < keyLength; i++) key[i] = (key[i] ?? 0) ^ (material[start + i] ?? 0);
  }
  return key;
}
