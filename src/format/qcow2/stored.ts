/** Where the bytes of a disk without encrypted and inherited clusters lie in its file or its data file. */

import { quoteUntrusted, SparsecopyError } from '../../errors.ts';
import type { Stored, StoredExtent } from '../../types.ts';
import type { Layout } from './layout.ts';
import { runsOf, type Run } from './runs.ts';
import type { Tables } from './tables.ts';

/** What lies in the image file. */
export async function* storedInFile(
  layout: Layout,
  tables: Tables,
): AsyncGenerator<readonly StoredExtent[], void, void> {
  for await (const part of tables.parts(0, layout.virtualSize)) {
    yield Array.from(runsOf(layout, part), storedRun);
  }
}

function storedRun(run: Run): StoredExtent {
  const { offset, length } = run;
  if (run.kind === 'plain') return { kind: 'data', offset, length, hostOffset: run.hostOffset };
  if (run.kind === 'compressed') {
    const { hostOffset, hostLength } = run;
    return { kind: 'data', offset, length, hostOffset, hostLength };
  }
  return { kind: 'zero', offset, length };
}

/** What lies as it is in the data file, which may be sparse, at the offsets of the disk. */
export async function* storedInDataFile(
  layout: Layout,
  tables: Tables,
  dataFile: Stored,
): AsyncGenerator<readonly StoredExtent[], void, void> {
  const batches = dataFile.extents()[Symbol.asyncIterator]();
  /** Of the data file, from the one at hand on. */
  let extents: StoredExtent[] = [];
  try {
    for await (const part of tables.parts(0, layout.virtualSize)) {
      for (const run of runsOf(layout, part)) {
        if (run.kind !== 'plain') {
          yield [{ kind: 'zero', offset: run.offset, length: run.length }];
          continue;
        }
        const end = run.offset + run.length;
        for (let offset = run.offset; offset < end;) {
          const [extent] = extents;
          if (extent === undefined) {
            const next = await batches.next();
            if (next.done === true) throw truncatedAt(layout, offset);
            extents = [...next.value];
            continue;
          }
          if (extent.offset + extent.length <= offset) {
            extents.shift();
            continue;
          }
          const length = Math.min(end, extent.offset + extent.length) - offset;
          yield [
            extent.kind === 'zero'
              ? { kind: 'zero', offset, length }
              : {
                  kind: 'data',
                  offset,
                  length,
                  hostOffset: extent.hostOffset + offset - extent.offset,
                },
          ];
          offset += length;
        }
      }
    }
  } finally {
    await batches.return?.();
  }
}

function truncatedAt({ name, dataName, dataSize }: Layout, offset: number): SparsecopyError {
  return new SparsecopyError(
    'TRUNCATED',
    `data file ${quoteUntrusted(dataName)} ends at ${offset}, expected at ${dataSize}`,
    { source: name, offset, expected: dataSize, found: offset },
  );
}
