/** The README's examples run as they stand, against the built package. */

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { noise, tempDir } from './helpers.ts';
import { run } from './native.ts';
import { describeWith } from './tools.ts';

const root = join(import.meta.dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const examples = [...readme.matchAll(/(?:^#+ (.*)$[^]*?)?```js\n([^]*?)```/gm)].map(
  (match, number) => ({ title: `example ${number + 1}`, code: match[2] ?? '' }),
);

/** What the examples print, in their order; each runs in a folder with the files it names. */
const expected: readonly RegExp[] = [
  /^4194304\n1048576\n\d+\n$/,
  /^(\d+ of unknown, \d+ of it data\n)+$/,
  /^qcow2 4194304 1048576 undefined\ndata 0 1048576\nzero 1048576 3145728\n$/,
  /^0 0 \[\]\ntrue undefined\n$/,
  /^$/,
  /^overlay\.qcow2: .*"cloud\.qcow2".*\n$/,
  /^4194304 1048576\n$/,
  /^[0-9a-f]{64}\n$/,
  /^$/,
  /^\d+\n$/,
];

describeWith(['qemu-img', 'xz'], 'README', () => {
  test('has the examples that are expected', () => {
    expect(examples).toHaveLength(expected.length);
  });

  test.each(examples.map((example, at) => ({ ...example, output: expected[at] ?? /$^/ })))(
    '$title',
    ({ code, output }) => {
      const folder = tempDir();
      mkdirSync(join(folder, 'node_modules'));
      symlinkSync(root, join(folder, 'node_modules', 'sparsecopy'));
      symlinkSync(
        join(root, 'node_modules', 'stream-chain'),
        join(folder, 'node_modules', 'stream-chain'),
      );
      const raw = Buffer.concat([noise(2 ** 20), Buffer.alloc(3 * 2 ** 20)]);
      const at = (name: string): string => join(folder, name);
      writeFileSync(at('original.raw'), raw);
      run('qemu-img', [
        'convert',
        '-f',
        'raw',
        '-O',
        'qcow2',
        at('original.raw'),
        at('cloud.qcow2'),
      ]);
      run('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-F',
        'qcow2',
        '-b',
        'cloud.qcow2',
        at('overlay.qcow2'),
      ]);
      writeFileSync(at('disk.raw.xz'), run('xz', ['-c', at('original.raw')]));
      writeFileSync(at('example.mjs'), code);
      expect(run('env', ['-C', folder, process.execPath, 'example.mjs']).toString()).toMatch(
        output,
      );
      if (code.includes("'disk.raw'") && !code.includes('overlay.qcow2')) {
        expect(readFileSync(at('disk.raw')).equals(raw)).toBe(true);
      }
    },
  );
});
