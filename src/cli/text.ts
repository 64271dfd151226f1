/** How results look to a person: the closing line, sizes, the description of an image, and its map as a strip of blocks. */

import { styleText } from 'node:util';
import type { CheckReport } from '../check.ts';
import type { ComparedInput, Comparison } from '../compare.ts';
import type { Report } from '../copy.ts';
import type { ImageInfo } from '../inspect.ts';
import type { Extent, SnapshotDetails } from '../types.ts';

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `size` in bytes, and from 1 KiB on in the unit that suits it as well. */
export function sizeText(size: number): string {
  const power = size < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(size) / 10));
  const short = (size / 1024 ** power).toFixed(power === 0 ? 0 : 1).replace(/\.0$/, '');
  return power === 0 ? `${short} bytes` : `${short} ${UNITS[power] ?? ''} (${size} bytes)`;
}

/** The C tool's closing line. */
export function closingLine(report: Report): string {
  const { virtualSize, diskSize, nonZeroDestination } = report;
  return `sparsecopy: total bytes = ${virtualSize} (real = ${diskSize}, sparse = ${virtualSize - diskSize}), nonzerodest = ${nonZeroDestination}\n`;
}

/** What a copy kept in a temporary file; nothing where it kept nothing there. */
export function spooledLine({ spooled }: Report): string {
  return spooled === 0 ? '' : `sparsecopy: ${sizeText(spooled)} went through a temporary file\n`;
}

/** An image's description, a line a fact. Names from inside the image are quoted and cut. */
export function infoText(info: ImageInfo, quote: (text: string) => string): string {
  const unknown = 'not known without decompressing it all';
  const lines: [string, string | undefined][] = [
    ['image', info.name],
    ['compression', info.codecs.length === 0 ? undefined : info.codecs.join(', ')],
    ['format', info.version === undefined ? info.format : `${info.format} version ${info.version}`],
    ['virtual size', info.virtualSize === undefined ? unknown : sizeText(info.virtualSize)],
    ['allocated', info.allocatedSize === undefined ? undefined : sizeText(info.allocatedSize)],
    ['file size', info.sourceSize === undefined ? undefined : sizeText(info.sourceSize)],
    ['cluster size', info.clusterSize === undefined ? undefined : sizeText(info.clusterSize)],
    ['cluster compression', info.compressionType],
    ['backing file', info.backingFile === undefined ? undefined : quote(info.backingFile)],
    ['backing format', info.backingFormat === undefined ? undefined : quote(info.backingFormat)],
    ['data file', info.dataFile === undefined ? undefined : quote(info.dataFile)],
    ['encryption', info.encryption],
    ['snapshots', info.snapshotCount ? `${info.snapshotCount}` : undefined],
    ['features', info.features?.length ? info.features.join(', ') : undefined],
  ];
  const facts = lines.flatMap(([name, value]) =>
    value === undefined ? [] : [`${`${name}:`.padEnd(21)}${value}\n`],
  );
  const { snapshots = [] } = info;
  return facts.join('') + (snapshots.length === 0 ? '' : snapshotTable(snapshots, quote));
}

/** Internal snapshots: id, name, size of the disk, of the machine's state, and when it was taken (UTC). */
function snapshotTable(
  snapshots: readonly SnapshotDetails[],
  quote: (text: string) => string,
): string {
  const rows = snapshots.map(({ id, name, virtualSize, vmStateSize, date }) => [
    // Ids are text, too, though qemu makes them of digits.
    /^\d{1,10}$/.test(id) ? id : quote(id),
    quote(name),
    `${virtualSize}`,
    `${vmStateSize}`,
    new Date(date * 1000).toISOString().replace('T', ' ').replace(/\..*/, ''),
  ]);
  const table = [['id', 'name', 'virtual size', 'vm state', 'date (UTC)'], ...rows];
  const widths = [0, 1, 2, 3].map((column) =>
    table.reduce((most, row) => Math.max(most, row[column]?.length ?? 0), 0),
  );
  const isNumber = (column: number): boolean => column === 2 || column === 3;
  return table
    .map((row) => {
      const cells = row.map((cell, column) =>
        isNumber(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      );
      return `  ${cells.join('  ')}\n`;
    })
    .join('');
}

/** What a check found: the first problems, a line each, then the counts. */
export function checkText(report: CheckReport): string {
  const { problems, corruptions, leaks, checkErrors, verdict, imageEnd } = report;
  const counted = (count: number, noun: string): string =>
    `${count} ${noun}${count === 1 ? '' : 's'}`;
  const more = corruptions + leaks + checkErrors - problems.length;
  const share = (count: number): string =>
    `${((100 * count) / Math.max(1, report.allocatedClusters)).toFixed(2)}%`;
  const lines = [
    ...problems.map(({ kind, sentence }) => `${kind}: ${sentence}`),
    ...(more > 0 && problems.length > 0 ? [`and ${more} more`] : []),
    verdict === 'clean'
      ? 'No errors were found.'
      : `Found ${counted(corruptions, 'corruption')}, ${counted(leaks, 'leaked cluster')}, ${counted(checkErrors, 'check error')}.`,
    `${report.allocatedClusters} of ${report.totalClusters} clusters are allocated, ${share(report.fragmentedClusters)} fragmented, ${share(report.compressedClusters)} compressed.`,
    `The image ends at ${sizeText(imageEnd)}.`,
  ];
  return `${lines.join('\n')}\n`;
}

/** What a comparison found, in a line or two. */
export function comparisonText({ difference, a, b }: Comparison): string {
  const sizeOf = ({ name, virtualSize }: ComparedInput): string =>
    `${name} ${virtualSize === undefined ? 'more' : sizeText(virtualSize)}`;
  const sizes = `The sizes differ: ${sizeOf(a)}, ${sizeOf(b)}.\n`;
  if (difference === undefined) {
    return `${a.virtualSize === b.virtualSize ? '' : sizes}The images are identical.\n`;
  }
  const { kind, offset } = difference;
  if (kind === 'size') return sizes;
  if (kind === 'allocation') return `What is allocated differs at offset ${offset}.\n`;
  const sector = offset - (offset % 512);
  return `The images differ at offset ${offset}${sector === offset ? '' : ` (in the sector at ${sector})`}.\n`;
}

/** One line of the map. */
export function extentLine({ kind, offset, length }: Extent): string {
  return `${`${offset}`.padStart(16)} ${`${length}`.padStart(16)} ${kind}\n`;
}

export const MAP_HEADING: string = `${'offset'.padStart(16)} ${'length'.padStart(16)} kind\n`;

/** Gathers extents into a strip of `width` cells for a disk of `size` bytes. */
export function makeStrip(
  width: number,
  size: number,
): { add(extent: Extent): void; text(isColoured: boolean): string } {
  const filled = new Float64Array(width);
  const cell = size / width;
  return {
    add({ kind, offset, length }): void {
      if (kind === 'zero' || size === 0) return;
      const end = offset + length;
      const last = Math.min(width - 1, Math.floor((end - 1) / cell));
      for (let at = Math.floor(offset / cell); at <= last; at++) {
        const share = Math.min(end, (at + 1) * cell) - Math.max(offset, at * cell);
        filled[at] = (filled[at] ?? 0) + share / cell;
      }
    },
    text(isColoured): string {
      let text = '';
      for (const share of filled) {
        const [sign, colour] =
          share === 0
            ? (['·', 'dim'] as const)
            : share < 0.5
              ? (['▒', 'blue'] as const)
              : share < 0.999
                ? (['▓', 'cyan'] as const)
                : (['█', 'green'] as const);
        text += isColoured ? styleText(colour, sign) : sign;
      }
      return `${text}\n`;
    },
  };
}
