/** A qcow2 image read in one pass: its disk, from a file that comes once, from its start to its end. */

import { makePool } from '../../chunk/pool.ts';
import { SparsecopyError } from '../../errors.ts';
import { makeParking } from '../../parking.ts';
import type {
  Bypass,
  Chunk,
  ChunkPool,
  ImageDetails,
  PassContext,
  PassingDisk,
  Run,
} from '../../types.ts';
import { makeAssembly, type Assembly } from './assembly.ts';
import { makeClaims } from './claims.ts';
import { makeDecoder, placerFor } from './decoder.ts';
import { detailsOf, hasDataFile, hasLuks, refuseUnreadable } from './features.ts';
import { parseHeader, type Header } from './header.ts';
import { isInPlace, layoutOf, misplaced, type Layout } from './layout.ts';
import { makePasser, type PasserParts } from './passer.ts';

/**
 * As `Format.pass`: the disk of a qcow2 image that passes once. `undefined` for a snapshot of it, where its data are in another
 * file, and where its L1 table comes late, as in an image that was resized.
 *
 * The header tells where the L1 table is, that where the L2 tables are, and these where data are. Whatever comes before it is
 * known whose it is, is parked; what is known is taken as it passes. Checks are those of `open`, each as soon as it can be
 * made: that something lies beyond the end of the file is an error at its end.
 * @throws SparsecopyError as `open` does; also `UNSUPPORTED`, from `chunks`, where something that has passed turns out to have
 * a second owner, which no writer makes.
 */
export async function passQcow2(
  file: AsyncIterable<Run>,
  head: Uint8Array,
  context: PassContext,
): Promise<PassingDisk | undefined> {
  const { hasOwnBacking, limits, name, signal, snapshot, tempDir, untrusted } = context;
  const header = parseHeader(head, name, limits);
  refuseUnreadable(header, name, context);
  if (snapshot !== undefined || hasDataFile(header)) return undefined;
  // All before it would go to a temporary file, and that costs less done at once.
  if (header.l1Offset > limits.parkedSize) return undefined;
  const layout = layoutOf(header, name, Infinity);
  const encryption = await openCrypto(header, layout, context);
  const claims = untrusted === true ? makeClaims(layout, limits) : undefined;
  const decode = await makeDecoder(header, context, undefined);
  const needsBacking = header.backingFile !== undefined || hasOwnBacking === true;
  const backing = needsBacking
    ? await context.openReference?.({
        kind: 'backing file',
        name: header.backingFile ?? '',
        format: header.backingFormat,
      })
    : undefined;
  const parking = makeParking({ limit: limits.parkedSize, folder: tempDir });
  const out: Chunk[] = [];
  let details: ImageDetails = detailsOf(header);
  let assembly: Assembly | undefined;
  let input: AsyncIterator<Run> | undefined = file[Symbol.asyncIterator]();

  async function* chunks(
    pool: ChunkPool = makePool(),
    bypass?: Bypass,
  ): AsyncGenerator<Chunk, void, void> {
    assembly = makeAssembly(pool, layout);
    const placer = placerFor(header, context, bypass);
    const passer = makePasser({
      layout,
      refcountTableOffset: header.refcountTableOffset,
      limits,
      decode,
      placer,
      ...encryption,
      backing,
      claims,
      parking,
      assembly,
      pass: (chunk) => out.push(chunk),
    });
    async function* steps(by: Assembly): AsyncGenerator<Chunk, void, void> {
      for (let goesOn = true; goesOn;) {
        signal?.throwIfAborted();
        const step = passer.step();
        goesOn = typeof step === 'boolean' ? step : await step;
        for (let chunk = out.shift(); chunk !== undefined; chunk = out.shift()) yield chunk;
        while (by.isReady) for (const chunk of await by.take()) yield chunk;
      }
    }
    try {
      for (let next = await input?.next(); next?.done === false; next = await input?.next()) {
        passer.file.push(next.value);
        yield* steps(assembly);
      }
      input = undefined;
      passer.end();
      yield* steps(assembly);
      if (!passer.isDone) throw new TypeError('the file has ended, and there is more to be done');
      assembly.end();
      for (let more = await assembly.take(); more.length > 0; more = await assembly.take()) {
        yield* more;
      }
      await placer?.end();
      details = { ...details, allocatedSize: passer.allocatedSize };
    } finally {
      await placer?.settle();
      await assembly.settle();
      await passer.close();
    }
  }

  return {
    get details(): ImageDetails {
      return details;
    },
    size: layout.virtualSize,
    chunks,
    parked: parking.parked,
    async [Symbol.asyncDispose](): Promise<void> {
      await assembly?.settle();
      await parking[Symbol.asyncDispose]();
      const rest = input;
      input = undefined;
      await rest?.return?.();
      await backing?.[Symbol.asyncDispose]();
    },
  };
}

/**
 * What makes encrypted clusters readable: a decryptor, or the place of the header that is needed for one.
 * @throws SparsecopyError `CORRUPT`, `LIMIT` for that place; what `makeDecryptor` throws.
 */
async function openCrypto(
  header: Header,
  layout: Layout,
  { limits, name, passphrase }: PassContext,
): Promise<Pick<PasserParts, 'crypto' | 'decryptor'>> {
  if (header.cryptMethod === 0) return { crypto: undefined, decryptor: undefined };
  // Loaded by images that need it.
  const { makeDecryptor } = await import('./crypt.ts');
  const place = hasLuks(header) ? header.cryptoHeader : undefined;
  if (place === undefined || passphrase === undefined) {
    const decryptor = await makeDecryptor(undefined, header, name, passphrase, limits);
    return { crypto: undefined, decryptor };
  }
  const { offset, length } = place;
  const most = limits.qcow2CryptoHeaderSize;
  if (length > most) {
    throw new SparsecopyError(
      'LIMIT',
      `encryption header has ${length} bytes, at most ${most} are allowed`,
      { source: name, limit: 'qcow2CryptoHeaderSize', expected: most, found: length },
    );
  }
  if (!isInPlace(layout, offset, length)) {
    throw misplaced(layout, 'encryption header', offset, length);
  }
  const open: NonNullable<PasserParts['crypto']>['open'] = (bytes) =>
    makeDecryptor(bytes, header, name, passphrase, limits);
  return { crypto: { offset, length, open }, decryptor: undefined };
}
