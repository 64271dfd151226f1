/** Encrypted images: what qemu-img encrypted is decrypted, the right passphrase is told from others, and odd headers are refused. */

import { createCipheriv, createHash, pbkdf2Sync } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeSectorDecipher, type AesMode, type IvRule } from '../src/format/qcow2/aes.ts';
import { makeDecryptor, type Decryptor } from '../src/format/qcow2/crypt.ts';
import { parseHeader } from '../src/format/qcow2/header.ts';
import { defaultLimits } from '../src/limits.ts';
import { noise, rejection, tempDir } from './helpers.ts';
import { describeWith, run } from './tools.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const SECTOR = 512;
const OFFSET_BITS = 0x00ff_ffff_ffff_fe00n;

/** What `decryptorOf` takes to be the passphrase unless told otherwise. */
const PASSPHRASE = 'open sesame';

const secret = (id: string, data: string): string[] => ['--object', `secret,id=${id},data=${data}`];

/** Makes the encrypted image `path` of `content`. The fewest iterations that qemu-img can be made to write: 1,000. */
function encrypt(path: string, content: Uint8Array, options: string): void {
  writeFileSync(`${path}.in`, content);
  const all = `encrypt.key-secret=s,${options}`;
  const secrets = secret('s', PASSPHRASE);
  run('qemu-img', ['convert', ...secrets, '-O', 'qcow2', '-o', all, `${path}.in`, path]);
}

function luksOptions(cipher: string, mode: string, iv: string, hash = 'sha256'): string {
  const [name = '', ivHash] = iv.split(':');
  const options = [
    'encrypt.format=luks',
    'encrypt.iter-time=10',
    `encrypt.cipher-alg=${cipher}`,
    `encrypt.cipher-mode=${mode}`,
    `encrypt.ivgen-alg=${name}`,
    `encrypt.hash-alg=${hash}`,
  ];
  return [...options, ...(ivHash === undefined ? [] : [`encrypt.ivgen-hash-alg=${ivHash}`])].join();
}

/** The disk as qemu-img reads it. */
function convert(path: string, passphrase = PASSPHRASE): Buffer {
  const image = `driver=qcow2,encrypt.key-secret=s,file.filename=${path}`;
  const out = `${path}.out`;
  run('qemu-img', [
    'convert',
    ...secret('s', passphrase),
    ...['--image-opts', image, '-O', 'raw', out],
  ]);
  return readFileSync(out);
}

function cryptoHeaderOf(image: Buffer): Buffer {
  const { cryptoHeader } = parseHeader(image.subarray(0, 64 * KiB), 'disk.qcow2', defaultLimits);
  if (cryptoHeader === undefined) throw new Error('there is no LUKS header');
  return image.subarray(cryptoHeader.offset, cryptoHeader.offset + cryptoHeader.length);
}

function decryptorOf(
  image: Buffer,
  passphrase: string | undefined = PASSPHRASE,
): Promise<Decryptor> {
  const header = parseHeader(image.subarray(0, 64 * KiB), 'disk.qcow2', defaultLimits);
  const bytes = header.cryptoHeader && cryptoHeaderOf(image);
  return makeDecryptor(bytes, header, 'disk.qcow2', Buffer.from(passphrase), defaultLimits);
}

/** Every allocated cluster: where it lies in the file, where on the disk. */
function* clustersOf(image: Buffer): Generator<{ hostOffset: number; guestOffset: number }> {
  const clusterSize = 2 ** image.readUInt32BE(20);
  const entries = clusterSize / 8;
  const l1Offset = Number(image.readBigUInt64BE(40));
  for (let i = 0; i < image.readUInt32BE(36); i++) {
    const l2Offset = Number(image.readBigUInt64BE(l1Offset + i * 8) & OFFSET_BITS);
    if (l2Offset === 0) continue;
    for (let j = 0; j < entries; j++) {
      const entry = image.readBigUInt64BE(l2Offset + j * 8);
      const hostOffset = Number(entry & OFFSET_BITS);
      if (hostOffset === 0 || (entry & 1n) === 1n) continue;
      yield { hostOffset, guestOffset: (i * entries + j) * clusterSize };
    }
  }
}

/** The disk, by the decryptor, in steps of `step` bytes. */
function decrypted(image: Buffer, decryptor: Decryptor, step: number): Buffer {
  const disk = Buffer.alloc(Number(image.readBigUInt64BE(24)));
  const clusterSize = 2 ** image.readUInt32BE(20);
  for (const { hostOffset, guestOffset } of clustersOf(image)) {
    for (let at = 0; at < Math.min(clusterSize, disk.length - guestOffset); at += step) {
      const target = disk.subarray(guestOffset + at, guestOffset + at + step);
      image.copy(target, 0, hostOffset + at);
      decryptor.decrypt(target, hostOffset + at, guestOffset + at);
    }
  }
  return disk;
}

/** A disk of text, noise and a hole; its clusters do not lie in the order of the disk in the file. */
function content(): Buffer {
  const bytes = Buffer.alloc(700 * KiB);
  noise(150_000).copy(bytes, 3 * 512);
  bytes.fill('all work and no play makes a dull disk. ', 400_000, 600_000);
  return bytes;
}

let small: Buffer | undefined;

/** An image with little key material, made once: qemu-img measures for a second how fast PBKDF2 is, whatever it is told. */
function smallImage(): Buffer {
  if (small === undefined) {
    const path = join(tempDir(), 'disk.qcow2');
    encrypt(path, content(), luksOptions('aes-128', 'cbc', 'plain64', 'sha1'));
    small = readFileSync(path);
  }
  return small;
}

describeWith(['qemu-img', 'qemu-io'], 'what qemu-img encrypted', () => {
  test.each([
    ['aes-256', 'xts', 'plain64', 'sha256'],
    ['aes-192', 'xts', 'essiv:sha256', 'sha1'],
    ['aes-128', 'cbc', 'essiv:sha256', 'sha512'],
    ['aes-256', 'cbc', 'plain', 'sha224'],
    ['aes-128', 'ecb', 'plain64', 'sha1'],
  ])('LUKS: %s %s %s %s', async (cipher, mode, iv, hash) => {
    const path = join(tempDir(), 'disk.qcow2');
    encrypt(path, content(), luksOptions(cipher, mode, iv, hash));
    const image = readFileSync(path);
    const decryptor = await decryptorOf(image);
    const wanted = convert(path);
    expect(wanted.equals(content())).toBe(true);
    expect([...clustersOf(image)].length).toBe(7);
    for (const step of [64 * KiB, SECTOR]) {
      expect(decrypted(image, decryptor, step).equals(wanted), `steps of ${step}`).toBe(true);
    }
  });

  test.each([
    ['a short passphrase', 'abc'],
    ['one of 16 bytes', '0123456789abcdef'],
    ['one that is longer than the key', '0123456789abcdefghi'],
  ])('legacy AES: %s', async (_, passphrase) => {
    const path = join(tempDir(), 'disk.qcow2');
    writeFileSync(`${path}.in`, content());
    run('qemu-img', [
      ...['convert', ...secret('s', passphrase), '-O', 'qcow2'],
      ...['-o', 'encrypt.format=aes,encrypt.key-secret=s', `${path}.in`, path],
    ]);
    const image = readFileSync(path);
    const wanted = convert(path, passphrase);
    for (const step of [64 * KiB, SECTOR]) {
      const disk = decrypted(image, await decryptorOf(image, passphrase), step);
      expect(disk.equals(wanted)).toBe(true);
    }
    const noisy = decrypted(image, await decryptorOf(image, 'wrong'), 64 * KiB);
    expect(noisy.equals(wanted), 'nothing tells a wrong passphrase').toBe(false);
  });

  test('legacy AES: the sector number on the disk has more than 32 bits', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    const options = 'encrypt.format=aes,encrypt.key-secret=s';
    const secrets = secret('s', PASSPHRASE);
    run('qemu-img', ['create', '-q', ...secrets, '-f', 'qcow2', '-o', options, path, '3T']);
    const image = `driver=qcow2,encrypt.key-secret=s,file.filename=${path}`;
    run('qemu-io', [
      ...[...secrets, '--image-opts', '-c', 'write -P 0x41 2560G 64k'],
      ...['-c', 'write -P 0x42 5G 128k', image],
    ]);
    const bytes = readFileSync(path);
    const decryptor = await decryptorOf(bytes);
    const found = [...clustersOf(bytes)].map(({ hostOffset, guestOffset }) => {
      const cluster = Buffer.from(bytes.subarray(hostOffset, hostOffset + 64 * KiB));
      decryptor.decrypt(cluster, hostOffset, guestOffset);
      return [guestOffset / (64 * KiB), [...new Set(cluster)]];
    });
    const fiveGiB = 5 * 16 * KiB;
    expect(found).toEqual([
      [fiveGiB, [0x42]],
      [fiveGiB + 1, [0x42]],
      [2560 * 16 * KiB, [0x41]],
    ]);
  });

  test('a second passphrase, in the last key slot, and then alone', async () => {
    const path = join(tempDir(), 'disk.qcow2');
    writeFileSync(path, smallImage());
    const secrets = [...secret('s', PASSPHRASE), ...secret('t', 'another')];
    const amend = (key: string, options: string): void => {
      const image = `driver=qcow2,encrypt.key-secret=${key},file.filename=${path}`;
      run('qemu-img', ['amend', ...secrets, '--image-opts', image, '-o', options]);
    };
    amend('s', 'encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=7,encrypt.iter-time=10');
    const both = readFileSync(path);
    const wanted = convert(path);
    expect(wanted.equals(content())).toBe(true);
    for (const passphrase of [PASSPHRASE, 'another']) {
      const disk = decrypted(both, await decryptorOf(both, passphrase), 64 * KiB);
      expect(disk.equals(wanted), passphrase).toBe(true);
    }
    amend('t', 'encrypt.state=inactive,encrypt.old-secret=s');
    const second = readFileSync(path);
    expect(await rejection(decryptorOf(second))).toMatchObject({
      code: 'FORBIDDEN',
      message: 'disk.qcow2: the passphrase opens none of the 1 key slots in use',
    });
    const disk = decrypted(second, await decryptorOf(second, 'another'), 64 * KiB);
    expect(disk.equals(wanted)).toBe(true);
  });
});

describeWith(['qemu-img'], 'a LUKS header from qemu-img', () => {
  const luksHeader = (): Buffer => Buffer.from(cryptoHeaderOf(smallImage()));
  /** Where it lies in the imagined file. */
  const start = 196_608;

  function open(
    bytes: Uint8Array | undefined,
    passphrase: string | undefined = PASSPHRASE,
    keyIterations?: number,
  ): Promise<Decryptor> {
    const header = {
      cryptMethod: 2,
      cryptoHeader: bytes && { offset: start, length: bytes.length },
    };
    const limits = { ...defaultLimits, ...(keyIterations === undefined ? {} : { keyIterations }) };
    return makeDecryptor(bytes, header, 'disk.qcow2', Buffer.from(passphrase), limits);
  }

  const u32 = (value: number): number[] => [
    value >>> 24,
    (value >>> 16) & 0xff,
    (value >>> 8) & 0xff,
    value & 0xff,
  ];
  const text = (value: string): number[] => [...Buffer.from(`${value}\0`)];
  const slot = (number: number, at: number): number => 208 + 48 * number + at;
  const unended = new Array<number>(32).fill(0x61);

  test.each<[string, number, number[], string, RegExp, number?]>([
    ['magic', 0, [0x4d], 'CORRUPT', /magic is 4d554b53babe, expected 4c554b53babe/],
    ['magic, its end', 5, [0xbf], 'CORRUPT', /magic is 4c554b53babf/, 0],
    ['version 2', 6, [0, 2], 'UNSUPPORTED', /version is 2, expected 1/],
    ['cipher-name', 8, text('serpent'), 'UNSUPPORTED', /cipher-name is "serpent", expected aes/],
    ['cipher-name: another', 8, text('twofish'), 'UNSUPPORTED', /cipher-name is "twofish"/],
    ['cipher-name, empty', 8, [0], 'UNSUPPORTED', /cipher-name is ""/],
    ['cipher-name, no end', 8, unended, 'CORRUPT', /cipher-name is 32 bytes without an end/],
    ['cipher-mode: counter', 40, text('ctr-plain64'), 'UNSUPPORTED', /is "ctr-plain64", expected/],
    ['cipher-mode', 40, text('lrw-plain64'), 'UNSUPPORTED', /cipher-mode is "lrw-plain64"/],
    ['cipher-mode, its IV', 40, text('cbc-benbi'), 'UNSUPPORTED', /cipher-mode is "cbc-benbi"/],
    ['cipher-mode, no IV', 40, text('cbc'), 'UNSUPPORTED', /cipher-mode is "cbc"/],
    ['cipher-mode, no hash', 40, text('cbc-essiv'), 'UNSUPPORTED', /"cbc-essiv"/],
    ['cipher-mode, hash', 40, text('cbc-essiv:sha1'), 'UNSUPPORTED', /"cbc-essiv:sha1"/],
    ['cipher-mode, no end', 40, unended, 'CORRUPT', /cipher-mode is 32 bytes without/],
    ['cipher-mode, key', 40, text('xts-plain64'), 'CORRUPT', /key-bytes is 16, expected 32/, 108],
    ['hash-spec: another', 72, text('ripemd160'), 'UNSUPPORTED', /hash-spec is "ripemd160"/],
    ['hash-spec', 72, text('whirlpool'), 'UNSUPPORTED', /hash-spec is "whirlpool"/],
    ['hash-spec, a trap', 72, text('__proto__'), 'UNSUPPORTED', /hash-spec is "__proto__"/],
    ['hash-spec, no end', 72, unended, 'CORRUPT', /hash-spec is 32 bytes without/],
    ['payload-offset', 104, u32(8), 'CORRUPT', /material-offset of key slot 0 is 8/, slot(0, 40)],
    ['payload-offset 0', 104, u32(0), 'CORRUPT', /material-offset of key slot 0/, slot(0, 40)],
    ['key-bytes 0', 108, u32(0), 'CORRUPT', /key-bytes is 0, expected 16, 24, 32/],
    ['key-bytes odd', 108, u32(17), 'CORRUPT', /key-bytes is 17/],
    ['key-bytes too many', 108, u32(64), 'CORRUPT', /key-bytes is 64/],
    ['key-bytes huge', 108, u32(0xffff_ffff), 'CORRUPT', /key-bytes is 4294967295/],
    ['mk-digest', 112, [0], 'FORBIDDEN', /opens none of the 1 key slots/],
    ['mk-digest-salt', 132, [0, 0], 'FORBIDDEN', /opens none/],
    ['mk-digest-iter', 164, u32(1001), 'FORBIDDEN', /opens none/],
    ['mk-digest-iter 0', 164, u32(0), 'CORRUPT', /mk-digest-iter is 0, expected at least 1/],
    ['mk-digest-iter huge', 164, u32(0xffff_ffff), 'LIMIT', /at most 50000000 are allowed/],
    ['active', slot(0, 0), u32(1), 'CORRUPT', /active of key slot 0 is 1, expected 11301363 or/],
    ['active: disabled', slot(0, 0), u32(0xdead), 'FORBIDDEN', /none of the 0 key slots/],
    ['active of the last', slot(7, 0), u32(0), 'CORRUPT', /active of key slot 7 is 0/],
    ['iterations', slot(0, 4), u32(1), 'FORBIDDEN', /opens none/],
    ['iterations 0', slot(0, 4), u32(0), 'CORRUPT', /iterations of key slot 0 is 0/],
    ['iterations huge', slot(0, 4), u32(0xffff_ffff), 'LIMIT', /takes 42949\d+ iterations/],
    ['salt', slot(0, 8), [0, 0], 'FORBIDDEN', /opens none/],
    ['key-material-offset 0', slot(0, 40), u32(0), 'CORRUPT', /key slot 0 is 0, expected 125/],
    ['key-material-offset 1', slot(0, 40), u32(1), 'CORRUPT', /offset of key slot 0 is 1/],
    ['key-material-offset', slot(0, 40), u32(9), 'FORBIDDEN', /opens none/],
    ['key-material-offset huge', slot(7, 40), u32(0xffff_ffff), 'CORRUPT', /slot 7 is 4294967295/],
    ['stripes', slot(0, 44), u32(3999), 'CORRUPT', /stripes of key slot 0 is 3999, expected 4000/],
    ['stripes huge', slot(7, 44), u32(0xffff_ffff), 'CORRUPT', /stripes of key slot 7 is 42949/],
    ['key material', 8 * SECTOR + 300, [0, 0], 'FORBIDDEN', /opens none/],
  ])('%s', async (_, at, bytes, code, message, place = at) => {
    const header = luksHeader();
    const before = header.subarray(at, at + bytes.length).toString('hex');
    header.set(bytes, at);
    expect(header.subarray(at, at + bytes.length).toString('hex')).not.toBe(before);
    const error = await rejection(open(header));
    expect(error.message).toMatch(message);
    expect(error).toMatchObject({ name: 'SparsecopyError', code, source: 'disk.qcow2' });
    if (code !== 'FORBIDDEN' && code !== 'LIMIT')
      expect(error).toMatchObject({ offset: start + place });
  });

  test('whole, and with another uuid or what is unused in a slot', async () => {
    const header = luksHeader();
    await expect(open(header)).resolves.toBeDefined();
    expect(header.equals(luksHeader()), 'it is left as it is').toBe(true);
    header.fill(0xff, 168, 208);
    header.fill(0xff, slot(1, 4), slot(1, 40));
    await expect(open(header)).resolves.toBeDefined();
  });

  test('each of the eight key slots', async () => {
    for (let number = 1; number < 8; number++) {
      const header = luksHeader();
      header.copy(header, slot(number, 0), slot(0, 0), slot(1, 0));
      header.writeUInt32BE(0xdead, slot(0, 0));
      await expect(open(header), `slot ${number}`).resolves.toBeDefined();
    }
  });

  test('cut off anywhere', async () => {
    const header = luksHeader();
    for (const length of [
      0,
      1,
      6,
      100,
      591,
      592,
      4096,
      8 * SECTOR + 64_000,
      header.length - 4096,
    ]) {
      const error = await rejection(open(header.subarray(0, length)));
      expect(error, `${length} bytes`).toMatchObject({ code: 'CORRUPT' });
      expect(error.message).toMatch(length < 592 ? /at least 592/ : /key-material-offset/);
    }
  });

  test('passphrases', async () => {
    const header = luksHeader();
    for (const passphrase of ['', 'open sesame\n', 'Open sesame', 'x'.repeat(10_000)]) {
      expect(await rejection(open(header, passphrase))).toMatchObject({ code: 'FORBIDDEN' });
    }
  });

  test('iterations are counted over all slots, before they are made', async () => {
    const header = luksHeader();
    const each = header.readUInt32BE(slot(0, 4)) + header.readUInt32BE(164);
    for (const number of [1, 2]) header.copy(header, slot(number, 0), slot(0, 0), slot(1, 0));
    await expect(open(header, PASSPHRASE, each)).resolves.toBeDefined();
    expect(await rejection(open(header, PASSPHRASE, each - 1))).toMatchObject({
      code: 'LIMIT',
      limit: 'keyIterations',
      expected: each - 1,
      found: each,
    });
    expect(await rejection(open(header, 'wrong', 3 * each))).toMatchObject({ code: 'FORBIDDEN' });
    expect(await rejection(open(header, 'wrong', 3 * each - 1))).toMatchObject({ code: 'LIMIT' });
    header.writeUInt32BE(0xffff_ffff, slot(0, 4));
    expect(await rejection(open(header, PASSPHRASE, Infinity))).toMatchObject({ code: 'LIMIT' });
  });
});

test('what the header of the image says of its encryption', async () => {
  const attempt = (cryptMethod: number, passphrase?: Uint8Array): Promise<Decryptor> =>
    makeDecryptor(
      undefined,
      { cryptMethod, cryptoHeader: undefined },
      'a.qcow2',
      passphrase,
      defaultLimits,
    );
  const some = Buffer.from('some');
  for (const [method, name] of [
    [1, 'aes'],
    [2, 'luks'],
  ] as const) {
    expect(await rejection(attempt(method))).toMatchObject({
      code: 'UNSUPPORTED',
      feature: 'encryption',
      message: `a.qcow2: is encrypted (${name}), give a passphrase`,
    });
  }
  expect(await rejection(attempt(2, some))).toMatchObject({
    code: 'CORRUPT',
    message: 'a.qcow2: is encrypted with LUKS, but has no LUKS header',
  });
  for (const method of [3, 0xffff_ffff]) {
    for (const passphrase of [undefined, some]) {
      expect(await rejection(attempt(method, passphrase))).toMatchObject({
        code: 'UNSUPPORTED',
        feature: 'encryption',
        message: `a.qcow2: has encryption method ${method}, expected 1 or 2`,
      });
    }
  }
});

/** `plain` in sectors, each encrypted by OpenSSL by itself. */
function encryptedSectors(
  mode: AesMode,
  ivRule: IvRule,
  key: Buffer,
  plain: Buffer,
  first: number,
): Buffer {
  const bits = (key.length * 8) / (mode === 'xts' ? 2 : 1);
  const sectors: Buffer[] = [];
  for (let at = 0; at < plain.length; at += SECTOR) {
    const iv = Buffer.alloc(16);
    const number = BigInt(first + at / SECTOR);
    iv.writeBigUInt64LE(ivRule === 'plain' ? BigInt.asUintN(32, number) : number);
    if (ivRule === 'essiv:sha256') {
      const salt = createHash('sha256').update(key).digest();
      createCipheriv('aes-256-ecb', salt, null).update(iv).copy(iv);
    }
    const cipher = createCipheriv(`aes-${bits}-${mode}`, key, mode === 'ecb' ? null : iv);
    sectors.push(cipher.setAutoPadding(false).update(plain.subarray(at, at + SECTOR)));
  }
  return Buffer.concat(sectors);
}

test.each<[AesMode, IvRule, number]>([
  // OpenSSL has no XTS with AES-192.
  ...[32, 64].map((length): [AesMode, IvRule, number] => ['xts', 'plain64', length]),
  ['xts', 'plain', 64],
  ['xts', 'essiv:sha256', 32],
  ...[16, 24, 32].map((length): [AesMode, IvRule, number] => ['cbc', 'plain64', length]),
  ['cbc', 'plain', 24],
  ['cbc', 'essiv:sha256', 32],
  ...[16, 24, 32].map((length): [AesMode, IvRule, number] => ['ecb', 'plain64', length]),
])(
  'sectors in long runs are what OpenSSL has one by one: %s-%s, %i bytes of key',
  (mode, ivRule, length) => {
    const key = noise(length, 77);
    const decipher = makeSectorDecipher(mode, ivRule, key);
    for (const count of [1, 255, 256, 257, 600]) {
      const plain = noise(count * SECTOR, count);
      // Around 32 bits, at their end and beyond them; the last sector of a file of 2^53 bytes.
      for (const first of [0, 7, 2 ** 31 - 1, 2 ** 32 - 100, 2 ** 33 + 5, 2 ** 44 - count]) {
        const bytes = new Uint8Array(plain.length + 7).subarray(3, 3 + plain.length);
        bytes.set(encryptedSectors(mode, ivRule, key, plain, first));
        decipher(bytes, first);
        expect(plain.equals(bytes), `${count} sectors from ${first}`).toBe(true);
      }
    }
  },
);

test('what are not whole sectors is no silent noise', () => {
  const decipher = makeSectorDecipher('cbc', 'plain64', noise(16));
  for (const length of [1, 511, 513]) {
    expect(() => decipher(new Uint8Array(length), 0)).toThrow(RangeError);
  }
  expect(() => decipher(new Uint8Array(SECTOR), 0.5)).toThrow(RangeError);
});

test('LUKS with AES-192-CBC, whose split key does not end with a sector: qemu-img makes none', async () => {
  const masterKey = noise(24, 5);
  const salt = noise(32, 6);
  const stripes = 4000;
  const material = Buffer.alloc(188 * SECTOR);
  noise(24 * (stripes - 1), 8).copy(material);
  let state = Buffer.alloc(24);
  for (let stripe = 0; stripe < stripes - 1; stripe++) {
    state = Buffer.from(state.map((byte, i) => byte ^ (material[stripe * 24 + i] ?? 0)));
    const digest = (number: number, part: Buffer): Buffer =>
      createHash('sha1')
        .update(Buffer.from([0, 0, 0, number]))
        .update(part)
        .digest();
    const parts = [digest(0, state.subarray(0, 20)), digest(1, state.subarray(20)).subarray(0, 4)];
    state = Buffer.concat(parts);
  }
  material.set(
    masterKey.map((byte, i) => byte ^ (state[i] ?? 0)),
    24 * (stripes - 1),
  );
  const slotKey = pbkdf2Sync(PASSPHRASE, salt, 10, 24, 'sha1');
  const header = Buffer.alloc(2 * MiB);
  header.write('LUKS\xba\xbe\0\x01aes', 'latin1');
  header.write('cbc-plain64', 40);
  header.write('sha1', 72);
  header.writeUInt32BE(header.length / SECTOR, 104);
  header.writeUInt32BE(24, 108);
  pbkdf2Sync(masterKey, salt, 20, 20, 'sha1').copy(header, 112);
  salt.copy(header, 132);
  header.writeUInt32BE(20, 164);
  for (let slot = 0; slot < 8; slot++) {
    const at = 208 + 48 * slot;
    header.writeUInt32BE(slot === 7 ? 0x00ac71f3 : 0x0000dead, at);
    header.writeUInt32BE(10, at + 4);
    salt.copy(header, at + 8);
    header.writeUInt32BE(8 + 192 * slot, at + 40);
    header.writeUInt32BE(stripes, at + 44);
  }
  const encryptedMaterial = encryptedSectors('cbc', 'plain64', slotKey, material, 0);
  encryptedMaterial.copy(header, (8 + 192 * 7) * SECTOR);
  const decryptor = await makeDecryptor(
    header,
    { cryptMethod: 2, cryptoHeader: { offset: 65_536, length: header.length } },
    'disk.qcow2',
    Buffer.from(PASSPHRASE),
    defaultLimits,
  );
  const plain = noise(64 * KiB, 9);
  const bytes = encryptedSectors('cbc', 'plain64', masterKey, plain, 640);
  decryptor.decrypt(bytes, 640 * SECTOR, 0);
  expect(bytes.equals(plain)).toBe(true);
});
