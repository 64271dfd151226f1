/** The public names, one by one. */

export { sparsecopy } from './copy.ts';
export type { CopyOptions, Progress, Report } from './copy.ts';
export { info, map } from './inspect.ts';
export type { ImageInfo } from './inspect.ts';
export { check } from './check.ts';
export type { CheckOptions, CheckReport } from './check.ts';
export { compare, compareFailureOf } from './compare.ts';
export type {
  ComparedInput,
  CompareFailure,
  CompareOptions,
  Comparison,
  Difference,
} from './compare.ts';
export type { OpenOptions } from './open.ts';
export type { Input } from './source/input.ts';

export { threadPool } from './threads.ts';
export type { ThreadPool } from './threads.ts';

export { chunksOf, decompress } from './stages.ts';
export type { DecompressOptions } from './stages.ts';
export { detectZeros } from './chunk/zeros.ts';
export type { DetectZerosOptions } from './chunk/zeros.ts';
export { tally } from './chunk/tally.ts';
export type { Tally, TallyOptions, Totals } from './chunk/tally.ts';
export { flatten } from './chunk/flatten.ts';
export { sparseFile } from './sink/sparse-file.ts';
export type { SparseFileOptions } from './sink/sparse-file.ts';
export type { Sink } from './sink/sink.ts';

export { SparsecopyError, isSparsecopyError } from './errors.ts';
export type { ErrorCode, ErrorDetails } from './errors.ts';
export type { Limits } from './limits.ts';
export type {
  ByteStream,
  Chunk,
  CodecName,
  DataChunk,
  Extent,
  FormatName,
  ImageDetails,
  Policy,
  SnapshotDetails,
  Source,
  ZeroChunk,
} from './types.ts';
