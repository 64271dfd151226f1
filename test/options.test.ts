import { describe, expect, test } from 'vitest';
import { UsageError, helpText, parseCommandLine } from '../src/cli/options.ts';

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
  ])('%j is refused', (argv) => {
    expect(() => parsed(...argv)).toThrow(UsageError);
  });
});

test('the help names every option of the C tool', () => {
  for (const short of 'onqmebsfcpyh')
    expect(helpText()).toMatch(new RegExp(`^ {2}-${short}, --`, 'm'));
});
