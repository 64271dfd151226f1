/** The sound images and streams that the fuzzer damages: the fixtures, and what the native tools make of every other kind. */

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeBase, makeRandom, type Base, type Kind } from './mutations.ts';
import { run } from './native.ts';

/** How a file is to be opened, and whether a native tool may be asked for a second opinion. */
interface Opening {
  readonly passphrase?: string;
  /** Name of the file in the same folder that takes the place of the backing file. */
  readonly backing?: string;
  /** Name of the file in the same folder that each reference means. */
  readonly reference?: string;
}

/** A line of `bases.json`. */
interface Entry {
  readonly name: string;
  readonly kind: Kind;
  readonly opening: Opening;
  /** Several streams in one file: fewer of them are a whole file, too. */
  readonly isJoined: boolean;
}

export interface OpenableBase extends Base, Pick<Entry, 'opening' | 'isJoined'> {}

const kinds: Readonly<Record<string, Kind>> = {
  qcow2: 'qcow2',
  gz: 'gzip',
  xz: 'xz',
  lz4: 'lz4',
  zst: 'zstd',
};

function kindOf(name: string): Kind | undefined {
  return kinds[name.slice(name.lastIndexOf('.') + 1)];
}

/** The bases in `folder`, as `makeBases` left them. */
export function readBases(folder: string): OpenableBase[] {
  const entries = JSON.parse(readFileSync(join(folder, 'bases.json'), 'utf8')) as Entry[];
  return entries.map(({ name, kind, opening, isJoined }) => ({
    ...makeBase(name, kind, readFileSync(join(folder, name))),
    opening,
    isJoined,
  }));
}

/** Content of a small disk: text, noise, and zeros between them. */
function content(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  const random = makeRandom(1);
  for (let at = 0; at < size; at += 3072) {
    const part = bytes.subarray(at, Math.min(at + 1 + random.below(2048), size));
    if (random.once(2)) part.fill('all work and no play makes a dull disk. ');
    else for (let index = 0; index < part.length; index++) part[index] = random.below(256);
  }
  return bytes;
}

/**
 * Fills `folder` with the bases: the images of `fixtures`, images and streams made on the spot, and the sound ones among
 * those of `hostile`, a folder with the hostile corpus, if there is one.
 */
export function makeBases(folder: string, fixtures: string, hostile: string | undefined): void {
  mkdirSync(folder, { recursive: true });
  const entries: Entry[] = [];
  const add = (name: string, bytes: Uint8Array, opening: Opening = {}, isJoined = false): void => {
    const kind = kindOf(name);
    if (kind === undefined) return;
    writeFileSync(join(folder, name), bytes);
    entries.push({ name, kind, opening, isJoined });
  };
  for (const name of readdirSync(fixtures)) add(name, readFileSync(join(fixtures, name)));

  const raw = content(20_000);
  add('one.gz', run('gzip', ['-9nc'], raw));
  add(
    'two.gz',
    Buffer.concat([run('gzip', ['-1nc'], raw), run('gzip', ['-9nc'], Buffer.alloc(3000))]),
    {},
    true,
  );
  add('crc64.xz', run('xz', ['-c6'], raw));
  add('blocks.xz', run('xz', ['-c0', '--check=crc32', '--block-size=4096'], raw));
  add('frame.lz4', run('lz4', ['-c9', '-B4', '-BD', '--content-size'], raw));
  add(
    'blocks.lz4',
    Buffer.concat([run('lz4', ['-c1', '-B4', '-BX'], raw), run('lz4', ['-c1'], raw)]),
    {},
    true,
  );
  add('legacy.lz4', run('lz4', ['-cl'], raw));
  add('level19.zst', run('zstd', ['-c19', '--check'], raw));
  add(
    'frames.zst',
    Buffer.concat([run('zstd', ['-c1', '--no-check'], raw), run('zstd', ['-c3'], raw)]),
    {},
    true,
  );

  const path = (name: string): string => join(folder, name);
  writeFileSync(path('content.raw'), content(150_000));
  const image = (name: string, flags: string[], input = 'content.raw'): void => {
    run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...flags, path(input), path(name)]);
  };
  const taken = (name: string, opening: Opening = {}): void => {
    add(name, readFileSync(path(name)), opening);
  };
  writeFileSync(path('small.raw'), content(40_000));
  image('extended.qcow2', ['-o', 'extended_l2=on,cluster_size=16k']);
  run('qemu-io', [
    ...['-f', 'qcow2', '-c', 'write -z 20k 3k', '-c', 'discard 60k 30k'],
    ...['-c', 'write -P 7 110k 512', path('extended.qcow2')],
  ]);
  taken('extended.qcow2');
  image('extended-deflate.qcow2', ['-c', '-o', 'extended_l2=on,cluster_size=16k']);
  taken('extended-deflate.qcow2');
  image('zstd-4k.qcow2', ['-c', '-o', 'compression_type=zstd,cluster_size=4k']);
  taken('zstd-4k.qcow2');
  image('large-clusters.qcow2', ['-c', '-o', 'cluster_size=64k']);
  taken('large-clusters.qcow2');

  run('qemu-img', [
    ...['create', '-q', '-f', 'qcow2', '-b', path('small.raw'), '-F', 'raw'],
    ...['-o', 'cluster_size=512', path('overlay.qcow2'), '50k'],
  ]);
  run('qemu-io', [
    '-f',
    'qcow2',
    '-c',
    'write -P 3 3k 9k',
    '-c',
    'write -z 20k 2k',
    path('overlay.qcow2'),
  ]);
  taken('overlay.qcow2', { backing: 'small.raw' });

  run('qemu-img', [
    ...['create', '-q', '-f', 'qcow2', '-o'],
    ...[`cluster_size=512,data_file=${path('data.raw')}`, path('data-file.qcow2'), '40k'],
  ]);
  run('qemu-io', [
    '-f',
    'qcow2',
    '-c',
    'write -P 3 3k 9k',
    '-c',
    'write -P 4 30k 2k',
    path('data-file.qcow2'),
  ]);
  taken('data-file.qcow2', { reference: 'data.raw' });

  const secret = ['--object', 'secret,id=key,data=sesame'];
  const keys = 'encrypt.key-secret=key,encrypt.iter-time=1';
  for (const [name, options] of [
    [
      'luks-cbc.qcow2',
      `encrypt.format=luks,${keys},encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64,encrypt.hash-alg=sha1`,
    ],
    ['aes.qcow2', 'encrypt.format=aes,encrypt.key-secret=key'],
  ] as const) {
    image(name, [...secret, '-o', `cluster_size=4k,${options}`], 'small.raw');
    taken(name, { passphrase: 'sesame' });
  }

  if (hostile !== undefined) {
    for (const name of [
      'q10-size0',
      'q15-size-unaligned',
      'q97-comp-long',
      'q107-zstd-control',
      'q126-tables-last',
    ]) {
      add(`${name}.qcow2`, readFileSync(join(hostile, `${name}.qcow2`)));
    }
    for (const [name, isJoined] of [
      ['z08-trailing-zeros.gz', false],
      ['z09-multi.gz', true],
      ['z20-control.raw.xz', false],
      ['z31-concat.xz', true],
    ] as const) {
      add(name, readFileSync(join(hostile, name)), {}, isJoined);
    }
  }
  writeFileSync(path('bases.json'), JSON.stringify(entries));
}
