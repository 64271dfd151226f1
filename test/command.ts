/** Runs the built command as a user's shell does. */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';

/** The built command; `npm test` builds it first. */
const commandPath: string = join(import.meta.dirname, '..', 'dist', 'sparsecopy.js');

export interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: Uint8Array;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
}

/** Runs the command to its end. */
export function command(args: readonly string[], options: CommandOptions = {}): Outcome {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [commandPath, ...args], {
    input: options.input ?? '',
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    maxBuffer: 2 ** 30,
  });
  return { status, signal, stdout: stdout.toString('latin1'), stderr: stderr.toString() };
}

/** Runs `line` in a shell, where `$SC` is the command; as `command` does otherwise. */
export function shell(line: string, options: CommandOptions = {}): Outcome {
  const { status, signal, stdout, stderr } = spawnSync('bash', ['-o', 'pipefail', '-c', line], {
    input: options.input ?? '',
    cwd: options.cwd,
    env: { ...process.env, ...options.env, SC: `${process.execPath} ${commandPath}` },
    maxBuffer: 2 ** 30,
  });
  return { status, signal, stdout: stdout.toString('latin1'), stderr: stderr.toString() };
}

/** Starts the command; its standard input is a pipe. */
export function startCommand(args: readonly string[]): ChildProcess & { ended: Promise<Outcome> } {
  const child = spawn(process.execPath, [commandPath, ...args], { stdio: 'pipe' });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (piece: Buffer) => (stdout += piece.toString('latin1')));
  child.stderr.on('data', (piece: Buffer) => (stderr += piece.toString()));
  child.stdin.on('error', () => undefined);
  const ended = new Promise<Outcome>((resolve) => {
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
  return Object.assign(child, { ended });
}
