/** Standard input from a pipe: read ahead as far as may be, and let go of when nobody wants it. */

import { spawn } from 'node:child_process';
import { constants, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import { pipeBytes } from '../src/source/pipe.ts';
import { noise, tempDir } from './helpers.ts';
import { run } from './native.ts';

const MiB = 2 ** 20;

/** The reading end of a pipe to which a shell writes what `line` gives. */
function pipeFrom(line: string): { fd: number; pid: number } {
  const folder = tempDir();
  const path = join(folder, 'pipe');
  run('mkfifo', [path]);
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const child = spawn('sh', ['-c', `exec ${line} > ${path}`], { stdio: 'ignore' });
  onTestFinished(() => void child.kill('SIGKILL'));
  return { fd, pid: child.pid ?? 0 };
}

/** Bytes that a process has written so far. */
function written(pid: number): number {
  return Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);
}

describe('pipeBytes', () => {
  test('gives all bytes in order, however fast they are taken', async () => {
    const content = noise(20 * MiB + 12_345);
    const path = join(tempDir(), 'content');
    writeFileSync(path, content);
    for (const pause of [0, 1]) {
      const pieces: Uint8Array[] = [];
      for await (const piece of pipeBytes(pipeFrom(`cat ${path}`).fd)) {
        pieces.push(piece);
        if (pause > 0 && pieces.length % 8 === 0) await sleep(pause);
      }
      expect(Buffer.concat(pieces).equals(content)).toBe(true);
    }
  });

  test('reads ahead, but not for ever', async () => {
    const { fd, pid } = pipeFrom('head -c 200M /dev/zero');
    const bytes = pipeBytes(fd);
    await bytes.next();
    await sleep(1000);
    expect(written(pid)).toBeGreaterThan(3 * MiB);
    expect(written(pid)).toBeLessThan(8 * MiB);
    let length = 0;
    for await (const piece of bytes) {
      length += piece.length;
      if (length > 100 * MiB) break;
    }
    expect((await bytes.next()).done).toBe(true);
  });

  test('ends the wait for what never comes', async () => {
    const bytes = pipeBytes(pipeFrom('sleep 100').fd);
    const next = bytes.next();
    await sleep(50);
    await bytes.return?.();
    expect((await next).done).toBe(true);
  });
});
