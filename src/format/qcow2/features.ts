/** What the feature bits of a qcow2 header are called, and which images this package refuses to read, and as what. */

import {
  quoteUntrusted,
  SparsecopyError,
  type ErrorCode,
  type ErrorDetails,
} from '../../errors.ts';
import type { ImageDetails, OpenContext, SnapshotDetails } from '../../types.ts';
import { featureKey } from './extensions.ts';
import type { Header } from './header.ts';

/** Names of the defined bits by number. Specification: incompatible_features, compatible_features, autoclear_features. */
const INCOMPATIBLE: readonly string[] = [
  'dirty',
  'corrupt',
  'external data file',
  'compression type',
  'extended L2 entries',
];
const COMPATIBLE: readonly string[] = ['lazy refcounts'];
const AUTOCLEAR: readonly string[] = ['bitmaps extension', 'raw external data'];

/** Bits that change how an image is read. The dirty bit does not: it speaks of reference counts only. */
const CORRUPT_BIT = 1;
const DATA_FILE_BIT = 2;
const EXTENDED_L2_BIT = 4;
const RAW_DATA_FILE_BIT = 1;

const COMPRESSION_TYPES = ['zlib', 'zstd'] as const;
const CRYPT_METHODS = ['none', 'aes', 'luks'] as const;

/** True when the image's own tables tell where its data lie, and in a form that this package reads. */
export function hasKnownTables(header: Header, { allowCorrupt }: OpenContext): boolean {
  return (
    header.incompatible.every((bit) => bit < INCOMPATIBLE.length) &&
    (allowCorrupt === true || !header.incompatible.includes(CORRUPT_BIT)) &&
    !hasDataFile(header)
  );
}

/** What the header says, and the table of snapshots where that could be read. */
export function detailsOf(header: Header, snapshots?: readonly SnapshotDetails[]): ImageDetails {
  const compressionType = COMPRESSION_TYPES[header.compressionType];
  const { backingFile, backingFormat, dataFile } = header;
  return {
    format: 'qcow2',
    virtualSize: header.virtualSize,
    version: header.version,
    clusterSize: header.clusterSize,
    ...(compressionType === undefined ? {} : { compressionType }),
    ...(backingFile === undefined ? {} : { backingFile }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
    ...(hasDataFile(header) ? { dataFile: dataFile ?? '' } : {}),
    ...(header.cryptMethod === 0 ? {} : { encryption: cryptMethod(header) }),
    snapshotCount: header.snapshotCount,
    ...(snapshots === undefined ? {} : { snapshots: snapshots.map(snapshotDetails) }),
    features: [
      ...header.incompatible.map((bit) => INCOMPATIBLE[bit] ?? `incompatible bit ${bit}`),
      ...header.compatible.map((bit) => COMPATIBLE[bit] ?? `compatible bit ${bit}`),
      ...header.autoclear.map((bit) => AUTOCLEAR[bit] ?? `autoclear bit ${bit}`),
    ],
  };
}

/** Without what only a reader needs. */
function snapshotDetails(snapshot: SnapshotDetails): SnapshotDetails {
  const { id, name, virtualSize, date, vmStateSize } = snapshot;
  return { id, name, virtualSize, date, vmStateSize };
}

/**
 * Refuses an image whose content can or may not be read, though its header is sound.
 * @throws SparsecopyError `UNSUPPORTED`, `CORRUPT` (it says so itself, or contradicts itself), `REFERENCE`, `LIMIT`.
 */
export function refuseUnreadable(header: Header, name: string, context: OpenContext): void {
  const { limits } = context;
  const fail = (code: ErrorCode, sentence: string, details: ErrorDetails): SparsecopyError =>
    new SparsecopyError(code, sentence, { source: name, ...details });

  const unknown = header.incompatible.find((bit) => bit >= INCOMPATIBLE.length);
  if (unknown !== undefined) {
    const ownName = header.featureNames.get(featureKey(0, unknown));
    const called = ownName === undefined ? '' : `, which it calls ${quoteUntrusted(ownName)}`;
    const sentence = `needs incompatible feature bit ${unknown}${called}`;
    throw fail('UNSUPPORTED', sentence, { offset: 72, feature: `incompatible bit ${unknown}` });
  }
  if (header.incompatible.includes(CORRUPT_BIT) && context.allowCorrupt !== true) {
    throw fail('CORRUPT', 'is marked as corrupt by the program that wrote it', { offset: 72 });
  }
  refuseReferences(header, context, fail);
  if (CRYPT_METHODS[header.cryptMethod] === undefined) {
    throw fail('UNSUPPORTED', `is encrypted (${cryptMethod(header)})`, {
      offset: 32,
      feature: 'encryption',
      found: header.cryptMethod,
    });
  }
  if (COMPRESSION_TYPES[header.compressionType] === undefined) {
    throw fail('UNSUPPORTED', `has compression type ${header.compressionType}, expected 0 or 1`, {
      offset: 104,
      feature: `compression type ${header.compressionType}`,
      found: header.compressionType,
    });
  }
  if (header.virtualSize > limits.virtualSize) {
    throw fail(
      'LIMIT',
      `has a virtual size of ${header.virtualSize}, at most ${limits.virtualSize} is allowed`,
      {
        offset: 24,
        limit: 'virtualSize',
        expected: limits.virtualSize,
        found: header.virtualSize,
      },
    );
  }
}

/** What names another file in a way that is not allowed, or cannot be. */
function refuseReferences(
  header: Header,
  context: OpenContext,
  fail: (code: ErrorCode, sentence: string, details: ErrorDetails) => SparsecopyError,
): void {
  const { backingFile, dataFile } = header;
  const mayOpen = context.openReference !== undefined;
  const hasDataFileBit = header.incompatible.includes(DATA_FILE_BIT);
  const isRaw = header.autoclear.includes(RAW_DATA_FILE_BIT);
  if (hasDataFile(header) && !mayOpen) {
    const named = dataFile === undefined ? '' : ` ${quoteUntrusted(dataFile)}`;
    throw fail('REFERENCE', `has its data in another file${named}, which is not opened`, {
      feature: 'external data file',
    });
  }
  if (dataFile !== undefined && !hasDataFileBit) {
    const sentence = `names the data file ${quoteUntrusted(dataFile)}, but lacks incompatible feature bit ${DATA_FILE_BIT}`;
    throw fail('CORRUPT', sentence, { offset: 72 });
  }
  if (isRaw && !hasDataFileBit) {
    const sentence = 'has the raw external data bit, but no external data file';
    throw fail('CORRUPT', sentence, { offset: 88 });
  }
  if (backingFile === undefined) return;
  if (!mayOpen) {
    throw fail(
      'REFERENCE',
      `needs the backing file ${quoteUntrusted(backingFile)}, which is not opened`,
      { offset: 8, feature: 'backing file' },
    );
  }
  // The specification has the two exclude each other: which of them is read would depend on the reader.
  if (isRaw) {
    throw fail('CORRUPT', 'has a backing file and a raw external data file', { offset: 88 });
  }
  if (backingFile === '' && context.hasOwnBacking !== true) {
    const sentence = 'has a backing file whose name is empty, too long or not behind the header';
    throw fail('CORRUPT', sentence, { offset: 8 });
  }
}

/** The bit and the header extension should go together; one of them is enough to be careful. */
export function hasDataFile(header: Header): boolean {
  return header.incompatible.includes(DATA_FILE_BIT) || header.dataFile !== undefined;
}

/** True when L2 entries have a bitmap of subclusters. */
export function hasExtendedL2(header: Pick<Header, 'incompatible'>): boolean {
  return header.incompatible.includes(EXTENDED_L2_BIT);
}

/** True when the image has an encryption header. */
export function hasLuks(header: Header): boolean {
  return CRYPT_METHODS[header.cryptMethod] === 'luks';
}

function cryptMethod(header: Header): string {
  return CRYPT_METHODS[header.cryptMethod] ?? `method ${header.cryptMethod}`;
}
