/** How results look to a person: the closing line, sizes, the description of an image, and its map as a strip of blocks. */

import { styleText } from 'node:util';
import type { Report } from '../copy.ts';
import type { ImageInfo } from '../inspect.ts';
import type { Extent } from '../types.ts';

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
  return lines
    .flatMap(([name, value]) => (value === undefined ? [] : [`${`${name}:`.padEnd(21)}${value}\n`]))
    .join('');
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
