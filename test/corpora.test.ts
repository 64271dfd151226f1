import { createReadStream, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decompress, type CodecName, type CopyOptions, type Limits } from '../src/index.ts';
import {
  describeCorpus,
  readExpectations,
  readIndex,
  unpack,
  unpackedPath,
  type HostileRow,
  type IndexRow,
  type Unpacked,
} from './corpora.ts';
import { digestOfFile, digestSink } from './digest.ts';
import {
  copyToFile,
  disagreements,
  fastTempDir,
  everyWay,
  outcomeOf,
  PIECES,
  tell,
  type Outcome,
} from './ways.ts';

/** So many rows are under way at once. */
const AT_ONCE = 4;

/** Calls `check` for each of `rows`, a few at a time, and gives what it says is wrong. */
async function failures<Row>(
  rows: readonly Row[],
  nameOf: (row: Row) => string,
  check: (row: Row) => Promise<string[]>,
): Promise<string[]> {
  const found: string[] = [];
  const queue = [...rows];
  const worker = async (): Promise<void> => {
    for (let row = queue.shift(); row !== undefined; row = queue.shift()) {
      const name = nameOf(row);
      found.push(...(await check(row)).map((sentence) => `${name}: ${sentence}`));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return found.sort();
}

/** A folder for copies, which must be empty again when it is disposed of. */
function scratch(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(fastTempDir(), 'sparsecopy-copies-'));
  return {
    path,
    [Symbol.dispose]: () => {
      const left = readdirSync(path);
      rmSync(path, { recursive: true, force: true });
      expect(left).toEqual([]);
    },
  };
}

/** What we do instead of what the reference tool does, and why that is right. */
type Ours =
  | { readonly refused: string; readonly because: string }
  | { readonly sha256: string; readonly because: string }
  /** The file as it is. */
  | { readonly itself: true; readonly because: string };

const refused = (code: string, because: string, ...names: string[]): [string, Ours][] =>
  names.map((name) => [name, { refused: code, because }]);

const itself = (because: string, ...names: string[]): [string, Ours][] =>
  names.map((name) => [name, { itself: true, because }]);

/** Rows of INDEX.tsv in which we rightly differ from the reference tool. */
const ours: ReadonlyMap<string, Ours> = new Map([
  ...refused('CORRUPT', 'garbage behind a stream is not ignored', 'gen-codecs/gz/h-garbage.gz'),
  ...refused('LIMIT', 'a window of 512 MiB is beyond the limit', 'gen-codecs/xz/mix2-dict512M.xz'),
  ...refused(
    'CORRUPT',
    'libzstd of today refuses it, that of the reference tool (1.5.4) did not',
    'zstd/golden-decompression-errors/off0.bin.zst',
    'zstd/golden-decompression-errors/truncated_huff_state.zst',
    'zstd/golden-decompression-errors/zeroSeq_extraneous.zst',
  ),
  [
    'zstd/golden-decompression/zeroSeq_2B.zst',
    {
      sha256: '03ba204e50d126e4674c005e04d82e84c21366780af1f43bd54a37816b6ab340',
      because: 'libzstd of today accepts it, that of the reference tool (1.5.4) did not',
    },
  ],
  ...refused(
    'REFERENCE',
    'a backing file offset means a backing file, whatever its name is',
    'gen-bad/qcow2/backing-nul.qcow2',
  ),
  ...refused('CORRUPT', 'a backing file needs a name', 'gen-bad/qcow2/backing-len0.qcow2'),
  ...refused(
    'TRUNCATED',
    'what lies past the end of the file is not taken for zeros',
    'gen-bad/qcow2/l1e-eof.qcow2',
    'gen-bad/qcow2/l2e-eof.qcow2',
    'gen-bad/qcow2/l2e-eof2.qcow2',
    'gen-bad/qcow2/rt_off-eof.qcow2',
    'gen-bad/qcow2/trunc-1cluster.qcow2',
    'gen-bad/qcow2/trunc-512.qcow2',
    'gen-bad/qcow2/trunc-data.qcow2',
    'gen-bad/qcow2/trunc-l2.qcow2',
    'gen-bad/qcow2/trunc-last512.qcow2',
  ),
  ...refused('CORRUPT', 'reserved bits are not ignored', 'gen-bad/qcow2/l1e-reserved.qcow2'),
  ...refused(
    'CORRUPT',
    'the specification demands 0 for the bitmap of a compressed cluster',
    'gen-bad/qcow2/el2-compressed-bitmap.qcow2',
  ),
  ...refused('CORRUPT', 'the image says so itself', 'gen-bad/qcow2/incompat-corrupt.qcow2'),
  [
    'gen-bad/qcow2/size-unaligned.qcow2',
    {
      sha256: '2964f6aab2a96148e32686a5a9ad82fea610b9b363ca5a3928047e7aa36bd781',
      because: 'qemu drops what follows the last whole sector of 1,000,001 bytes',
    },
  ],
  [
    'generated/qcow2-snap/resized.qcow2.zst@small',
    {
      sha256: '0c4e51ab1e4826162ecb3568af33c207dd101b35c3cb69f38a915e6c75af85a6',
      because: 'qemu-img gives it the size of the disk as it is now, not that of the snapshot',
    },
  ],
  ...refused(
    'REFERENCE',
    'a backing file outside the folder is not opened',
    'generated/qcow2-chain/abs-etc.qcow2',
  ),
  ...refused(
    'REFERENCE',
    'its backing file, sub/up.qcow2, is not in the archive',
    'generated/qcow2-chain/down.qcow2',
  ),
  ...refused(
    'UNSUPPORTED',
    'backing files are raw or qcow2 as yet',
    'generated/qcow2-chain/d1.qcow2',
    'generated/qcow2-chain/d2.qcow2',
    'generated/qcow2-chain/d3.qcow2',
    'generated/qcow2-chain/over-hds.qcow2',
    'generated/qcow2-chain/over-qcow.qcow2',
    'generated/qcow2-chain/over-vdi.qcow2',
    'generated/qcow2-chain/over-vhdx.qcow2',
    'generated/qcow2-chain/over-vmdk.qcow2',
  ),
  ...refused(
    'UNSUPPORTED',
    'OpenSSL does not have the cipher serpent',
    'generated/qcow2-enc/luks-serpent-xts.qcow2',
  ),
  ...refused('LIMIT', '64 TiB are beyond the limit', 'generated/qcow2-size/64T.qcow2.zst'),
  ...itself(
    'qemu rounds the size of raw files up to whole sectors',
    'dmg/etcher/raw-image-not-a-dmg.dmg',
    'gen-iso/trunc.iso',
    'generated/src/tiny1.raw',
    'generated/src/tiny513.raw',
  ),
]);

/** Rows whose magic is broken: not recognised, so raw by default; untrusted, they are unknown. */
const unrecognised: ReadonlySet<string> = new Set([
  'gen-codecs/gz/h-lowercase-z.gz',
  'gen-codecs/xz/h-leading-zero.xz',
  'gen-codecs/zst/h-trunc-magic.zst',
  'xz-testfiles/bad-0-header_magic.xz',
]);

/** A zstd stream in a gzip stream; its row speaks of the outer one. */
const nested = 'gen-codecs/nested/d.img.zst.gz';

const CODECS: readonly string[] = ['gzip', 'xz', 'lz4', 'zstd'] satisfies CodecName[];

/** Largest file that is read in pieces of many sizes too. */
const SMALL = 2 ** 20;

/** Largest disk of which all bytes are hashed, zeros included. */
const WHOLE = 20 * 2 ** 20;

describeCorpus('images.tar.xz', 'images and streams made elsewhere', () => {
  let images: Unpacked;
  let rows: IndexRow[] = [];
  beforeAll(() => {
    images = unpack('images.tar.xz');
    rows = readIndex();
  });
  afterAll(() => images[Symbol.dispose]());

  /** What is wrong with `outcome` for `row`, whose image, without a compression around it, lies at `path`. */
  async function judge(row: IndexRow, path: string, outcome: Outcome): Promise<string[]> {
    const exception = ours.get(row.name);
    const found = `found ${tell(outcome, true)}`;
    if (outcome.kind === 'wrong') return [outcome.message];
    if (exception !== undefined && 'refused' in exception) {
      const isSo = outcome.kind === 'refused' && outcome.code === exception.refused;
      return isSo ? [] : [`expected ${exception.refused} as ${exception.because}, ${found}`];
    }
    if (!row.isOk && exception === undefined)
      return outcome.kind === 'refused' ? [] : [`expected a refusal, ${found}`];
    if (outcome.kind === 'refused') return [`expected content, ${found}`];
    if (outcome.sha256 === undefined) {
      const isSo = outcome.blocks === row.blocks && outcome.size === row.virtualSize;
      return isSo ? [] : [`expected blocks ${row.blocks}, ${found}`];
    }
    let wanted: string | undefined = row.sha256;
    if (exception !== undefined) {
      wanted = 'sha256' in exception ? exception.sha256 : (await digestOfFile(path, true)).sha256;
      if (wanted === row.sha256) return ['is no exception'];
    }
    return outcome.sha256 === wanted ? [] : [`expected sha256 ${wanted}, found ${outcome.sha256}`];
  }

  /** Options for a row, whose references lie in `folder`. */
  function optionsFor(row: IndexRow, folder: string, isPiped: boolean): CopyOptions {
    return {
      ...(unrecognised.has(row.name) ? { policy: 'untrusted' } : {}),
      allowReferences: folder,
      passphrase: row.key,
      snapshot: row.snapshot,
      // What comes from a pipe has no folder in which a relative name starts.
      resolveReference: (name): string | undefined => {
        const path = join(folder, name);
        return isPiped && !isAbsolute(name) && existsSync(path) ? path : undefined;
      },
    };
  }

  const checkImages = async (filter: (row: IndexRow) => boolean): Promise<void> => {
    using folder = scratch();
    const chosen = rows.filter(filter);
    expect(chosen.length).toBeGreaterThan(0);
    const found = await failures(
      chosen,
      (row) => row.name,
      async (row) => {
        const path = unpackedPath(images.folder, row);
        const beside = dirname(join(images.folder, row.path));
        const to = { folder: folder.path, options: optionsFor(row, beside, false) };
        const once = optionsFor(row, beside, true);
        const { size } = statSync(path);
        const pieces = size > SMALL ? [] : PIECES;
        const isWhole = (row.virtualSize ?? 0) <= WHOLE;
        const outcomes = await everyWay(path, { ...to, whole: isWhole }, { options: once, pieces });
        if (row.packed !== 'none') {
          const packed = join(images.folder, row.path);
          outcomes.set('compressed', await copyToFile(packed, { ...to, options: once }));
        }
        const first = outcomes.get('seeking');
        return [
          ...(first === undefined ? [] : await judge(row, path, first)),
          ...disagreements(outcomes),
        ];
      },
    );
    expect(found).toEqual([]);
  };

  test('qcow2 images that are damaged, or odd', () =>
    checkImages(({ format, path }) => format === 'qcow2' && path.startsWith('gen-bad/')));
  test('qcow2 images', () =>
    checkImages(({ format, path }) => format === 'qcow2' && !path.startsWith('gen-bad/')));
  test('raw images', () => checkImages(({ format }) => format === 'raw' || format === 'iso'));

  test.each(CODECS)('%s streams', async (codec) => {
    await checkImages(({ format, name }) => format === codec && name !== nested);
  });

  test('a stream within a stream is peeled twice', async () => {
    using folder = scratch();
    const path = join(images.folder, nested);
    const to = { folder: folder.path, whole: true };
    const outcomes = await everyWay(path, to, { pieces: PIECES });
    const inner = rows.find(({ name }) => name === 'gen-codecs/zst/mix2.zst');
    expect(disagreements(outcomes)).toEqual([]);
    expect(outcomes.get('seeking')).toMatchObject({ kind: 'ok', sha256: inner?.sha256 });
  });

  test.each(CODECS)('%s streams, by the stage alone', async (codec) => {
    const found = await failures(
      rows.filter(({ format }) => format === codec),
      (row) => row.name,
      async (row) => {
        const path = join(images.folder, row.path);
        const sink = digestSink(true);
        try {
          const stage = decompress({ codec: codec as CodecName });
          await pipeline(createReadStream(path), stage, sink);
        } catch (error) {
          return judge(row, path, outcomeOf(error));
        }
        if (sink.digest === undefined) return ['the stream was not ended'];
        return judge(row, path, { kind: 'ok', diskSize: 0, ...sink.digest });
      },
    );
    expect(found).toEqual([]);
  });
});

/** What the reasons of security.md are among our codes. */
const codeOf: Readonly<Record<string, string>> = {
  ERR_TRUNCATED: 'TRUNCATED',
  ERR_CORRUPT_HEADER: 'CORRUPT',
  ERR_CORRUPT_TABLE: 'CORRUPT',
  ERR_CORRUPT_DATA: 'CORRUPT',
  ERR_ALIASED: 'CORRUPT',
  ERR_TRAILING_DATA: 'CORRUPT',
  ERR_FEATURE_UNSUPPORTED: 'UNSUPPORTED',
  ERR_ENCRYPTED: 'UNSUPPORTED',
  ERR_FORMAT_UNSUPPORTED: 'UNSUPPORTED',
  ERR_LIMIT_VIRTUAL_SIZE: 'LIMIT',
  ERR_LIMIT_MEMORY: 'LIMIT',
  ERR_LIMIT_RATIO: 'LIMIT',
  ERR_LIMIT_NESTING: 'LIMIT',
  ERR_EXTERNAL_REFERENCE: 'REFERENCE',
  ERR_FORMAT_AMBIGUOUS: 'FORMAT',
  ERR_FORMAT_UNKNOWN: 'FORMAT',
  ERR_EMPTY_IMAGE: 'FORMAT',
};

/** Rows of expectations.tsv that need something else, each with the reason. */
const special: ReadonlyMap<string, Special> = new Map<string, Special>([
  [
    'q15-size-unaligned.qcow2',
    {
      sha256: '749c591f7f8f79d5cd9edf360a35bd1233dbe0ea0f404f8efc5e9f132f104048',
      because: 'qemu drops the 100 bytes that follow the last whole sector',
    },
  ],
  [
    'q91-alias-bomb-8T.qcow2',
    { limits: { virtualSize: 16 * 2 ** 40 }, because: '8 TiB alone are beyond the limit' },
  ],
  ...['z01-bomb-256M.gz', 'z35-bomb-256M.xz'].map((name): [string, Special] => [
    name,
    { limits: { ratioFloor: 2 ** 22 }, because: 'there is nothing to learn from the first 64 MiB' },
  ]),
  ...['z14-empty-members.gz', 'z34-empty-streams.xz', 'z57-empty-frames.zst'].map(
    (name): [string, Special] => [
      name,
      { limits: { emptyMembers: 65_536 }, because: 'so many empty members are beyond the limit' },
    ],
  ),
]);

interface Special {
  readonly because: string;
  /** What comes out, instead of what the reference tool makes of it. */
  readonly sha256?: string;
  /** What must be allowed for the row's reason to show. */
  readonly limits?: Partial<Limits>;
}

describeCorpus('hostile.tar.xz', 'hostile images and streams, untrusted', () => {
  let hostile: Unpacked;
  let rows: HostileRow[] = [];
  beforeAll(() => {
    hostile = unpack('hostile.tar.xz');
    rows = readExpectations(hostile.folder);
  });
  afterAll(() => hostile[Symbol.dispose]());

  test.each([
    ['qcow2', /^q.*\.qcow2$/],
    ['raw, and what is taken for it', /^p.*\.(img|raw)$/],
    ['gzip', /^z.*\.gz$/],
    ['xz', /^z.*\.xz$/],
    ['lz4', /^z.*\.lz4$/],
    ['zstd', /^z.*\.zst$/],
  ])('%s', async (_, files) => {
    using folder = scratch();
    const chosen = rows.filter(({ file }) => files.test(file));
    expect(chosen.length).toBeGreaterThan(0);
    const found = await failures(
      chosen,
      (row) => row.file,
      async (row) => {
        const path = join(hostile.folder, row.file);
        const { declared } = row;
        const { sha256 = row.sha256, limits } = special.get(row.file) ?? {};
        const options: CopyOptions = {
          policy: 'untrusted',
          ...(limits === undefined ? {} : { limits }),
          // as a service would say: what is inside a compressed file is a raw disk
          ...(declared === 'auto' ? {} : { format: declared === 'qcow2' ? 'qcow2' : 'raw' }),
        };
        const to = { folder: folder.path, options, whole: true };
        const outcomes = await everyWay(path, to, { pieces: PIECES });
        const first = outcomes.get('seeking');
        const wrong = disagreements(outcomes);
        if (first?.kind === 'wrong') wrong.push(first.message);
        else if (first?.kind === 'ok') {
          if (!row.isAccepted) wrong.push(`expected ${row.reason}, found content`);
          else if (first.sha256 !== sha256) wrong.push(`sha256 ${first.sha256}, not ${sha256}`);
        } else if (first?.kind === 'refused') {
          const wanted = row.isAccepted ? 'content' : codeOf[row.reason];
          if (first.code !== wanted) {
            wrong.push(`expected ${wanted} (${row.reason}), found ${tell(first, true)}`);
          }
        }
        return wrong;
      },
    );
    expect(found).toEqual([]);
  });

  test('by default, what multiplies its clusters is bounded by the ratio', async () => {
    using folder = scratch();
    const limits = { ratio: 20, ratioFloor: 2 ** 20 };
    const found = await failures(
      ['q90-alias-bomb-1G.qcow2', 'q93-comp-alias-4G.qcow2'],
      (file) => file,
      async (file) => {
        const to = { folder: folder.path, options: { limits } };
        const outcomes = await everyWay(join(hostile.folder, file), to, { pieces: [] });
        return [...outcomes]
          .filter(([, outcome]) => !(outcome.kind === 'refused' && outcome.code === 'LIMIT'))
          .map(([way, outcome]) => `${way}: expected LIMIT, found ${tell(outcome, true)}`);
      },
    );
    expect(found).toEqual([]);
  });
});
