import { expect, test } from 'vitest';
import { parseSize } from '../src/cli/size.ts';

test.each([
  ['1', 512, 512],
  ['1', 2048, 2048],
  ['0', 512, 0],
  ['100b', 512, 100],
  ['100B', 512, 100],
  ['4k', 512, 4096],
  ['4K', 512, 4096],
  ['4KiB', 512, 4096],
  ['1MB', 512, 2 ** 20],
  ['2G', 512, 2 ** 31],
  ['1t', 512, 2 ** 40],
  ['1p', 512, 2 ** 50],
  ['1e', 512, undefined],
  ['0e', 512, 0],
  ['9007199254740993b', 512, undefined],
  ['', 512, undefined],
  ['k', 512, undefined],
  ['-1', 512, undefined],
  ['1.5k', 512, undefined],
  ['1z', 512, undefined],
  [' 1', 512, undefined],
  ['0x10', 512, undefined],
])('size %j at block size %i is %s', (text, blockSize, size) => {
  expect(parseSize(text, blockSize)).toBe(size);
});
