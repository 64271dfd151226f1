/** The public names, one by one. */

export { sparsecopy } from './copy.ts';
export type { CopyOptions, Progress, Report } from './copy.ts';
