/** The promises of package.json, kept by the tarball: installed into an empty project, and used in every way. */

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as api from '../src/index.ts';
import { noise, tempDir } from './helpers.ts';
import { run } from './native.ts';

const root = join(import.meta.dirname, '..');

interface Manifest {
  readonly version: string;
  readonly type: string;
  readonly engines: { readonly node: string };
  readonly dependencies: Record<string, string>;
  readonly optionalDependencies: Record<string, string>;
  readonly devDependencies: Record<string, string>;
}

function manifest(): Manifest {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
}

test('the public names', () => {
  expect(Object.keys(api).sort()).toEqual([
    'SparsecopyError',
    'check',
    'chunksOf',
    'compare',
    'compareFailureOf',
    'decompress',
    'detectZeros',
    'flatten',
    'info',
    'isSparsecopyError',
    'map',
    'sparseFile',
    'sparsecopy',
    'tally',
    'threadPool',
  ]);
});

test('versions are pinned, native parts are optional', () => {
  const { dependencies, optionalDependencies, devDependencies, type, engines } = manifest();
  for (const version of Object.values({
    ...dependencies,
    ...optionalDependencies,
    ...devDependencies,
  })) {
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  }
  expect(Object.keys(optionalDependencies).sort()).toEqual(['fs-ext']);
  expect([type, engines.node]).toEqual(['module', '>=20.20']);
});

test('the changelog has this version', () => {
  expect(readFileSync(join(root, 'CHANGELOG.md'), 'utf8')).toContain(`## ${manifest().version}`);
});

describe('the tarball in an empty project', () => {
  test.each([[['--ignore-scripts']], [[]]])(
    'installed with %j',
    (flags) => {
      const folder = tempDir();
      run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder, root]);
      const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz')) ?? '';
      const project = join(folder, 'project');
      mkdirSync(project);
      // When npx runs these tests, its variables would tell the inner npx what to run.
      const unset = Object.keys(process.env).flatMap((name) =>
        name.startsWith('npm_') ? ['-u', name] : [],
      );
      const inProject = (program: string, ...args: string[]): string =>
        run('env', [...unset, '-C', project, program, ...args]).toString();
      writeFileSync(
        join(project, 'package.json'),
        '{ "name": "empty", "version": "1.0.0", "private": true }',
      );
      inProject('npm', 'install', '--silent', '--prefer-offline', ...flags, join(folder, tarball));
      // What a user gets: no sources, no tests, no fixtures.
      expect(readdirSync(join(project, 'node_modules', 'sparsecopy')).sort()).toEqual([
        'CHANGELOG.md',
        'LICENSE',
        'README.md',
        'dist',
        'package.json',
      ]);

      const bytes = Buffer.concat([noise(100_000), Buffer.alloc(100_000)]);
      writeFileSync(join(project, 'src.raw'), bytes);
      const use = `sparsecopy('src.raw', 'out.raw').then((report) => console.log(report.virtualSize, report.diskSize));`;
      const expected = /^200000 1003\d\d\n$/;
      writeFileSync(join(project, 'a.mjs'), `import { sparsecopy } from 'sparsecopy';\n${use}\n`);
      writeFileSync(
        join(project, 'b.cjs'),
        `const { sparsecopy } = require('sparsecopy');\n${use}\n`,
      );
      writeFileSync(
        join(project, 'c.mts'),
        `import { sparsecopy, type Report, type Chunk, chunksOf, isSparsecopyError } from 'sparsecopy';
const report: Report = await sparsecopy('src.raw', 'out.raw', { blockSize: 512, signal: new AbortController().signal });
for await (const chunk of chunksOf('src.raw') as AsyncIterable<Chunk>) if (chunk.kind === 'data') chunk.bytes.byteLength;
try { await sparsecopy('none', 'out'); } catch (error) { if (isSparsecopyError(error, 'CORRUPT')) throw error; }
console.log(report.virtualSize, report.diskSize);
`,
      );
      expect(inProject(process.execPath, 'a.mjs')).toMatch(expected);
      expect(inProject(process.execPath, 'b.cjs')).toMatch(expected);
      expect(readFileSync(join(project, 'out.raw')).equals(bytes)).toBe(true);
      const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
      const types = ['--typeRoots', join(root, 'node_modules', '@types'), '--types', 'node'];
      inProject(
        process.execPath,
        tsc,
        '--strict',
        '--module',
        'nodenext',
        '--target',
        'es2022',
        ...types,
        'c.mts',
      );
      expect(inProject(process.execPath, 'c.mjs')).toMatch(expected);
      expect(inProject('npx', '--no-install', 'sparsecopy', '--version')).toBe(
        `sparsecopy ${manifest().version}\n`,
      );
      inProject('npx', '--no-install', 'sparsecopy', '-q', 'src.raw', 'out2.raw');
      expect(readFileSync(join(project, 'out2.raw')).equals(bytes)).toBe(true);
    },
    300_000,
  );
});
