import { describe, expect, test } from 'vitest';
import { helpText } from '../src/cli/help.ts';
import {
  UsageError,
  imageOptions,
  parseCommandLine,
  resultOptions,
  type Option,
} from '../src/cli/options.ts';

function parsed(...argv: string[]): unknown[] {
  const { options, operands } = parseCommandLine(argv);
  return [Object.fromEntries(options), ...operands];
}

describe('getopt_long rules', () => {
  test.each<[string[], unknown[]]>([
    [
      ['a', 'b'],
      [{}, 'a', 'b'],
    ],
    [
      ['-f2G', '/dev/null', 'fs'],
      [{ finalsize: '2G' }, '/dev/null', 'fs'],
    ],
    [
      ['-f', '2G', 'a', 'b'],
      [{ finalsize: '2G' }, 'a', 'b'],
    ],
    [
      ['--finalsize=2G', 'a', 'b'],
      [{ finalsize: '2G' }, 'a', 'b'],
    ],
    [
      ['--finalsize', '2G', 'a', 'b'],
      [{ finalsize: '2G' }, 'a', 'b'],
    ],
    [
      ['-onq', 'a', 'b'],
      [{ overlay: '', nocheck: '', quiet: '' }, 'a', 'b'],
    ],
    [
      ['-qm1k', 'a', 'b'],
      [{ quiet: '', maxwrite: '1k' }, 'a', 'b'],
    ],
    [
      ['-qm', '1k', 'a', 'b'],
      [{ quiet: '', maxwrite: '1k' }, 'a', 'b'],
    ],
    [
      ['a', 'b', '-q'],
      [{ quiet: '' }, 'a', 'b'],
    ],
    [
      ['a', '-q', 'b'],
      [{ quiet: '' }, 'a', 'b'],
    ],
    [
      ['--', '-q', 'b'],
      [{}, '-q', 'b'],
    ],
    [
      ['-', 'b'],
      [{}, '-', 'b'],
    ],
    [
      ['-', '-'],
      [{}, '-', '-'],
    ],
    [
      ['--max=1k', '-', 'b'],
      [{ maxwrite: '1k' }, '-', 'b'],
    ],
    [
      ['--m', '1k', '-', 'b'],
      [{ maxwrite: '1k' }, '-', 'b'],
    ],
    [
      ['--over', '-', 'b'],
      [{ overlay: '' }, '-', 'b'],
    ],
    [
      ['-m1', '-m2', 'a', 'b'],
      [{ maxwrite: '2' }, 'a', 'b'],
    ],
    [
      ['--format=a=b', 'a', 'b'],
      [{ format: 'a=b' }, 'a', 'b'],
    ],
    [
      ['--passphrase', '--strict', 'a', 'b'],
      [{ passphrase: '--strict' }, 'a', 'b'],
    ],
    [
      ['--passphrase=a=b', 'a', 'b'],
      [{ passphrase: 'a=b' }, 'a', 'b'],
    ],
    [
      ['--passphrase=', 'a', 'b'],
      [{ passphrase: '' }, 'a', 'b'],
    ],
    [
      ['--snapshot', 'before', '--backing', 'base', '--temp-dir=/tmp', '--untrusted', 'a', 'b'],
      [{ snapshot: 'before', backing: 'base', 'temp-dir': '/tmp', untrusted: '' }, 'a', 'b'],
    ],
    [
      ['compare', '--strict', 'a', 'b'],
      [{ strict: '' }, 'compare', 'a', 'b'],
    ],
    // getopt_long's optional_argument: only what is attached.
    [
      ['--allow-references', 'a', 'b'],
      [{ 'allow-references': '' }, 'a', 'b'],
    ],
    [
      ['--allow-references=dir', 'a', 'b'],
      [{ 'allow-references': 'dir' }, 'a', 'b'],
    ],
    [
      ['a', 'b', '--allow-references'],
      [{ 'allow-references': '' }, 'a', 'b'],
    ],
    [
      ['--allow-references', '-q', 'a', 'b'],
      [{ 'allow-references': '', quiet: '' }, 'a', 'b'],
    ],
    [
      ['--finalsize=', 'a', 'b'],
      [{ finalsize: '' }, 'a', 'b'],
    ],
  ])('%j', (argv, expected) => {
    expect(parsed(...argv)).toEqual(expected);
  });

  // Our own options must not take a prefix away that the C tool understands.
  test.each([
    ['--f=1', 'finalsize'],
    ['--n', 'nocheck'],
    ['--no', 'nocheck'],
    ['--c', 'check'],
    ['--p', 'progress'],
    ['--h', 'help'],
    ['--e', 'errorremainder'],
    ['--se=1', 'seek'],
    ['--sy=1', 'syncevery'],
    ['--no-d', 'no-decompress'],
    ['--fo=raw', 'format'],
    ['--j', 'json'],
    ['--v', 'version'],
    ['--b=1', 'blocksize'],
    ['--ba=x', 'backing'],
    ['--sn=x', 'snapshot'],
    ['--st', 'strict'],
    ['--u', 'untrusted'],
    ['--te=x', 'temp-dir'],
    ['--th=2', 'threads'],
    ['--allow-r', 'allow-references'],
    ['--allow-r=x', 'allow-references'],
    ['--allow-c', 'allow-corrupt'],
    ['--passphrase=x', 'passphrase'],
    ['--passphrase-f=x', 'passphrase-file'],
    ['--pr', 'progress'],
    ['--che', 'check'],
  ])('%s is --%s', (word, name) => {
    expect([...parseCommandLine([word]).options.keys()]).toEqual([name]);
  });

  test.each([
    [['-x']],
    [['--unknown']],
    [['-m']],
    [['--maxwrite']],
    [['--quiet=yes']],
    [['--s', '1']],
    [['-qx']],
    [['--strict=yes']],
    [['--untrusted=no']],
    [['--allow']],
    [['--pass=x']],
    [['--allow-references=']],
    [['--passphrase']],
    [['--passphrase-file']],
    [['--snapshot']],
    [['--backing']],
    [['--temp-dir']],
    [['--threads']],
    [['--t=x']],
    [['-t', '/tmp']],
  ])('%j is refused', (argv) => {
    expect(() => parsed(...argv)).toThrow(UsageError);
  });
});

describe('the help', () => {
  test('names every option of the C tool', () => {
    for (const short of 'onqmebsfcpyh')
      expect(helpText()).toMatch(new RegExp(`^ {2}-${short}, --`, 'm'));
  });

  test('names every option of ours, with its value', () => {
    for (const { name, value } of [...imageOptions, ...resultOptions] as readonly Option[]) {
      const shown = value === undefined ? '' : `(\\[=${value}\\]| ${value})`;
      expect(helpText()).toMatch(new RegExp(`^ {6}--${name}${shown} +\\S`, 'm'));
    }
    expect(helpText()).toContain('--allow-references[=DIR] ');
  });

  test('names every command and every exit status', () => {
    for (const command of ['info IMAGE', 'map IMAGE', 'check IMAGE', 'compare A B'])
      expect(helpText()).toContain(`sparsecopy [OPTIONS] ${command} `);
    const [, statuses = ''] = helpText().split('Exit status:');
    const [copy = '', check = '', compare = ''] = statuses.split(/^(?=check:|compare:)/m);
    const numbers = (text: string): string => (text.match(/\b\d+(?= )/g) ?? []).join(' ');
    expect(numbers(copy)).toBe('0 1 2 3 4 5 6 9 10 11 12');
    expect(numbers(check)).toBe('0 1 2 3 63');
    expect(numbers(compare)).toBe('0 1 2 4');
  });

  test('fits a terminal of 120 columns', () => {
    for (const line of helpText().split('\n')) expect(line.length).toBeLessThanOrEqual(120);
  });
});
