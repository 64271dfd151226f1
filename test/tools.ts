/** How a native tool that a test needs and does not find is reported. */

import { describe } from 'vitest';
import { hasTool, packages, type Tool } from './native.ts';

export { run, type Tool } from './native.ts';

/**
 * `describe` for tests that call `tools`. Where one is missing the whole block is reported as skipped, its title
 * naming the package to install; with `SPARSECOPY_DEMAND_TOOLS=1` (as CI sets it) it fails instead.
 */
export function describeWith(tools: readonly Tool[], title: string, body: () => void): void {
  const missing = tools.filter((tool) => !hasTool(tool));
  if (missing.length === 0) {
    describe(title, body);
    return;
  }
  const wanted = `${title} (needs ${missing.map((tool) => `${tool}: apt install ${packages[tool]}`).join(', ')})`;
  if (process.env['SPARSECOPY_DEMAND_TOOLS'] === '1') {
    describe(wanted, (): void => {
      throw new Error(`missing tools: ${missing.join(', ')}`);
    });
  } else {
    describe.skip(wanted, body);
  }
}
