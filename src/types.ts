/** The shapes that travel between the stages: sources, byte streams, extents, chunks, codecs, formats. */

import type { Limits } from './limits.ts';

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
  /** Where the bytes lie, if all of them lie as they are in one open regular file: they can be moved without being read here. */
  readonly stored?: Stored | undefined;
}

/** Bytes that lie as they are in an open regular file. */
export interface Stored {
  /** The descriptor, open for reading as long as its Source is. */
  readonly fd: number;
  /** As `extents` of the Source, from 0 to its size; data extents tell where they lie, and neighbours may be of one kind. */
  extents(): AsyncIterable<StoredExtent>;
}

export type StoredExtent =
  | (Extent & { readonly kind: 'zero' })
  | (Extent & { readonly kind: 'data'; readonly hostOffset: number });

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

/** What a codec puts out: bytes (owned by the receiver from then on) or a number of zero bytes that nobody made. */
export type Run =
  | { readonly kind: 'data'; readonly bytes: Uint8Array }
  | { readonly kind: 'zero'; readonly length: number };

/** What a codec is told besides the bytes. */
export interface CodecContext {
  /** Name of the input, for messages. */
  readonly name: string;
  readonly limits: Limits;
}

/** A compression: forward only, it cannot seek. */
export interface Codec {
  readonly name: CodecName;
  /** True when `head` (the first bytes of the input, possibly fewer than wanted) has the codec's magic. */
  matches(head: Uint8Array): boolean;
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
  /** Feature bits that are set, by the specification's names. */
  readonly features?: readonly string[];
}

/** An opened image: its content as a Source, and what its headers say. */
export interface Disk extends Source {
  readonly details: ImageDetails;
}

/** What a format is told besides the file. */
export interface OpenContext {
  readonly limits: Limits;
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
}
