import { defineConfig, type Options } from 'tsup';

const config: Options | ((overrides: Options) => Options) = {
  entry: { index: 'src/index.ts', sparsecopy: 'src/cli/sparsecopy.ts' },
  format: ['esm'],
  platform: 'node',
  target: 'node20',
  splitting: true,
  sourcemap: true,
  clean: true,
  dts: { entry: { index: 'src/index.ts' } },
};

export default defineConfig(config);
