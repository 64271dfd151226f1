/** The table of the command's options, and their parsing by the rules of getopt_long. */

/** One option; `value` names its argument in the help, and its absence means that it takes none. */
export interface Option {
  readonly name: string;
  readonly short?: string;
  readonly value?: string;
  /** The value may be left out; it is given by `=` only, as getopt_long's optional_argument. */
  readonly isOptional?: true;
  readonly help: string;
}

/** The C tool's options. Prefixes that mean one of these keep meaning it, whatever is added below. */
export const toolOptions = [
  { name: 'overlay', short: 'o', help: 'lay SOURCE over an existing DEST instead of replacing it' },
  { name: 'nocheck', short: 'n', help: 'trust that DEST is zero where SOURCE is: do not read it' },
  { name: 'quiet', short: 'q', help: 'no closing line; of check and compare the exit status only' },
  { name: 'maxwrite', short: 'm', value: 'SIZE', help: 'copy at most SIZE of SOURCE' },
  { name: 'errorremainder', short: 'e', help: 'fail when SOURCE has more than --maxwrite' },
  {
    name: 'blocksize',
    short: 'b',
    value: 'SIZE',
    help: 'what counts as a zero block (default 512 bytes)',
  },
  { name: 'seek', short: 's', value: 'POS', help: 'start writing at POS in DEST' },
  {
    name: 'finalsize',
    short: 'f',
    value: 'SIZE',
    help: 'set the size of DEST at the end (not of a device)',
  },
  { name: 'check', short: 'c', help: 'the first block of DEST must be zero, else abort' },
  {
    name: 'progress',
    short: 'p',
    help: 'draw a progress bar on standard error if it is a terminal',
  },
  { name: 'syncevery', short: 'y', value: 'SIZE', help: 'fdatasync each SIZE bytes written' },
  { name: 'help', short: 'h', help: 'this text' },
] as const satisfies readonly Option[];

/** Our own options on how an image is opened. */
export const imageOptions = [
  { name: 'format', value: 'FORMAT', help: 'raw or qcow2; by default it is recognised' },
  { name: 'no-decompress', help: 'do not peel compressions off' },
  { name: 'snapshot', value: 'NAME', help: 'read this internal snapshot (name or id, see info)' },
  { name: 'backing', value: 'PATH', help: 'the backing file, whatever the image says' },
  {
    name: 'allow-references',
    value: 'DIR',
    isOptional: true,
    help: "open what the image names, in DIR (default the image's folder)",
  },
  { name: 'passphrase-file', value: 'FILE', help: 'of an encrypted image; - is standard input' },
  { name: 'passphrase', value: 'TEXT', help: 'the same, seen by who can list processes' },
  { name: 'allow-corrupt', help: 'read an image that is marked as corrupt' },
  { name: 'untrusted', help: 'smaller limits; refuse what is ambiguous, nested or aliased' },
  {
    name: 'max-ratio',
    value: 'NUMBER',
    help: 'data for each byte of the image (default 1000, untrusted 100)',
  },
  { name: 'temp-dir', value: 'DIR', help: 'for what neither passes once nor fits into memory' },
  {
    name: 'threads',
    value: 'N',
    help: 'helpers, 0 for none (default $SPARSECOPY_THREADS, or cores)',
  },
] as const satisfies readonly Option[];

/** Our own options on what comes of it. */
export const resultOptions = [
  { name: 'strict', help: 'compare: sizes and what is allocated must be equal, too' },
  { name: 'no-sync', help: 'copy: do not wait until DEST is on the disk' },
  { name: 'json', help: 'print the result as JSON on standard output' },
  { name: 'version', help: 'print the version' },
] as const satisfies readonly Option[];

const allOptions: readonly Option[] = [...toolOptions, ...imageOptions, ...resultOptions];

/** The names of all options. */
export type OptionName =
  | (typeof toolOptions)[number]['name']
  | (typeof imageOptions)[number]['name']
  | (typeof resultOptions)[number]['name'];

export interface CommandLine {
  /** Given options; the text of those that take a value, '' where there is none. The last one wins. */
  readonly options: ReadonlyMap<OptionName, string>;
  readonly operands: readonly string[];
}

/** What is wrong with a command line, in one sentence. */
export class UsageError extends Error {}

/**
 * Parses by getopt_long's rules: bundled short options, values attached or following, `--name=value`, unambiguous
 * prefixes, options after operands, `--`.
 * @throws UsageError
 */
export function parseCommandLine(argv: readonly string[]): CommandLine {
  const options = new Map<OptionName, string>();
  const operands: string[] = [];
  const rest = [...argv];
  const valueOf = (option: Option, attached: string | undefined, shown: string): string => {
    if (option.value === undefined) {
      if (attached !== undefined) throw new UsageError(`option '${shown}' does not take a value`);
      return '';
    }
    if (option.isOptional === true) {
      // An empty variable after the '=' must not mean the same as no '=' at all.
      if (attached === '') throw new UsageError(`option '${shown}' needs a value after its '='`);
      return attached ?? '';
    }
    const value = attached ?? rest.shift();
    if (value === undefined) throw new UsageError(`option '${shown}' needs a value`);
    return value;
  };

  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '--') operands.push(...rest.splice(0));
    else if (word.startsWith('--')) {
      const [name = '', ...values] = word.slice(2).split('=');
      const option = findLong(name);
      const attached = values.length === 0 ? undefined : values.join('=');
      options.set(option.name as OptionName, valueOf(option, attached, `--${option.name}`));
    } else if (word.startsWith('-') && word !== '-') {
      for (let letters = word.slice(1); letters !== ''; letters = letters.slice(1)) {
        const short = letters.charAt(0);
        const option = allOptions.find((candidate) => candidate.short === short);
        if (option === undefined) throw new UsageError(`unknown option '-${short}'`);
        const attached = letters.slice(1);
        const takesRest = option.value !== undefined && attached !== '';
        options.set(
          option.name as OptionName,
          valueOf(option, takesRest ? attached : undefined, `-${short}`),
        );
        if (takesRest) break;
      }
    } else operands.push(word);
  }
  return { options, operands };
}

/** The option called `name`, or the only one that starts so, the C tool's before our own. */
function findLong(name: string): Option {
  const exact = allOptions.find((option) => option.name === name);
  if (exact !== undefined) return exact;
  for (const table of [toolOptions, allOptions]) {
    const matches = table.filter((option) => option.name.startsWith(name));
    const [match] = matches;
    if (match !== undefined && matches.length === 1) return match;
    if (matches.length > 1) {
      const names = matches.map((option) => `--${option.name}`).join(', ');
      throw new UsageError(`option '--${name}' is ambiguous: ${names}`);
    }
  }
  throw new UsageError(`unknown option '--${name}'`);
}
