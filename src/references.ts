/** Which other files an image may make us open: none, unless the caller allows it, and then in one folder only. */

import * as fs from 'node:fs';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { SparsecopyError, quoteUntrusted } from './errors.ts';
import type { Input } from './source/input.ts';
import { identityOf, kindOf, type FileIdentity } from './stat.ts';
import type { Reference } from './types.ts';

/** What the caller allows an image to name. */
export interface ReferenceOptions {
  /**
   * Open the backing and data files that an image names: `true` for those in the folder of the image (for an image without
   * a name, the working directory), or the folder in which they must lie. Default false: such an image is refused.
   */
  readonly allowReferences?: boolean | string | undefined;
  /** The backing file, whatever the image says; it may name others only where `allowReferences` lets it. */
  readonly backing?: Input | undefined;
  /** Called for each reference before `allowReferences` is asked; what it gives is opened, `undefined` leaves it to that. */
  readonly resolveReference?:
    | ((name: string, format: string | undefined) => Input | undefined | Promise<Input | undefined>)
    | undefined;
}

/** The image that names something, and those that led to it. */
export interface Referrer {
  /** For messages. */
  readonly name: string;
  /** Where its relative names start. */
  readonly folder: string;
  /** Where what it names must lie; `undefined` when nothing may be opened. */
  readonly allowedFolder: string | undefined;
  /** The files that led here, itself the last; those without an identity are left out. */
  readonly chain: readonly FileIdentity[];
  /** How many images led here. */
  readonly depth: number;
}

/** The first image: `path` is its name where it is a file. */
export function firstReferrer(
  name: string,
  path: string | undefined,
  identity: FileIdentity | undefined,
  { allowReferences = false }: ReferenceOptions,
): Referrer {
  const folder = path === undefined ? process.cwd() : dirname(resolve(path));
  return {
    name,
    folder,
    allowedFolder: allowReferences === true ? folder : allowReferences || undefined,
    chain: identity === undefined ? [] : [identity],
    depth: 0,
  };
}

/**
 * The path that `reference` means, links followed.
 * @throws SparsecopyError `REFERENCE` when it is not allowed, is no file name, names no file, or leads back to an image that
 * led here; `LIMIT` when the chain is too long.
 */
export async function resolvePath(
  reference: Reference,
  referrer: Referrer,
): Promise<{ readonly path: string; readonly identity: FileIdentity }> {
  const { kind, name } = reference;
  const refuse = (sentence: string, cause?: unknown): SparsecopyError =>
    new SparsecopyError('REFERENCE', `needs the ${kind} ${quoteUntrusted(name)}, ${sentence}`, {
      source: referrer.name,
      feature: kind,
      ...(cause === undefined ? {} : { cause }),
    });
  if (referrer.allowedFolder === undefined) throw refuse('which is not opened');
  if (name === '' || name.includes('\0')) throw refuse('which is no file name');
  // qemu takes what stands before a colon, and no slash before that, for a protocol: json:, nbd:, https:
  if (/^[^/]*:/.test(name)) throw refuse('and protocols are not followed');
  let path: string;
  let folder: string;
  let stats: fs.Stats;
  try {
    path = await fs.promises.realpath(resolve(referrer.folder, name));
    folder = await fs.promises.realpath(referrer.allowedFolder);
    stats = await fs.promises.stat(path);
  } catch (error) {
    throw refuse(`which cannot be opened: ${(error as Error).message}`, error);
  }
  const inside = relative(folder, path);
  if (inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)) {
    throw refuse(`which lies outside ${folder}, the folder that is allowed`);
  }
  const identity = identityOf(stats);
  if (identity === undefined) throw refuse(`which is ${kindOf(stats)}`);
  return { path, identity };
}

/** `referrer`'s successor, an image called `name` that it named. */
export function nextReferrer(
  referrer: Referrer,
  name: string,
  path: string | undefined,
  identity: FileIdentity | undefined,
  maxDepth: number,
): Referrer {
  if (identity !== undefined && referrer.chain.includes(identity)) {
    throw new SparsecopyError('REFERENCE', `leads back to ${name}, which led to it`, {
      source: referrer.name,
      feature: 'backing file',
    });
  }
  if (referrer.depth === maxDepth) {
    throw new SparsecopyError(
      'LIMIT',
      `is the last of ${maxDepth + 1} images that name each other`,
      {
        source: referrer.name,
        limit: 'referenceDepth',
        expected: maxDepth,
      },
    );
  }
  return {
    name,
    folder: path === undefined ? referrer.folder : dirname(resolve(path)),
    allowedFolder: referrer.allowedFolder,
    chain: identity === undefined ? referrer.chain : [...referrer.chain, identity],
    depth: referrer.depth + 1,
  };
}
