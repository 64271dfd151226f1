/**
 * Compiles assembly/*.ts (AssemblyScript) to src/codec/wasm/*.ts, each of which holds one WebAssembly module as text: no file to be
 * found at run time, no build before the tests.
 *
 *     npm run assembly [-- --check] [NAME...]
 *
 * With --check nothing is written: fails when a module is not what its source compiles to.
 */

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { Buffer } from 'node:buffer';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import asc from 'assemblyscript/asc';

const root = join(import.meta.dirname, '..');
const { values, positionals } = parseArgs({
  options: { check: { type: 'boolean', default: false } },
  allowPositionals: true,
});

// What starts with an underscore is a part of others.
const names = readdirSync(join(root, 'assembly'))
  .filter((name) => name.endsWith('.ts') && !name.startsWith('_'))
  .map((name) => name.slice(0, -3));

for (const name of positionals.length > 0 ? positionals : names) {
  const binary = await compile(name);
  const lines =
    Buffer.from(binary)
      .toString('base64')
      .match(/.{1,120}/g) ?? [];
  const text = [
    `/** The WebAssembly module of assembly/${name}.ts, in base64; made by \`npm run assembly\`. */`,
    'export const wasm: string =',
    ...lines.map((line, at) => `  '${line}'${at === lines.length - 1 ? ';' : ' +'}`),
    '',
  ].join('\n');
  const file = join(root, 'src/codec/wasm', `${name}.ts`);
  if (values.check) {
    if (readOr(file) !== text) {
      console.error(`${file} is not what assembly/${name}.ts compiles to: npm run assembly`);
      process.exitCode = 1;
    }
    continue;
  }
  mkdirSync(join(root, 'src/codec/wasm'), { recursive: true });
  writeFileSync(file, text);
  console.log(`${name}: ${binary.length} bytes`);
}

/** No runtime, no garbage: the modules manage their memory by themselves. */
async function compile(name) {
  const options = ['-O3', '--converge', '--noAssert', '--runtime', 'stub', '--use', 'abort='];
  const features = ['--enable', 'simd', '--enable', 'bulk-memory'];
  let binary;
  const { error, stderr } = await asc.main(
    [`assembly/${name}.ts`, '--baseDir', root, '--outFile', 'out.wasm', ...options, ...features],
    {
      readFile: (file, folder) => readOr(join(folder, file)) ?? null,
      writeFile: (file, contents) => {
        if (file === 'out.wasm') binary = contents;
      },
    },
  );
  if (error !== null || binary === undefined) {
    console.error(stderr.toString());
    throw error ?? new Error(`assembly/${name}.ts does not compile`);
  }
  return binary;
}

function readOr(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
