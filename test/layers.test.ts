/** Imports go down only, and every source file has its place in ARCHITECTURE.md. */

import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const src = join(root, 'src');
const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.ts'),
);

/** From the bottom up; a part may import from parts before it, and from itself. */
const parts: readonly (readonly string[])[] = [
  ['types', 'errors', 'limits', 'bytes', 'stat', 'threads'],
  ['source', 'codec', 'chunk', 'sink'],
  // What does not fit into memory: a temporary file is a source and is written like a sink.
  ['spool'],
  ['parking'],
  // A format may use a codec's block function: clusters are compressed, too.
  ['format'],
  ['policy', 'references', 'order'],
  ['peel'],
  ['context'],
  ['open'],
  ['jobs'],
  ['helpers'],
  ['move'],
  ['copy', 'inspect', 'stages', 'check', 'compare'],
  ['cli', 'index', 'thread'],
];

function partOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] ?? '') : file.replace('.ts', '');
}

function rankOf(part: string): number {
  return parts.findIndex((row) => row.includes(part));
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(src, file), 'utf8');
  return [...text.matchAll(/(?:from|import\() ?'(\.[^']+)'/g)].map((match) =>
    relative(src, resolve(src, dirname(file), match[1] ?? '')),
  );
}

test('every part has its rank', () => {
  for (const file of files) expect(rankOf(partOf(file)), file).toBeGreaterThanOrEqual(0);
});

test.each(files)('%s imports from below only', (file) => {
  const part = partOf(file);
  for (const target of importsOf(file)) {
    const other = partOf(target);
    if (other === part) continue;
    // The files at the bottom know each other (stat names errors, types name limits).
    const isBottom = rankOf(part) === 0 && rankOf(other) === 0;
    expect(isBottom || rankOf(other) < rankOf(part), `${file} imports ${target}`).toBe(true);
  }
});

test('ARCHITECTURE.md names every source file', () => {
  const text = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8');
  const missing = files.filter((file) => !text.includes(file.replace(/^.*\//, '')));
  expect(missing).toEqual([]);
});
