/** The qcow2 format: from a file to its details, or to its disk. */

import type {
  Disk,
  Format,
  ImageDetails,
  OpenContext,
  Probe,
  Source,
  StoredExtent,
} from '../../types.ts';
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
    return { ...details, allocatedSize: (await walk(layout, tables)).size };
  },
  async open(file: Source, context: OpenContext): Promise<Disk> {
    const header = await readHeader(file, context);
    refuseUnreadable(header, file.name, context.limits);
    const { layout, tables } = await readTables(file, header, context);
    const { size, hasCompressed } = await walk(layout, tables);
    const details = { ...detailsOf(header), allocatedSize: size };
    const disk = makeDisk(file, layout, tables, details, await makeDecoder(header, context));
    if (hasCompressed || file.stored === undefined) return disk;
    return { ...disk, stored: { fd: file.stored.fd, extents: () => plainExtents(layout, tables) } };
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

/**
 * Bytes of the disk in data clusters, plain or compressed, and whether there are compressed ones; checks every entry of every
 * table on the way.
 */
async function walk(
  layout: Layout,
  tables: Tables,
): Promise<{ size: number; hasCompressed: boolean }> {
  let size = 0;
  let hasCompressed = false;
  try {
    for await (const part of tables.parts(0, layout.virtualSize)) {
      for (const run of runsOf(layout, part)) {
        if (run.kind !== 'zero') size += run.length;
        if (run.kind === 'compressed') hasCompressed = true;
      }
    }
  } finally {
    await tables.drain();
  }
  return { size, hasCompressed };
}

/** The disk of an image without compressed clusters, and where its data lie in the file. */
async function* plainExtents(
  layout: Layout,
  tables: Tables,
): AsyncGenerator<StoredExtent, void, void> {
  for await (const part of tables.parts(0, layout.virtualSize)) {
    for (const run of runsOf(layout, part)) {
      const { offset, length } = run;
      if (run.kind === 'zero') yield { kind: 'zero', offset, length };
      else yield { kind: 'data', offset, length, hostOffset: run.hostOffset };
    }
  }
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
