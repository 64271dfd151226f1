/** The qcow2 format: from a file to its details, or to its disk. */

import type {
  Disk,
  Format,
  ImageDetails,
  OpenContext,
  Probe,
  Source,
  Stored,
} from '../../types.ts';
import { isSparsecopyError, SparsecopyError } from '../../errors.ts';
import { makeClaims, type Claims } from './claims.ts';
import type { Decryptor } from './crypt.ts';
import type { ClusterCompression } from './clusters-move.ts';
import { makeDecoder } from './decoder.ts';
import { makeDisk } from './disk.ts';
import { detailsOf, hasDataFile, hasKnownTables, hasLuks, refuseUnreadable } from './features.ts';
import { hasMagic, parseHeader, type Header } from './header.ts';
import { isInPlace, layoutOf, misplaced, type Layout } from './layout.ts';
import { runsOf } from './runs.ts';
import { findSnapshot, readSnapshots, type Snapshot } from './snapshots.ts';
import { storedInDataFile, storedInFile } from './stored.ts';
import { openTables, type Tables } from './tables.ts';

/**
 * qcow2, versions 2 and 3, any cluster size, with random access: the disk as it is now, or one of the internal snapshots.
 *
 * `open` reads all tables once, so that what is wrong with them is known before anything is copied. It refuses with
 * `REFERENCE` backing and data files where the context does not open them, with `UNSUPPORTED` unknown features, and
 * encryption without a passphrase, with `FORBIDDEN` a wrong passphrase, with `CORRUPT` what the specification forbids or what is
 * marked as corrupt, with `TRUNCATED` what the file does not hold, with `FORMAT` a snapshot that is not there, and with
 * `LIMIT` what is too large. `describe` tells of an image that is refused for what it needs or how large it is.
 */
export const qcow2: Format = {
  name: 'qcow2',
  matches: ({ head }: Probe) => hasMagic(head),
  async describe(file: Source, context: OpenContext, headerOnly = false): Promise<ImageDetails> {
    const header = await readHeader(file, context);
    if (headerOnly) return detailsOf(header);
    const { details, view } = await readView(file, header, context);
    if (!hasKnownTables(header, context)) return details;
    const { layout, tables } = await readTables(file, header, context, undefined, view);
    return { ...details, allocatedSize: (await walk(layout, tables)).allocatedSize };
  },
  async open(file: Source, context: OpenContext): Promise<Disk> {
    const { limits, untrusted, hasOwnBacking } = context;
    const header = await readHeader(file, context);
    refuseUnreadable(header, file.name, context);
    const { details, view } = await readView(file, header, context);
    const decryptor = await openCrypto(file, header, context);
    const opened: Source[] = [];
    const openNamed = async (
      kind: 'backing file' | 'data file',
      name = '',
      format?: string,
    ): Promise<Source | undefined> => {
      const source = await context.openReference?.({ kind, name, format });
      if (source !== undefined) opened.push(source);
      return source;
    };
    try {
      const dataFile = hasDataFile(header)
        ? await openNamed('data file', header.dataFile, 'raw')
        : undefined;
      const { layout, tables } = await readTables(file, header, context, dataFile, view);
      const claims = untrusted === true ? makeClaims(layout, limits) : undefined;
      const found = await walk(layout, tables, claims);
      const backing =
        header.backingFile !== undefined || hasOwnBacking === true
          ? await openNamed('backing file', header.backingFile, header.backingFormat)
          : undefined;
      const isAsStored =
        decryptor === undefined &&
        (backing === undefined || found.firstUnallocated >= backing.size);
      return makeDisk({
        file,
        layout,
        tables,
        details: { ...details, allocatedSize: found.allocatedSize },
        decode: await makeDecoder(header, context, found.hasCompressed ? file.size : 0),
        decryptor,
        dataFile,
        backing,
        stored: isAsStored
          ? storedOf(layout, tables, file, dataFile, compressionOf(header, found, file, context))
          : undefined,
      });
    } catch (error) {
      await Promise.allSettled(opened.map(async (source) => source[Symbol.asyncDispose]()));
      throw error;
    }
  },
  async pass(runs, head, context) {
    // Loaded by what passes once.
    const { passQcow2 } = await import('./pass.ts');
    return passQcow2(runs, head, context);
  },
};

async function readHeader(file: Source, { limits }: OpenContext): Promise<Header> {
  const head = new Uint8Array(Math.min(file.size, limits.probeHead));
  await file.read(head, 0);
  return parseHeader(head, file.name, limits);
}

/** Which of the disks in the image is wanted, and what is to be told of it. */
async function readView(
  file: Source,
  header: Header,
  { limits, snapshot }: OpenContext,
): Promise<{ details: ImageDetails; view: Header | Snapshot }> {
  let snapshots: readonly Snapshot[] | undefined;
  try {
    snapshots = await readSnapshots(file, header, limits);
  } catch (error) {
    // The disk as it is now does not depend on a broken table of snapshots, and qemu-img opens it too.
    if (snapshot !== undefined || !isSparsecopyError(error)) throw error;
  }
  const details = detailsOf(header, snapshots);
  if (snapshot === undefined) return { details, view: header };
  const view = findSnapshot(snapshots ?? [], snapshot, file.name);
  return { details: { ...details, virtualSize: view.virtualSize }, view };
}

/** @throws SparsecopyError `CORRUPT`, `TRUNCATED`, `LIMIT` for the place of the encryption header; what `makeDecryptor` throws. */
async function openCrypto(
  file: Source,
  header: Header,
  { limits, passphrase }: OpenContext,
): Promise<Decryptor | undefined> {
  if (header.cryptMethod === 0) return undefined;
  const place = hasLuks(header) ? header.cryptoHeader : undefined;
  let bytes: Buffer | undefined;
  if (place !== undefined && passphrase !== undefined) {
    const most = limits.qcow2CryptoHeaderSize;
    if (place.length > most) {
      throw new SparsecopyError(
        'LIMIT',
        `encryption header has ${place.length} bytes, at most ${most} are allowed`,
        { source: file.name, limit: 'qcow2CryptoHeaderSize', expected: most, found: place.length },
      );
    }
    const layout = layoutOf(header, file.name, file.size);
    if (!isInPlace(layout, place.offset, place.length)) {
      throw misplaced(layout, 'encryption header', place.offset, place.length);
    }
    bytes = Buffer.allocUnsafeSlow(place.length);
    await file.read(bytes, place.offset);
  }
  // Loaded by images that need it.
  const { makeDecryptor } = await import('./crypt.ts');
  return makeDecryptor(bytes, header, file.name, passphrase, limits);
}

async function readTables(
  file: Source,
  header: Header,
  { limits }: OpenContext,
  dataFile: { readonly name: string; readonly size: number } | undefined,
  view: Header | Snapshot,
): Promise<{ layout: Layout; tables: Tables }> {
  // The refcount table is not read, but a file that ends before it is not whole.
  if (header.refcountTableOffset >= file.size) {
    throw new SparsecopyError(
      'TRUNCATED',
      `refcount table is at ${header.refcountTableOffset}, file ends at ${file.size}`,
      { source: file.name, offset: header.refcountTableOffset, found: file.size },
    );
  }
  const layout = layoutOf(header, file.name, file.size, dataFile, view);
  return { layout, tables: await openTables(file, layout, limits) };
}

/** What a walk over all tables finds. */
interface Walked {
  /** Bytes of the disk in data clusters, plain or compressed. */
  readonly allocatedSize: number;
  readonly hasCompressed: boolean;
  /** Where the first range of the disk begins that a backing file is read for; `Infinity` when there is none. */
  readonly firstUnallocated: number;
}

/** Checks every entry of every table, and that nothing has two owners when there are `claims`. */
async function walk(layout: Layout, tables: Tables, claims?: Claims): Promise<Walked> {
  let allocatedSize = 0;
  let hasCompressed = false;
  let firstUnallocated = Infinity;
  try {
    for await (const part of tables.parts(0, layout.virtualSize)) {
      if (part.kind === 'table') claims?.table(part.table.hostOffset);
      for (const run of runsOf(layout, part)) {
        claims?.run(run);
        if (run.kind === 'plain' || run.kind === 'compressed') allocatedSize += run.length;
        if (run.kind === 'compressed') hasCompressed = true;
        if (run.kind === 'unallocated') firstUnallocated = Math.min(firstUnallocated, run.offset);
      }
    }
  } finally {
    await tables.drain();
  }
  return { allocatedSize, hasCompressed, firstUnallocated };
}

/** What a thread must know to decode the clusters of `file`; `undefined` when none is compressed. */
function compressionOf(
  { clusterSize, compressionType }: Header,
  { hasCompressed }: Walked,
  file: Source,
  { limits }: OpenContext,
): ClusterCompression | undefined {
  if (!hasCompressed) return undefined;
  const { decoderWindow, virtualSize } = limits;
  const frameLimits = { decoderWindow, virtualSize };
  return { compressionType, clusterSize, fileSize: file.size, limits: frameLimits };
}

function storedOf(
  layout: Layout,
  tables: Tables,
  file: Source,
  dataFile: Source | undefined,
  compression: ClusterCompression | undefined,
): Stored | undefined {
  const stored = (dataFile ?? file).stored;
  // Tables tell offsets of the image: those of the file only where the image is all of it.
  if (stored === undefined || (dataFile === undefined && !stored.isWhole)) return undefined;
  return {
    fd: stored.fd,
    isWhole: false,
    compression,
    extents: () =>
      dataFile === undefined
        ? storedInFile(layout, tables)
        : storedInDataFile(layout, tables, stored),
  };
}
