/** What the feature bits of a qcow2 header are called, and which images this package refuses to read, and as what. */

import {
  quoteUntrusted,
  SparsecopyError,
  type ErrorCode,
  type ErrorDetails,
} from '../../errors.ts';
import type { Limits } from '../../limits.ts';
import type { ImageDetails } from '../../types.ts';
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

/** True when the tables of the image are known to have the form, and to mean the bytes, that this package reads. */
export function hasKnownTables(header: Header): boolean {
  return (
    header.incompatible.every((bit) => bit < INCOMPATIBLE.length) &&
    !header.incompatible.includes(CORRUPT_BIT) &&
    !header.incompatible.includes(EXTENDED_L2_BIT) &&
    !hasDataFile(header)
  );
}

/** What the header alone says. */
export function detailsOf(header: Header): ImageDetails {
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
    features: [
      ...header.incompatible.map((bit) => INCOMPATIBLE[bit] ?? `incompatible bit ${bit}`),
      ...header.compatible.map((bit) => COMPATIBLE[bit] ?? `compatible bit ${bit}`),
      ...header.autoclear.map((bit) => AUTOCLEAR[bit] ?? `autoclear bit ${bit}`),
    ],
  };
}

/**
 * Refuses an image whose content can or may not be read, though its header is sound.
 * @throws SparsecopyError `UNSUPPORTED`, `CORRUPT` (it says so itself), `REFERENCE`, `LIMIT`.
 */
export function refuseUnreadable(header: Header, name: string, limits: Limits): void {
  const fail = (code: ErrorCode, sentence: string, details: ErrorDetails): SparsecopyError =>
    new SparsecopyError(code, sentence, { source: name, ...details });

  const unknown = header.incompatible.find((bit) => bit >= INCOMPATIBLE.length);
  if (unknown !== undefined) {
    const ownName = header.featureNames.get(featureKey(0, unknown));
    const called = ownName === undefined ? '' : `, which it calls ${quoteUntrusted(ownName)}`;
    const sentence = `needs incompatible feature bit ${unknown}${called}`;
    throw fail('UNSUPPORTED', sentence, { offset: 72, feature: `incompatible bit ${unknown}` });
  }
  if (header.incompatible.includes(CORRUPT_BIT)) {
    throw fail('CORRUPT', 'is marked as corrupt by the program that wrote it', { offset: 72 });
  }
  if (hasDataFile(header)) {
    const named = header.dataFile === undefined ? '' : ` ${quoteUntrusted(header.dataFile)}`;
    throw fail('REFERENCE', `has its data in another file${named}, which is not opened`, {
      feature: 'external data file',
    });
  }
  if (header.autoclear.includes(RAW_DATA_FILE_BIT)) {
    const sentence = 'has the raw external data bit, but no external data file';
    throw fail('CORRUPT', sentence, { offset: 88 });
  }
  if (header.backingFile !== undefined) {
    throw fail(
      'REFERENCE',
      `needs the backing file ${quoteUntrusted(header.backingFile)}, which is not opened`,
      { offset: 8, feature: 'backing file' },
    );
  }
  if (header.cryptMethod !== 0) {
    throw fail('UNSUPPORTED', `is encrypted (${cryptMethod(header)})`, {
      offset: 32,
      feature: 'encryption',
      found: header.cryptMethod,
    });
  }
  if (header.incompatible.includes(EXTENDED_L2_BIT)) {
    throw fail('UNSUPPORTED', 'has extended L2 entries', {
      offset: 72,
      feature: 'extended L2 entries',
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

/** The bit and the header extension should go together; one of them is enough to be careful. */
function hasDataFile(header: Header): boolean {
  return header.incompatible.includes(DATA_FILE_BIT) || header.dataFile !== undefined;
}

function cryptMethod(header: Header): string {
  return CRYPT_METHODS[header.cryptMethod] ?? `method ${header.cryptMethod}`;
}
