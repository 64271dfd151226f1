/** The corpora of images and streams made elsewhere (`../shared/corpora`): where they are, what is said of each file. */

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { describe } from 'vitest';
import { run } from './native.ts';

const folder = join(import.meta.dirname, '..', '..', 'shared', 'corpora');

/** An archive of the corpora, unpacked into a folder that goes away on disposal. */
export interface Unpacked extends Disposable {
  readonly folder: string;
}

export type Archive = 'images.tar.xz' | 'hostile.tar.xz';

/** True when the corpora lie where they are expected: they are not part of the project. */
export function hasCorpus(archive: Archive): boolean {
  return existsSync(join(folder, archive));
}

/** `describe` for tests that need `archive`; without it the block is reported as skipped, and says why. */
export function describeCorpus(archive: Archive, title: string, body: () => void): void {
  if (hasCorpus(archive)) describe(title, body);
  else describe.skip(`${title} (needs ../shared/corpora/${archive}, which is not there)`, body);
}

export function unpack(archive: Archive): Unpacked {
  const target = mkdtempSync(join(tmpdir(), 'sparsecopy-corpus-'));
  run('tar', ['-xJf', join(folder, archive), '-C', target]);
  return {
    folder: target,
    [Symbol.dispose]: () => rmSync(target, { recursive: true, force: true }),
  };
}

/** A table of tab-separated values with a head line; quoted values as in CSV. */
function parseTable(text: string): Record<string, string>[] {
  const [head = '', ...lines] = text.split('\n').filter((line) => line !== '');
  const names = head.split('\t');
  const unquote = (value: string): string =>
    /^".*"$/s.test(value) ? value.slice(1, -1).replaceAll('""', '"') : value;
  return lines.map((line) => {
    const values = line.split('\t').map(unquote);
    return Object.fromEntries(names.map((name, index) => [name, values[index] ?? '']));
  });
}

/** A row of `INDEX.tsv`. */
export interface IndexRow {
  /** `corpus/relative_path`, and the snapshot that is read if the row is about one. */
  readonly name: string;
  readonly path: string;
  readonly format: string;
  readonly isOk: boolean;
  /** The reference reads a damaged image, and gives zeros or garbage for what is not there. */
  readonly isLenient: boolean;
  /** Of the decoded disk; empty where the reference did not say. */
  readonly sha256: string;
  /** `undefined` where the reference did not say. */
  readonly virtualSize: number | undefined;
  /** The compression around the image: the row speaks of what is inside. */
  readonly packed: 'none' | 'zst' | 'xz';
  readonly blocks: string;
  readonly key: string | undefined;
  readonly snapshot: string | undefined;
}

interface OpenOptionsColumn {
  readonly key?: string;
  readonly snapshot?: string;
}

export function readIndex(): IndexRow[] {
  return parseTable(readFileSync(join(folder, 'INDEX.tsv'), 'utf8')).map((row) => {
    const column = (name: string): string => row[name] ?? '';
    const options = JSON.parse(column('open_options') || '{}') as OpenOptionsColumn;
    // qemu-img's `snapshot.name=NAME` or `snapshot.id=ID`
    const snapshot = options.snapshot?.replace(/^snapshot\.(name|id)=/, '');
    const path = `${column('corpus')}/${column('relative_path')}`;
    const verdict = column('oracle_verdict');
    return {
      name: snapshot === undefined ? path : `${path}@${snapshot}`,
      path,
      format: column('format'),
      isOk: verdict.startsWith('ok'),
      isLenient: verdict.startsWith('ok('),
      sha256: column('sha256_decoded_raw'),
      virtualSize: column('virtual_size') === '' ? undefined : Number(column('virtual_size')),
      packed: column('packed') as IndexRow['packed'],
      blocks: column('nonzero_64k_blocks:digest16'),
      key: options.key,
      snapshot,
    };
  });
}

/** The file of `row` in `root` without the compression around it, beside itself, so that what it names is found. */
export function unpackedPath(root: string, row: IndexRow): string {
  const path = join(root, row.path);
  if (row.packed === 'none') return path;
  const target = join(dirname(path), 'unpacked', basename(path).replace(/\.(zst|xz)$/, ''));
  if (!existsSync(target)) {
    mkdirSync(dirname(target), { recursive: true });
    if (row.packed === 'zst') run('zstd', ['-dqf', '--sparse', path, '-o', target]);
    else run('sh', ['-c', 'exec xz -dc "$1" > "$2"', 'sh', path, target]);
  }
  return target;
}

/** A row of `expectations.tsv`. */
export interface HostileRow {
  readonly file: string;
  readonly description: string;
  readonly isAccepted: boolean;
  /** What a service would say it is: `qcow2`, `raw`, `auto`, or the ending of a compressed file. */
  readonly declared: string;
  /** A reason of security.md, or `-`. */
  readonly reason: string;
  /** Of what the reference tool makes of it. */
  readonly sha256: string;
}

export function readExpectations(root: string): HostileRow[] {
  return parseTable(readFileSync(join(root, 'expectations.tsv'), 'utf8')).map((row) => {
    const column = (name: string): string => row[name] ?? '';
    return {
      file: column('file'),
      description: column('description'),
      isAccepted: column('expected') === 'accept',
      declared: column('declared_format'),
      reason: column('error_code'),
      sha256: column('reference_tool_output_sha256'),
    };
  });
}
