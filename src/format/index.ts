/** Which disk image formats there are, and how one is told from its first bytes. */

import type { Format, Probe } from '../types.ts';
import { qcow2 } from './qcow2/index.ts';
import { raw } from './raw.ts';

/** In the order they are tried; `raw`, which matches anything, is last. */
export const formats: readonly Format[] = [qcow2, raw];

/** The first format that `probe` matches. A magic decides: what has it and is broken is still of that format. */
export function detectFormat(probe: Probe): Format {
  return formats.find((format) => format.matches(probe)) ?? raw;
}
