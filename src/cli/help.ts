/** The help text: commands, options, exit statuses. */

import { imageOptions, resultOptions, toolOptions, type Option } from './options.ts';

/** The help text. */
export function helpText(): string {
  return `Usage: sparsecopy [OPTIONS] SOURCE DEST          copy the disk in SOURCE to DEST
       sparsecopy [OPTIONS] info IMAGE           what its headers and tables say
       sparsecopy [OPTIONS] map IMAGE            where its data lies
       sparsecopy [OPTIONS] check IMAGE          is it consistent (qcow2)
       sparsecopy [OPTIONS] compare A B          do both hold the same disk

SOURCE, IMAGE, A and B are disk images: raw or qcow2, also inside gzip, xz, lz4, zstd; a file, a block device,
or '-' (standard input). DEST is a raw file, written sparse, a device, or '-' (standard output).
A file called 'info', 'map', 'check' or 'compare' is './info' and so on.

Copying:
${linesOf(toolOptions)}
Images (compare: --format, --snapshot and --backing are for A only):
${linesOf(imageOptions)}
Results:
${linesOf(resultOptions)}
SIZE and POS count blocks, or bytes with a suffix: B (1), K (1024), M, G, T, P, E.

Exit status: 0 done; 1 usage; 2 SOURCE or IMAGE; 3 DEST; 4 cannot seek; 5 memory; 6 reading DEST; 9 writing;
10 setting the size of DEST; 11 --check found data; 12 SOURCE has more than --maxwrite.
check: 0 consistent; 1 could not be checked; 2 corrupt; 3 only leaked clusters; 63 a format that has no checks.
compare: 0 the same; 1 they differ; 2 usage, or A or B cannot be opened; 4 or read.
`;
}

function linesOf(options: readonly Option[]): string {
  return options
    .map(({ name, short, value, isOptional, help }) => {
      const argument = value === undefined ? '' : isOptional === true ? `[=${value}]` : ` ${value}`;
      const names = `${short === undefined ? '    ' : `-${short}, `}--${name}${argument}`;
      return `  ${names.padEnd(29)} ${help}\n`;
    })
    .join('');
}
