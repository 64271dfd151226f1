/** Raw images: the file is the disk. */

import type { Disk, Format, ImageDetails, OpenContext, Source } from '../types.ts';

/** Matches anything, so it comes last. The disk's zeros are those that the file knows of (its holes). */
export const raw: Format = {
  name: 'raw',
  matches: () => true,
  async describe(file: Source, _context: OpenContext, headerOnly = false): Promise<ImageDetails> {
    const details = { format: 'raw', virtualSize: file.size } as const;
    if (headerOnly) return details;
    let allocatedSize = 0;
    for await (const extent of file.extents()) {
      if (extent.kind === 'data') allocatedSize += extent.length;
    }
    return { ...details, allocatedSize };
  },
  async open(file: Source, context: OpenContext): Promise<Disk> {
    return {
      name: file.name,
      size: file.size,
      details: await raw.describe(file, context),
      read: (into, offset) => file.read(into, offset),
      extents: (start, end) => file.extents(start, end),
      stored: file.stored,
      [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
    };
  },
};
