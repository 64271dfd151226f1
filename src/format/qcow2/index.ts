/** The qcow2 format: from a file to its details, or to its disk. */

import type { Disk, Format, ImageDetails, OpenContext, Probe, Source } from '../../types.ts';
import { SparsecopyError } from '../../errors.ts';
import { makeDisk } from './disk.ts';
import { detailsOf, hasKnownTables, refuseUnreadable } from './features.ts';
import { hasMagic, parseHeader, type Header } from './header.ts';
import { makeDeflateDecoder, type ClusterDecoder } from './inflate.ts';
import { layoutOf, runsOf, type Layout } from './runs.ts';
import { openTables, type Tables } from './tables.ts';

/**
 * qcow2, versions 2 and 3, any cluster size, with random access.
 *
 * `open` reads all tables once, so that what is wrong with them is known before anything is copied. It refuses with
 * `REFERENCE` backing and data files, with `UNSUPPORTED` encryption, extended L2 entries and unknown features, with
 * `CORRUPT` what the specification forbids or what is marked as corrupt, with `TRUNCATED` what the file does not hold,
 * and with `LIMIT` what is too large. `describe` tells of an image that is refused for what it needs or how large it is.
 */
export const qcow2: Format = {
  name: 'qcow2',
  matches: ({ head }: Probe) => hasMagic(head),
  async describe(file: Source, context: OpenContext, headerOnly = false): Promise<ImageDetails> {
    const header = await readHeader(file, context);
    const details = detailsOf(header);
    if (headerOnly || !hasKnownTables(header)) return details;
    const { layout, tables } = await readTables(file, header, context);
    return { ...details, allocatedSize: await allocatedSize(layout, tables) };
  },
  async open(file: Source, context: OpenContext): Promise<Disk> {
    const header = await readHeader(file, context);
    refuseUnreadable(header, file.name, context.limits);
    const { layout, tables } = await readTables(file, header, context);
    const details = {
      ...detailsOf(header),
      allocatedSize: await allocatedSize(layout, tables),
    };
    return makeDisk(file, layout, tables, details, await makeDecoder(header, context));
  },
};

async function readHeader(file: Source, { limits }: OpenContext): Promise<Header> {
  const head = new Uint8Array(Math.min(file.size, limits.probeHead));
  await file.read(head, 0);
  return parseHeader(head, file.name, limits);
}

async function readTables(
  file: Source,
  header: Header,
  { limits }: OpenContext,
): Promise<{ layout: Layout; tables: Tables }> {
  // The refcount table is not read, but a file that ends before it is not whole.
  if (header.refcountTableOffset >= file.size) {
    throw new SparsecopyError(
      'TRUNCATED',
      `refcount table is at ${header.refcountTableOffset}, file ends at ${file.size}`,
      { source: file.name, offset: header.refcountTableOffset, found: file.size },
    );
  }
  const layout = layoutOf(header, file.name, file.size);
  return { layout, tables: await openTables(file, layout, limits) };
}

/** Bytes of the disk in data clusters, plain or compressed; checks every entry of every table on the way. */
async function allocatedSize(layout: Layout, tables: Tables): Promise<number> {
  let size = 0;
  try {
    for await (const part of tables.parts(0, layout.virtualSize)) {
      for (const run of runsOf(layout, part)) if (run.kind !== 'zero') size += run.length;
    }
  } finally {
    await tables.drain();
  }
  return size;
}

async function makeDecoder(header: Header, { limits }: OpenContext): Promise<ClusterDecoder> {
  if (header.compressionType === 0) return makeDeflateDecoder(header.clusterSize);
  // Loaded by images that need it: it brings a WebAssembly module.
  const { makeZstdClusterDecoder } = await import('../../codec/zstd.ts');
  const decode = await makeZstdClusterDecoder(limits);
  return (input, output) =>
    new Promise((resolve) => {
      decode(input, output);
      resolve();
    });
}
