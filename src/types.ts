/** The shapes that travel between the stages: sources, byte streams, extents, chunks, codecs, formats. */

import type { Limits } from './limits.ts';
import type { JobName, Threads } from './threads.ts';

/**
 * Random access to the bytes of one thing: a file, a device, a buffer, or an opened disk image.
 * All numbers are bytes.
 */
export interface Source extends AsyncDisposable {
  /** For messages only; never opened or parsed. */
  readonly name: string;
  /** Total size in bytes. */
  readonly size: number;
  /**
   * Fills all of `into` with the bytes from `offset` on. There are no short reads.
   * @throws SparsecopyError `TRUNCATED` when the source ends before `into` is full; a system error as it came.
   */
  read(into: Uint8Array, offset: number): Promise<void>;
  /**
   * What lies in `start` (default 0) to `end` (exclusive, default `size`): ascending, gapless, clipped to
   * the range, never empty, neighbours differ in kind. A source that knows nothing yields one data extent.
   */
  extents(start?: number, end?: number): AsyncIterable<Extent>;
  /** Where the bytes lie, if all of them lie in one open regular file, as they are or compressed: they can be moved without being read here. */
  readonly stored?: Stored | undefined;
}

/** Bytes that lie in an open regular file. */
export interface Stored {
  /** The descriptor, open for reading as long as its Source is. */
  readonly fd: number;
  /** The Source is the file: each byte lies at its own offset, holes included. */
  readonly isWhole: boolean;
  /** What threads must know of it to decode what is compressed, when anything is: the format's business. */
  readonly compression?: object | undefined;
  /** As `extents` of the Source, from 0 to its size, some at a time; data extents tell where they lie, and neighbours may be of one kind. */
  extents(): AsyncIterable<readonly StoredExtent[]>;
}

export type StoredExtent =
  | (Extent & { readonly kind: 'zero' })
  | (Extent & {
      readonly kind: 'data';
      readonly hostOffset: number;
      /** How many bytes are there, where they are a compressed cluster. */
      readonly hostLength?: number;
    });

/** A range of bytes. A zero extent is a fact about content (all bytes are zero), not an order to skip. */
export interface Extent {
  readonly kind: 'data' | 'zero';
  /** From the start of the disk, in bytes. */
  readonly offset: number;
  /** In bytes, never 0. */
  readonly length: number;
}

/** Bytes once and in order; any Node `Readable` of buffers is one. */
export type ByteStream = AsyncIterable<Uint8Array>;

/** A chunk of zeros: no bytes were made for it. */
export interface ZeroChunk extends Extent {
  readonly kind: 'zero';
}

/** A chunk of bytes; `bytes.length` equals `length`. */
export interface DataChunk extends Extent {
  readonly kind: 'data';
  readonly bytes: Uint8Array;
  /**
   * Present when `bytes` lies in a buffer that can be used again: a stage that has finished with the bytes
   * calls it once. Not calling it is safe (the buffer is garbage-collected). Bytes must not be used after it.
   */
  readonly release?: () => void;
}

/** The only thing that flows from a disk to a sink. */
export type Chunk = ZeroChunk | DataChunk;

/**
 * What a codec puts out: bytes (owned by the receiver from then on, who may call `release` once when it needs them no more, as with
 * a chunk) or a number of zero bytes that nobody made.
 */
export type Run =
  | { readonly kind: 'data'; readonly bytes: Uint8Array; readonly release?: () => void }
  | { readonly kind: 'zero'; readonly length: number };

/** What a codec is told besides the bytes. */
export interface CodecContext {
  /** Name of the input, for messages. */
  readonly name: string;
  readonly limits: Limits;
  /** Refuse what has no checks of its own, and what nobody makes any more. */
  readonly untrusted?: boolean;
  /** Who may help. */
  readonly threads?: Threads | undefined;
  /** The bytes of a run are needed only until the next one is asked for: they may lie in the decoder's memory. */
  readonly lent?: boolean;
}

/** A compression: forward only, it cannot seek. */
export interface Codec {
  readonly name: CodecName;
  /** True when `head` (the first bytes of the input, possibly fewer than wanted) has the codec's magic. */
  matches(head: Uint8Array): boolean;
  /**
   * True when a stream that starts with `head` has parts that can be decoded each by itself, which `decode` then gives to the threads
   * of its context.
   */
  hasParts?(head: Uint8Array): boolean;
  /**
   * Decodes all members, frames or streams of `bytes` up to their end.
   * @throws SparsecopyError `TRUNCATED` (input ends early, or is empty), `CORRUPT` (checksum, size, structure,
   * trailing garbage), `UNSUPPORTED` (a feature that is not implemented), `LIMIT`.
   */
  decode(bytes: ByteStream, context: CodecContext): AsyncIterable<Run>;
}

export type CodecName = 'gzip' | 'xz' | 'lz4' | 'zstd';

/** qemu's names. */
export type FormatName = 'raw' | 'qcow2';

/** The bytes that tell formats apart. */
export interface Probe {
  /** The first bytes of the image: `limits.probeHead` of them, or all when the image is shorter. */
  readonly head: Uint8Array;
  /** Size of the image file in bytes, when known. */
  readonly size: number | undefined;
}

/** What a format's headers and tables say of an image. Nothing it names has been opened. */
export interface ImageDetails {
  readonly format: FormatName;
  /** Size of the disk with its zeros, in bytes. */
  readonly virtualSize: number;
  /** Bytes of the disk that the format stores as data (a compressed cluster counts whole); absent when not known. */
  readonly allocatedSize?: number;
  /** Version of the format, as its header has it. */
  readonly version?: number;
  /** In bytes. */
  readonly clusterSize?: number;
  readonly compressionType?: 'zlib' | 'zstd';
  /** Name of the backing file as stored, not resolved, not opened. */
  readonly backingFile?: string;
  readonly backingFormat?: string;
  /** Name of the external data file as stored, not resolved, not opened. */
  readonly dataFile?: string;
  readonly encryption?: string;
  /** Count of internal snapshots. */
  readonly snapshotCount?: number;
  /** The internal snapshots, in the order of the image's table; absent where that has not been read. */
  readonly snapshots?: readonly SnapshotDetails[];
  /** Feature bits that are set, by the specification's names. */
  readonly features?: readonly string[];
}

/** What an image says of one of its internal snapshots. */
export interface SnapshotDetails {
  readonly id: string;
  readonly name: string;
  /** Size of the disk when it was taken, in bytes. */
  readonly virtualSize: number;
  /** When it was taken, in seconds since 1970. */
  readonly date: number;
  /** Size of the saved state of the virtual machine, in bytes; 0 where there is none. */
  readonly vmStateSize: number;
}

/** An opened image: its content as a Source, and what its headers say. */
export interface Disk extends Source {
  readonly details: ImageDetails;
}

/** An image opened from something that passes once. Dispose of it when done. */
export interface PassingDisk extends AsyncDisposable {
  readonly details: ImageDetails;
  /** Size of the disk in bytes. */
  readonly size: number;
  /**
   * The disk: every byte of it in exactly one chunk, in the order in which the image has them, not that of the disk.
   * Once only. What takes `bypass` does not come, and is there when the last chunk has.
   */
  chunks(pool?: ChunkPool, bypass?: Bypass): AsyncIterable<Chunk>;
  /** How much had to be kept until its place was known, in bytes. */
  readonly parked: Parked;
}

/** What threads that write to the destination did, in bytes. */
export interface Moved {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** In blocks that are not all zero. */
  readonly diskSize: number;
}

/** A way past the stages: threads that write to the destination what they decode. */
export interface Bypass {
  /** What counts as a block, in bytes. */
  readonly blockSize: number;
  /** Has a thread do `job` with `message` and with the target of `Target` in sink/mover-job.ts, which writes these ranges of the disk. */
  move<Answer extends Moved>(
    job: JobName,
    message: object,
    ranges: readonly { readonly offset: number; readonly length: number }[],
  ): Promise<Answer>;
}

/** What was kept for later because its place was not known yet, in bytes. */
export interface Parked {
  /** The most that was kept at a time, in memory and in the temporary file together. */
  readonly peak: number;
  /** What went to a temporary file, in all. */
  readonly spooled: number;
}

/** Buffers that are used again (`chunk/pool.ts`). */
export interface ChunkPool {
  /** In bytes. */
  readonly bufferSize: number;
  take(): Buffer;
  give(buffer: Buffer): void;
}

/** Another file that an image names. */
export interface Reference {
  readonly kind: 'backing file' | 'data file';
  /** As the image has it. */
  readonly name: string;
  /** The format that the image says it has; `undefined` when it does not say. A data file is always raw. */
  readonly format: string | undefined;
}

/** How much an input is trusted (security.md: the two profiles). */
export type Policy = 'default' | 'untrusted';

/** What a format is told besides the file. */
export interface OpenContext {
  readonly limits: Limits;
  /** Who may help. */
  readonly threads?: Threads | undefined;
  /** Refuse what no writer makes, though it could be read: two owners of one cluster (security.md T15). */
  readonly untrusted?: boolean;
  /** Read an image that is marked as corrupt. */
  readonly allowCorrupt?: boolean;
  /** Name or id of the internal snapshot to read instead of the disk as it is now. */
  readonly snapshot?: string | undefined;
  /** For an encrypted image. */
  readonly passphrase?: Uint8Array | undefined;
  /** The caller has named a backing file, which takes the place of the one in the image, or of none. */
  readonly hasOwnBacking?: boolean;
  /**
   * Opens what the image names; whoever gets the Source disposes of it. Absent: references are refused.
   * @throws SparsecopyError `REFERENCE` when it is not allowed or there is no such thing; what opening throws.
   */
  openReference?(reference: Reference): Promise<Source>;
}

/** What a format is told that reads forward only. */
export interface PassContext extends OpenContext {
  /** Name of the input, for messages. */
  readonly name: string;
  /** Folder for a temporary file; default the system's. */
  readonly tempDir?: string | undefined;
  /** Ends the work: `chunks` throws its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** A disk image format that needs random access. */
export interface Format {
  readonly name: FormatName;
  matches(probe: Probe): boolean;
  /**
   * Reads headers and tables only. Tells of what `open` would refuse as long as it can be told.
   * With `headerOnly`, tables are left alone too and `allocatedSize` stays absent; then `file` need hold no more
   * than the first bytes.
   */
  describe(file: Source, context: OpenContext, headerOnly?: boolean): Promise<ImageDetails>;
  /**
   * Opens the disk. The returned disk owns `file` and disposes of it; when `open` throws, the caller still owns it.
   */
  open(file: Source, context: OpenContext): Promise<Disk>;
  /**
   * Opens the disk of an image that passes once. `head` is the start of `runs`: `limits.probeHead` bytes, or all.
   * `undefined` when this image cannot be read so; nothing of `runs` has been taken then. The returned disk owns `runs`.
   */
  pass?(
    runs: AsyncIterable<Run>,
    head: Uint8Array,
    context: PassContext,
  ): Promise<PassingDisk | undefined>;
}

/** Work that a thread does: what is asked in, what is answered out. What `transfer` holds goes over with the answer. */
export type Job = (message: never) => JobResult | Promise<JobResult>;

export interface JobResult {
  readonly answer: unknown;
  readonly transfer?: readonly ArrayBuffer[];
}
