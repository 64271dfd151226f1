/** Makes the system read a device's partition table again, which Node has no call for. */

import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** udev and others look at a device that was just closed; they are done in well under a second. */
const TRIES = 10;
const PAUSE_MS = 100;

/**
 * Runs `blockdev --rereadpt` on the device `path`, again while it is busy. The device must not be held open exclusively.
 * Gives false when the table was not read again (no such command, a device without partitions, still busy): the copy
 * itself stands all the same.
 */
export async function rereadPartitionTable(path: string): Promise<boolean> {
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      await run('blockdev', ['--rereadpt', path], {
        env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
      });
      return true;
    } catch (error) {
      const { stderr } = error as { stderr?: string };
      if (stderr?.includes('busy') !== true) return false;
      await sleep(PAUSE_MS);
    }
  }
  return false;
}
