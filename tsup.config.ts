import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    sparsecopy: 'src/cli/sparsecopy.ts',
    thread: 'src/thread.ts',
  },
  format: ['esm'],
  platform: 'node',
  target: 'node20',
  // Optional and native: never bundled, looked for when they are needed.
  external: [/^fs-ext(\/|$)/],
  splitting: true,
  sourcemap: true,
  clean: true,
  dts: { entry: { index: 'src/index.ts' } },
});
