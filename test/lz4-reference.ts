/** LZ4 blocks and XXH32 once more: plain and slow, as the specifications tell them, to compare with. */

/** What a block holds, or why it is refused, and where in it. */
export type ReferenceResult =
  { readonly bytes: Buffer } | { readonly fault: string; readonly at: number };

/** Decodes `block`, whose matches may reach into `history`. */
export function referenceDecode(
  block: Uint8Array,
  history: Uint8Array,
  maximum: number,
): ReferenceResult {
  const content = [...history];
  const end = block.length;
  const full = history.length + maximum;
  let at = 0;

  /** The length that a token's `nibble` begins, or undefined when the block ends in it. */
  const lengthOf = (nibble: number): number | undefined => {
    let length = nibble;
    for (let more = nibble === 15 ? 255 : 0; more === 255; length += more) {
      const byte = block[at];
      if (byte === undefined) return undefined;
      more = byte;
      at++;
    }
    return length;
  };

  for (;;) {
    const token = block[at];
    if (token === undefined) return { fault: 'ends where a token should be', at };
    at++;
    const literals = lengthOf(token >>> 4);
    if (literals === undefined) return { fault: 'ends inside a length', at };
    const next = at + literals;
    if (content.length + literals > full) {
      return { fault: `decodes to more than ${maximum} bytes`, at: next };
    }
    if (next > end) return { fault: 'has literals past its end', at: end };
    for (; at < next; at++) content.push(block[at] ?? 0);
    if (at === end) return { bytes: Buffer.from(content.slice(history.length)) };
    // An offset, a token and the last 5 literals must follow.
    if (end - at < 2 + 1 + 5) return { fault: 'does not end with 5 literals', at };
    const offset = (block[at] ?? 0) + 256 * (block[at + 1] ?? 0);
    if (offset === 0 || offset > content.length) {
      return { fault: `has a match with offset ${offset} after ${content.length} bytes`, at };
    }
    at += 2;
    const match = lengthOf(token & 15);
    if (match === undefined) return { fault: 'ends inside a length', at };
    if (end - at < 1 + 5) return { fault: 'does not end with 5 literals', at };
    if (content.length + match + 4 > full) {
      return { fault: `decodes to more than ${maximum} bytes`, at };
    }
    for (let count = match + 4; count > 0; count--)
      content.push(content[content.length - offset] ?? 0);
  }
}

/** XXH32 with seed 0 of `bytes`, in whole numbers without a limit. */
export function referenceXxh32(bytes: Uint8Array): number {
  const [prime1, prime2, prime3, prime4, prime5] = [
    2654435761n,
    2246822519n,
    3266489917n,
    668265263n,
    374761393n,
  ];
  const word = (value: bigint): bigint => BigInt.asUintN(32, value);
  const rotate = (value: bigint, bits: bigint): bigint =>
    word((value << bits) | (value >> (32n - bits)));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lanes = [prime1 + prime2, prime2, 0n, -prime1].map(word);
  let at = 0;
  for (; at + 16 <= bytes.length; at += 16) {
    for (const [lane, value] of lanes.entries()) {
      const input = BigInt(view.getUint32(at + 4 * lane, true));
      lanes[lane] = word(rotate(word(value + input * prime2), 13n) * prime1);
    }
  }
  let hash = prime5;
  if (bytes.length >= 16) {
    hash = [1n, 7n, 12n, 18n].reduce(
      (sum, bits, lane) => sum + rotate(lanes[lane] ?? 0n, bits),
      0n,
    );
  }
  hash = word(hash + BigInt(bytes.length));
  for (; at + 4 <= bytes.length; at += 4) {
    hash = word(rotate(word(hash + BigInt(view.getUint32(at, true)) * prime3), 17n) * prime4);
  }
  for (; at < bytes.length; at++) {
    hash = word(rotate(word(hash + BigInt(view.getUint8(at)) * prime5), 11n) * prime1);
  }
  hash = word((hash ^ (hash >> 15n)) * prime2);
  hash = word((hash ^ (hash >> 13n)) * prime3);
  return Number(hash ^ (hash >> 16n));
}
