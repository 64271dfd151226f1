/** What real file systems, partition tables, images and other files are taken for, and that nothing is taken for two things. */

import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  HEAD_LENGTH,
  probeSignatures,
  TAIL_LENGTH,
  type Edges,
  type Signatures,
} from '../src/format/signatures.ts';
import { describeCorpus, readIndex, unpack, unpackedPath, type Unpacked } from './corpora.ts';
import { noise, tempDir } from './helpers.ts';
import { hasTool, type Tool } from './native.ts';
import { describeWith, run } from './tools.ts';

const MiB = 2 ** 20;

function edgesOf(path: string): Edges {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const read = (length: number, offset: number): Buffer => {
      const bytes = Buffer.alloc(length);
      readSync(fd, bytes, 0, length, offset);
      return bytes;
    };
    const tailLength = Math.min(TAIL_LENGTH, size);
    return {
      head: read(Math.min(HEAD_LENGTH, size), 0),
      tail: read(tailLength, size - tailLength),
    };
  } finally {
    closeSync(fd);
  }
}

const probeFile = (path: string): Signatures => probeSignatures(edgesOf(path));

const probeBytes = (bytes: Uint8Array): Signatures =>
  probeSignatures({ head: bytes.subarray(0, HEAD_LENGTH), tail: bytes.subarray(-TAIL_LENGTH) });

const nothing: Signatures = {
  formats: [],
  contents: [],
  embedded: [],
  containers: [],
  documents: [],
};

/** How a thing is made that lies on disks: in a file of `size` bytes, by `tool` of Debian's `package`. */
interface Maker {
  readonly made: string;
  readonly tool: string;
  readonly package: string;
  readonly size: number;
  /** `FILE` is the file. */
  readonly args: readonly string[];
  readonly input?: string;
  readonly expected: readonly string[];
}

const fileSystem = (
  expected: string,
  tool: string,
  of: string,
  size: number,
  ...args: string[]
): Maker => ({
  made: [tool, ...args].join(' '),
  tool,
  package: of,
  size,
  args: [...args, 'FILE'],
  expected: [expected],
});

const table = (input: string, ...expected: string[]): Maker => ({
  made: `sfdisk with ${input.replace('\n', ', ')}`,
  tool: 'sfdisk',
  package: 'fdisk',
  size: 8 * MiB,
  args: ['--quiet', 'FILE'],
  input,
  expected,
});

/** A boot sector's end and an empty place for the table are those of an MBR without partitions. */
const withBootSector = (maker: Maker): Maker => ({
  ...maker,
  expected: ['mbr', ...maker.expected],
});

const makers: readonly Maker[] = [
  table('start=2048, type=83', 'mbr'),
  table('label: dos', 'mbr'),
  table('label: gpt\nstart=2048', 'mbr', 'gpt'),
  table('label: sun', 'sun'),
  table('label: sgi', 'dvh'),
  fileSystem('ext', 'mkfs.ext2', 'e2fsprogs', 4 * MiB, '-q'),
  fileSystem('ext', 'mkfs.ext4', 'e2fsprogs', 64 * MiB, '-q'),
  fileSystem('ext', 'mkfs.ext4', 'e2fsprogs', 256 * MiB, '-q', '-F', '-b', '65536'),
  fileSystem('xfs', 'mkfs.xfs', 'xfsprogs', 320 * MiB, '-q'),
  fileSystem('blank', 'mkfs.btrfs', 'btrfs-progs', 128 * MiB, '-q'),
  fileSystem('f2fs', 'mkfs.f2fs', 'f2fs-tools', 128 * MiB, '-q'),
  fileSystem('nilfs2', 'mkfs.nilfs2', 'nilfs-tools', 256 * MiB, '-q'),
  fileSystem('jfs', 'mkfs.jfs', 'jfsutils', 32 * MiB, '-q'),
  fileSystem('udf', 'mkudffs', 'udftools', 32 * MiB),
  fileSystem('udf', 'mkudffs', 'udftools', 32 * MiB, '-b', '512'),
  withBootSector(fileSystem('fat', 'mkfs.fat', 'dosfstools', 1440 * 1024)),
  withBootSector(fileSystem('fat', 'mkfs.fat', 'dosfstools', 32 * MiB, '-F16')),
  withBootSector(fileSystem('fat', 'mkfs.fat', 'dosfstools', 128 * MiB, '-F32')),
  withBootSector(fileSystem('exfat', 'mkfs.exfat', 'exfatprogs', 32 * MiB)),
  withBootSector(
    fileSystem(
      'ntfs',
      'mkntfs',
      'ntfs-3g',
      32 * MiB,
      ...'-F -q -s 512 -p 0 -H 255 -S 63'.split(' '),
    ),
  ),
  fileSystem('minix', 'mkfs.minix', 'util-linux-extra', 8 * MiB, '-1'),
  fileSystem('minix', 'mkfs.minix', 'util-linux-extra', 8 * MiB, '-2'),
  fileSystem('minix', 'mkfs.minix', 'util-linux-extra', 8 * MiB, '-3'),
  fileSystem('bfs', 'mkfs.bfs', 'util-linux-extra', 4 * MiB),
  fileSystem('swap', 'mkswap', 'util-linux', 16 * MiB),
  fileSystem('swap', 'mkswap', 'util-linux', 16 * MiB, '-p', '65536'),
  fileSystem('bcache', 'make-bcache', 'bcache-tools', 64 * MiB, '-B'),
  // of a folder
  ...(['squashfs', 'erofs', 'cramfs', 'iso9660'] as const).map((made): Maker => {
    const [tool, of, ...args] = {
      squashfs: [
        'mksquashfs',
        'squashfs-tools',
        'FOLDER',
        'FILE',
        '-quiet',
        '-no-progress',
        '-noappend',
      ],
      erofs: ['mkfs.erofs', 'erofs-utils', 'FILE', 'FOLDER'],
      cramfs: ['mkfs.cramfs', 'util-linux-extra', 'FOLDER', 'FILE'],
      iso9660: ['xorriso', 'xorriso', '-as', 'mkisofs', '-quiet', '-o', 'FILE', 'FOLDER'],
    }[made] as [string, string, ...string[]];
    return { made: `${made} of a folder`, tool, package: of, size: 0, args, expected: [made] };
  }),
];

describe('what lies on a disk', () => {
  for (const { made, tool, package: of, size, args, input, expected } of makers) {
    const isHere = hasTool(tool as Tool);
    test.skipIf(!isHere)(isHere ? made : `${made} (needs ${tool}: apt install ${of})`, () => {
      const folder = tempDir();
      const path = join(folder, 'disk');
      writeFileSync(path, '');
      truncateSync(path, size);
      const names: Record<string, string> = { FILE: path, FOLDER: join(import.meta.dirname) };
      const words = args.map((word) => names[word] ?? word);
      run(tool, words, input === undefined ? undefined : Buffer.from(input));
      expect(probeFile(path)).toEqual({ ...nothing, contents: expected });
    });
  }

  test('a disk of zeros is blank, one of noise is nothing that is known', () => {
    expect(probeBytes(Buffer.alloc(MiB))).toEqual({ ...nothing, contents: ['blank'] });
    expect(probeBytes(Buffer.alloc(1))).toEqual({ ...nothing, contents: ['blank'] });
    expect(probeBytes(noise(MiB))).toEqual(nothing);
    expect(probeBytes(noise(1))).toEqual(nothing);
    expect(probeBytes(Buffer.alloc(0))).toEqual(nothing);
  });

  test('the end of a boot sector alone is no table', () => {
    const sector = noise(512).map((byte) => byte | 1);
    sector.set([0x55, 0xaa], 510);
    expect(probeBytes(sector)).toEqual(nothing);
    sector.set([0x80, 1, 1, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], 446);
    expect(probeBytes(sector)).toEqual({ ...nothing, contents: ['mbr'] });
  });

  test('a GPT of which only the copy at the end is left', () => {
    const disk = noise(MiB);
    disk.set(Buffer.from('EFI PART'), MiB - 512);
    expect(probeBytes(disk)).toEqual({ ...nothing, contents: ['gpt'] });
    // as long as the end has not come, nobody knows
    expect(probeSignatures({ head: disk.subarray(0, HEAD_LENGTH), tail: undefined })).toEqual(
      nothing,
    );
  });
});

describeWith(['qemu-img', 'sfdisk', 'mkfs.ext4'], 'images by qemu-img', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sparsecopy-test-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  /** Disks of 2 MiB: with a table, with a file system right at the start, and with a table and not a zero byte. */
  const disks = ['partitioned', 'filesystem', 'full'] as const;
  beforeAll(() => {
    for (const disk of disks) writeFileSync(join(folder, disk), Buffer.alloc(2 * MiB));
    run('sfdisk', ['--quiet', join(folder, 'partitioned')], Buffer.from('label: gpt\nstart=64'));
    run('mkfs.ext4', ['-q', '-F', join(folder, 'filesystem')]);
    const full = noise(2 * MiB);
    full.set([0x80, 1, 1, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], 446);
    full.set([0x55, 0xaa], 510);
    writeFileSync(join(folder, 'full'), full);
  });

  const isImage = (path: string, format: string): void =>
    expect(probeFile(path)).toMatchObject({
      formats: [format],
      embedded: [],
      containers: [],
      documents: [],
    });

  const targets: readonly (readonly [format: string, options: string])[] = [
    // the smaller its clusters, the nearer to its start has an image what is on the disk
    ...[512, 1024, 4096, 65536, 2 * MiB].map((size) => ['qcow2', `cluster_size=${size}`] as const),
    ['qcow2', 'compat=0.10,cluster_size=512'],
    ['qcow2', 'preallocation=metadata,cluster_size=1024'],
    ['qcow', ''],
    ['qed', 'cluster_size=4096'],
    ...'monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized'
      .split(' ')
      .map((subformat) => ['vmdk', `subformat=${subformat}`] as const),
    ['vdi', ''],
    ['vdi', 'static=on'],
    ['vhdx', 'block_size=1048576'],
    ['vpc', 'subformat=dynamic'],
    ['vpc', 'subformat=fixed'],
    ['parallels', ''],
  ];

  test.each(targets)('%s %s', (format, options) => {
    for (const disk of disks) {
      const source = join(folder, disk);
      const path = join(tempDir(), 'image');
      const wanted = options === '' ? [] : ['-o', options];
      run('qemu-img', ['convert', '-f', 'raw', '-O', format, ...wanted, source, path]);
      isImage(path, format);
      // a fixed VHD is the disk with a footer behind it
      if (options === 'subformat=fixed') {
        expect(probeFile(path).contents).toEqual(expect.arrayContaining([...tableOf(source)]));
      }
    }
  });

  /** What is at the start of a disk, whatever is at its end. */
  const tableOf = (path: string): readonly string[] =>
    probeSignatures({ head: edgesOf(path).head, tail: undefined }).contents;

  test('cut anywhere, an image is still looked at', () => {
    const path = join(tempDir(), 'image');
    const secret = ['--object', 'secret,id=s,data=x', '-o', 'key-secret=s,iter-time=10'];
    for (const format of ['qcow2', 'vmdk', 'vdi', 'vpc', 'luks']) {
      const options = format === 'luks' ? secret : [];
      run('qemu-img', ['create', '-q', ...options, '-f', format, path, '1M']);
      isImage(path, format);
      const { head } = edgesOf(path);
      for (let length = 0; length < 1100; length += length < 80 ? 1 : 17) {
        const { formats } = probeBytes(head.subarray(0, length));
        const isEnough = length >= (format === 'vdi' ? 68 : 8);
        if (isEnough) expect(formats, `${format}, ${length} bytes`).toEqual([format]);
        else expect([format, ''], `${format}, ${length} bytes`).toContain(formats.join());
      }
    }
  });

  test('a disk image beside another one of the same file is seen, and so is a disk in its header', () => {
    const path = join(tempDir(), 'image');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
    const { head } = edgesOf(path);
    const image = Buffer.concat([head, Buffer.alloc(HEAD_LENGTH)]);
    image.set(Buffer.from('CD001'), 32769);
    expect(probeBytes(image)).toMatchObject({ formats: ['qcow2'], embedded: ['iso9660'] });
    image.set(Buffer.from('conectix'), image.length - 512);
    expect(probeBytes(image)).toMatchObject({ formats: ['qcow2', 'vpc'] });
    image.set([0x7f, 0x10, 0xda, 0xbe], 64);
    expect(probeBytes(image)).toMatchObject({ formats: ['qcow2', 'vdi', 'vpc'] });
  });
});

describe('what is no disk', () => {
  const archives: readonly (readonly [kind: string, line: string, tool: string])[] = [
    ['zip', 'zip -q - README.md > OUT', 'zip'],
    ['tar', 'tar -cf OUT README.md', 'tar'],
    ['bzip2', 'bzip2 -c README.md > OUT', 'bzip2'],
    ['bzip2', 'bzip2 -c < /dev/null > OUT', 'bzip2'],
    ['xz', 'xz -c README.md > OUT', 'xz'],
    ['lzma', 'xz --format=lzma -c README.md > OUT', 'xz'],
    ['zstd', 'zstd -qc README.md > OUT', 'zstd'],
    ['lz4', 'lz4 -qc README.md > OUT', 'lz4'],
    ['lz4', 'lz4 -lqc README.md > OUT', 'lz4'],
  ];
  for (const [kind, line, tool] of archives) {
    const isHere = hasTool(tool as Tool);
    test.skipIf(!isHere)(isHere ? line : `${line} (needs ${tool})`, () => {
      const path = join(tempDir(), 'out');
      const root = join(import.meta.dirname, '..');
      run('sh', ['-c', `cd "$1" && ${line.replace('OUT', '"$2"')}`, 'sh', root, path]);
      expect(probeFile(path)).toEqual({ ...nothing, containers: [kind] });
    });
  }

  test('compressed by zlib', () => {
    expect(probeBytes(gzipSync('x'))).toEqual({ ...nothing, containers: ['gzip'] });
    // brotli has no magic
    expect(probeBytes(brotliCompressSync('x'))).toEqual(nothing);
  });

  test('programs, pages, pointers', () => {
    expect(probeFile(process.execPath)).toMatchObject({ contents: [], documents: ['elf'] });
    const documents: readonly (readonly [string, string])[] = [
      ['<!DOCTYPE html><html>', 'html'],
      ['\ufeff\r\n  <HTML lang="en">', 'html'],
      ['<?xml version="1.0"?>', 'xml'],
      ['version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', 'git-lfs pointer'],
      ['%PDF-1.7', 'pdf'],
    ];
    for (const [text, kind] of documents) {
      expect(probeBytes(Buffer.from(text))).toEqual({ ...nothing, documents: [kind] });
    }
    expect(probeFile(import.meta.filename)).toEqual(nothing);
  });
});

/** Rows of INDEX.tsv that have not the signature of what they are, and why. */
const unsigned: ReadonlyMap<string, string> = new Map([
  ['dmg/etcher/raw-image-not-a-dmg.dmg', 'ten bytes of text'],
  ['dmg/etcher/invalid.dmg', 'no trailer'],
  ['gen-bad/qcow2/version-1.qcow2', 'version 1 is qcow'],
  ['gen-bad/qcow/version-2-as-1.qcow', 'version 2 is qcow2'],
  ['gen-bad/vpc/fixed-trailing.vhd.zst', 'rubbish behind the footer'],
  ['gen-bad/vdi/sig.vdi.zst', 'signature damaged'],
  ['gen-other/xmount-dmg/in.dmg', 'a raw disk by the name of dmg'],
  ['gen-other/dmg/zlib-trailing.dmg', 'rubbish behind the trailer'],
  ['gen-partition/mbr-bootflag-7f.img.zst', 'no entry is as it must be'],
  ['gen-partition/mbr-nosig.img.zst', 'no signature'],
  ['generated/src/mix40.raw', 'noise'],
  ['generated/src/tiny513.raw', 'noise'],
  ['generated/src/tiny1.raw', 'noise'],
  ['partition/node-gpt/bootcamp.bin', 'a GPT without the sector before it'],
]);

describeCorpus('images.tar.xz', 'images made elsewhere', () => {
  let images: Unpacked;
  beforeAll(() => {
    images = unpack('images.tar.xz');
  });
  afterAll(() => images[Symbol.dispose]());

  test('each is one thing, and the thing that it is', () => {
    const others = ['gzip', 'xz', 'lz4', 'zstd', 'bzip2', 'lzip', 'lzma-alone', 'format'];
    const rows = readIndex().filter(({ format }) => !others.includes(format));
    const wrong: string[] = [];
    for (const row of rows) {
      const { formats, contents, embedded } = probeFile(unpackedPath(images.folder, row));
      const isDisk = row.format === 'raw' || row.format === 'iso';
      const wanted = isDisk ? '' : row.format === 'luks2' ? 'luks' : row.format;
      const isSeen = formats.join() === wanted && (!isDisk || contents.length > 0);
      if (isSeen === unsigned.has(row.name) || embedded.length > 0) {
        wrong.push(`${row.name}: ${[...formats, ...contents, ...embedded].join(', ')}`);
      }
    }
    expect(rows.length).toBeGreaterThan(400);
    expect(wrong).toEqual([]);
  });
});
