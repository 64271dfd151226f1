/** Where the bytes of a disk without encrypted and inherited clusters lie in its file or its data file. */

import { quoteUntrusted, SparsecopyError } from '../../errors.ts';
import type { Stored, StoredExtent } from '../../types.ts';
import type { Layout } from './layout.ts';
import { runsOf } from './runs.ts';
import type { Tables } from './tables.ts';

/** What lies in the image file. */
export async function* storedInFile(
  layout: Layout,
  tables: Tables,
): AsyncGenerator<StoredExtent, void, void> {
  for await (const part of tables.parts(0, layout.virtualSize)) {
    for (const run of runsOf(layout, part)) {
      const { offset, length } = run;
      if (run.kind === 'plain') yield { kind: 'data', offset, length, hostOffset: run.hostOffset };
      else if (run.kind === 'compressed') {
        const { hostOffset, hostLength } = run;
        yield { kind: 'data', offset, length, hostOffset, hostLength };
      } else yield { kind: 'zero', offset, length };
    }
  }
}

/** What lies as it is in the data file, which may be sparse, at the offsets of the disk. */
export async function* storedInDataFile(
  layout: Layout,
  tables: Tables,
  dataFile: Stored,
): AsyncGenerator<StoredExtent, void, void> {
  const extents = dataFile.extents()[Symbol.asyncIterator]();
  try {
    let extent: StoredExtent | undefined;
    for await (const part of tables.parts(0, layout.virtualSize)) {
      for (const run of runsOf(layout, part)) {
        if (run.kind !== 'plain') {
          yield { kind: 'zero', offset: run.offset, length: run.length };
          continue;
        }
        const end = run.offset + run.length;
        for (let offset = run.offset; offset < end;) {
          while (extent === undefined || extent.offset + extent.length <= offset) {
            const next = await extents.next();
            if (next.done === true) throw truncatedAt(layout, offset);
            extent = next.value;
          }
          const length = Math.min(end, extent.offset + extent.length) - offset;
          yield extent.kind === 'zero'
            ? { kind: 'zero', offset, length }
            : {
                kind: 'data',
                offset,
                length,
                hostOffset: extent.hostOffset + offset - extent.offset,
              };
          offset += length;
        }
      }
    }
  } finally {
    await extents.return?.();
  }
}

function truncatedAt({ name, dataName, dataSize }: Layout, offset: number): SparsecopyError {
  return new SparsecopyError(
    'TRUNCATED',
    `data file ${quoteUntrusted(dataName)} ends at ${offset}, expected at ${dataSize}`,
    { source: name, offset, expected: dataSize, found: offset },
  );
}
