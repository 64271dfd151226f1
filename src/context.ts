/** What a format is told besides the file: limits, secrets, and how what the image names is opened. */

import { SparsecopyError } from './errors.ts';
import { formats } from './format/index.ts';
import type { Limits } from './limits.ts';
import { countedSource, peel } from './peel.ts';
import { nextReferrer, resolvePath, type ReferenceOptions, type Referrer } from './references.ts';
import type { FileIdentity } from './stat.ts';
import type { Threads } from './threads.ts';
import type { FormatName, OpenContext, Policy, Reference, Source } from './types.ts';

/** What the caller tells of how the image is to be opened. */
export interface ContextOptions extends ReferenceOptions {
  /** How much the input is trusted: `untrusted` has smaller limits, and refuses what is ambiguous, nested or aliased. */
  readonly policy?: Policy | undefined;
  /** Limits that differ from those of the policy. */
  readonly limits?: Partial<Limits> | undefined;
  /** Read an image that is marked as corrupt. */
  readonly allowCorrupt?: boolean | undefined;
  /** Name or id of the internal snapshot to read instead of the disk as it is now. */
  readonly snapshot?: string | undefined;
  /** For an encrypted image, and for encrypted images that it refers to. */
  readonly passphrase?: string | Uint8Array | undefined;
}

/** The files that an image and its backing files refer to. */
export interface Referred {
  /** In bytes, of all together. */
  size: number;
  readonly identities: FileIdentity[];
}

/** What the format of `referrer`'s image is told; `count` is told what is read of the files that it names, for which `threads` help too. */
export function contextOf(
  options: ContextOptions,
  limits: Limits,
  referrer: Referrer,
  referred: Referred,
  threads: Threads,
  count: (length: number) => void,
): OpenContext {
  const { backing, passphrase, resolveReference, snapshot } = options;
  const isFirst = referrer.depth === 0;
  const mayOpen =
    referrer.allowedFolder !== undefined ||
    resolveReference !== undefined ||
    (isFirst && backing !== undefined);
  return {
    limits,
    threads,
    untrusted: options.policy === 'untrusted',
    allowCorrupt: options.allowCorrupt === true,
    passphrase: typeof passphrase === 'string' ? Buffer.from(passphrase) : passphrase,
    ...(isFirst ? { snapshot, hasOwnBacking: backing !== undefined } : {}),
    ...(mayOpen ? { openReference } : {}),
  };

  async function openReference(reference: Reference): Promise<Source> {
    const isOwn = isFirst && backing !== undefined && reference.kind === 'backing file';
    const given = isOwn ? backing : await resolveReference?.(reference.name, reference.format);
    const input = given ?? (await resolvePath(reference, referrer)).path;
    const file = await peel(
      input,
      { format: formatOf(reference, isOwn), decompress: false, policy: options.policy, threads },
      limits,
    );
    try {
      const path = typeof input === 'string' ? input : undefined;
      const next = nextReferrer(referrer, file.name, path, file.identity, limits.referenceDepth);
      const { source } = file.inside;
      if (source === undefined) {
        throw new SparsecopyError('SOURCE', `cannot seek, which a ${reference.kind} must`, {
          source: file.name,
        });
      }
      if (file.identity !== undefined) referred.identities.push(file.identity);
      referred.size += source.size;
      const context = contextOf(options, limits, next, referred, threads, count);
      const disk = await file.format.open(countedSource(source, count), context);
      return {
        ...disk,
        async [Symbol.asyncDispose](): Promise<void> {
          await disk[Symbol.asyncDispose]();
          await file[Symbol.asyncDispose]();
        },
      };
    } catch (error) {
      await Promise.resolve(file[Symbol.asyncDispose]()).catch(() => undefined);
      throw error;
    }
  }

  /** A data file is raw, whatever its bytes look like; the caller's own backing file is what it is. */
  function formatOf(reference: Reference, isOwn: boolean): FormatName | undefined {
    if (reference.kind === 'data file') return 'raw';
    if (isOwn || reference.format === undefined) return undefined;
    const known = formats.find(({ name }) => name === reference.format);
    if (known !== undefined) return known.name;
    throw new SparsecopyError(
      'UNSUPPORTED',
      `has a backing file of format ${JSON.stringify(reference.format)}, expected ${formats.map(({ name }) => name).join(' or ')}`,
      { source: referrer.name, feature: 'backing format', found: reference.format },
    );
  }
}
