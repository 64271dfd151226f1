#!/usr/bin/env node
/** `npm start`: converts an image and shows the report and the map. `npm start -- SOURCE DEST` does it with one's own. */

import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const command = join(root, 'dist', 'sparsecopy.js');
const [
  source = join(root, 'fixtures', 'demo.qcow2'),
  destination = join(tmpdir(), 'sparsecopy-demo.raw'),
  ...more
] = process.argv.slice(2);
if (more.length > 0 || process.argv.length === 3) {
  console.error('npm start -- SOURCE DEST');
  process.exit(1);
}

for (const args of [
  ['info', source],
  ['--progress', '--json', source, destination],
  ['map', destination],
]) {
  console.log(`\n$ sparsecopy ${args.join(' ')}`);
  const { status } = spawnSync(process.execPath, [command, ...args], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}
