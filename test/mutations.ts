/** Damages images and streams, from a seed: the same seed makes the same mutant of the same file. */

/** What a file is damaged as. */
export type Kind = 'qcow2' | 'gzip' | 'xz' | 'lz4' | 'zstd';

/** An integer in a file. */
export interface Field {
  readonly at: number;
  readonly width: 1 | 2 | 4 | 8;
  readonly littleEndian: boolean;
}

/** A file to be damaged, with what is known of its structure. */
export interface Base {
  readonly name: string;
  readonly kind: Kind;
  readonly bytes: Buffer;
  readonly fields: readonly Field[];
  /** Where a structure starts or ends, ascending. */
  readonly boundaries: readonly number[];
}

export interface Mutant {
  readonly bytes: Buffer;
  /** What was done, in order. */
  readonly steps: readonly string[];
}

/** Numbers that look random and are the same for each `seed`. */
export interface Random {
  /** 0 to `limit` - 1. */
  below(limit: number): number;
  pick<T>(list: readonly T[]): T;
  /** True once in `count` times. */
  once(count: number): boolean;
}

/** splitmix32: any seed will do, neighbouring ones too. */
export function makeRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = state ^ (state >>> 16);
    mixed = Math.imul(mixed, 0x21f0aaad);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  const below = (limit: number): number => Math.floor((next() / 2 ** 32) * limit);
  return {
    below,
    pick<T>(list: readonly T[]): T {
      if (list.length === 0) throw new RangeError('there is nothing to pick from');
      return list[below(list.length)] as T;
    },
    once: (count) => below(count) === 0,
  };
}

/** The values at which arithmetic on fields goes wrong: qemu's image fuzzer has the same. */
export const VECTOR: readonly bigint[] = [
  0n,
  1n,
  2n,
  ...[7n, 8n, 9n, 15n, 16n, 21n, 31n, 32n, 47n, 53n, 56n, 61n, 62n, 63n].flatMap((bit) => [
    (1n << bit) - 1n,
    1n << bit,
    (1n << bit) + 1n,
  ]),
  (1n << 64n) - 1n,
];

function readField(bytes: Buffer, { at, width, littleEndian }: Field): bigint {
  let value = 0n;
  for (let index = 0; index < width; index++) {
    value = (value << 8n) | BigInt(bytes[littleEndian ? at + width - 1 - index : at + index] ?? 0);
  }
  return value;
}

/** Writes the low bits of `value`; what lies past the end of `bytes` is left out. */
export function writeField(bytes: Buffer, field: Field, value: bigint): void {
  const { at, width, littleEndian } = field;
  for (let index = 0; index < width; index++) {
    const place = littleEndian ? at + index : at + width - 1 - index;
    if (place < bytes.length) bytes[place] = Number((value >> BigInt(8 * index)) & 0xffn);
  }
}

/** Every field of a qcow2 header, version 3: offset and width. Specification: "Header". */
const QCOW2_HEADER: readonly (readonly [number, Field['width']])[] = [
  [0, 4], // magic
  [4, 4], // version
  [8, 8], // backing_file_offset
  [16, 4], // backing_file_size
  [20, 4], // cluster_bits
  [24, 8], // size
  [32, 4], // crypt_method
  [36, 4], // l1_size
  [40, 8], // l1_table_offset
  [48, 8], // refcount_table_offset
  [56, 4], // refcount_table_clusters
  [60, 4], // nb_snapshots
  [64, 8], // snapshots_offset
  [72, 8], // incompatible_features
  [80, 8], // compatible_features
  [88, 8], // autoclear_features
  [96, 4], // refcount_order
  [100, 4], // header_length
  [104, 1], // compression_type
];

/** So many entries of a table are known as fields. */
const ENTRIES = 64;

const big = (at: number, width: Field['width']): Field => ({ at, width, littleEndian: false });
const little = (at: number, width: Field['width']): Field => ({ at, width, littleEndian: true });

/** The fields of an image that is sound; whatever is not is left out. */
function qcow2Fields(bytes: Buffer): { fields: Field[]; boundaries: number[] } {
  const value = (at: number, width: Field['width']): number =>
    Number(readField(bytes, big(at, width)));
  const fields = QCOW2_HEADER.map(([at, width]) => big(at, width));
  const version = value(4, 4);
  const clusterSize = 2 ** Math.min(value(20, 4), 21);
  const offsetOf = (entry: number): number =>
    Number(readField(bytes, big(entry, 8)) & 0x00fffffffffffe00n);
  const boundaries = new Set<number>(fields.map(({ at }) => at));

  // header extensions: type, length, data padded to 8 bytes
  for (let at = version === 2 ? 72 : value(100, 4), count = 0; count < 16; count++) {
    if (at + 8 > Math.min(clusterSize, bytes.length)) break;
    fields.push(big(at, 4), big(at + 4, 4));
    boundaries.add(at);
    boundaries.add(at + 8);
    if (value(at, 4) === 0) break;
    // what is inside is different for each type; offsets and sizes come first in those that have any
    if (value(at + 4, 4) >= 8) fields.push(big(at + 8, 8));
    if (value(at + 4, 4) >= 16) fields.push(big(at + 16, 8));
    at += 8 + Math.ceil(value(at + 4, 4) / 8) * 8;
  }

  const entrySize = version >= 3 && (value(72, 8) & 16) !== 0 ? 16 : 8;
  const l1Offset = value(40, 8);
  for (let index = 0; index < Math.min(value(36, 4), ENTRIES); index++) {
    const entry = l1Offset + 8 * index;
    fields.push(big(entry, 8));
    const table = offsetOf(entry);
    if (table === 0) continue;
    const end = Math.min(table + clusterSize, bytes.length);
    for (let l2Entry = table; l2Entry < end && fields.length < 512; l2Entry += entrySize) {
      const word = readField(bytes, big(l2Entry, 8));
      // most tables are mostly empty: a few of the empty entries will do
      if (word === 0n && (l2Entry / entrySize) % 16 !== 0) continue;
      fields.push(big(l2Entry, 8));
      if (entrySize === 16) fields.push(big(l2Entry + 8, 8));
      if ((word >> 62n) & 1n) {
        // the first bytes of the compressed data: block type, magic, window
        const data = Number(word & ((1n << (62n - BigInt(Math.log2(clusterSize) - 8))) - 1n));
        fields.push(little(data, 1), little(data, 4), little(data + 4, 1));
        boundaries.add(data);
      }
    }
  }

  const snapshots = value(64, 8);
  if (value(60, 4) > 0) {
    for (const [at, width] of [
      [0, 8], // l1_table_offset
      [8, 4], // l1_size
      [12, 2], // length of the id
      [14, 2], // length of the name
      [16, 4], // date_sec
      [24, 8], // vm_clock_nsec
      [32, 4], // vm_state_size
      [36, 4], // size of the extra data
      [40, 8], // vm_state_size, 64 bits
      [48, 8], // disk_size
    ] as const) {
      fields.push(big(snapshots + at, width));
    }
  }
  const refcountTable = value(48, 8);
  for (const entry of [refcountTable, refcountTable + 8]) {
    fields.push(big(entry, 8));
    if (offsetOf(entry) > 0) fields.push(big(offsetOf(entry), 2), big(offsetOf(entry) + 8, 2));
  }
  for (let at = clusterSize; at < bytes.length; at += clusterSize) boundaries.add(at);
  return { fields, boundaries: [...boundaries] };
}

/** Headers and trailers of a compressed stream, as bytes and as words at any place. */
function streamFields(bytes: Buffer): { fields: Field[]; boundaries: number[] } {
  const fields: Field[] = [];
  const places = new Set<number>();
  for (let at = 0; at < Math.min(40, bytes.length); at++) places.add(at);
  for (let at = Math.max(0, bytes.length - 40); at < bytes.length; at++) places.add(at);
  for (const at of places) {
    fields.push(little(at, 1));
    if (at + 2 <= bytes.length) fields.push(little(at, 2));
    if (at + 4 <= bytes.length) fields.push(little(at, 4));
    if (at + 8 <= bytes.length) fields.push(little(at, 8));
  }
  return { fields, boundaries: [...places] };
}

export function makeBase(name: string, kind: Kind, bytes: Buffer): Base {
  const { fields, boundaries } = kind === 'qcow2' ? qcow2Fields(bytes) : streamFields(bytes);
  return {
    name,
    kind,
    bytes,
    fields: fields.filter(({ at, width }) => at + width <= bytes.length),
    boundaries: [...new Set([0, ...boundaries, bytes.length])]
      .filter((at) => at <= bytes.length)
      .sort((a, b) => a - b),
  };
}

/** Where each structure of `base` starts or ends, one byte before, and one after; and each `step` bytes. */
export function cuts({ bytes, boundaries }: Base, step = 512): number[] {
  const places = new Set<number>();
  for (const at of boundaries) for (const place of [at - 1, at, at + 1]) places.add(place);
  for (let at = 0; at < bytes.length; at += step) places.add(at);
  return [...places].filter((at) => at >= 0 && at < bytes.length).sort((a, b) => a - b);
}

/** Largest mutant: some steps make a file longer. */
const LARGEST = 2 ** 20;

type Step = (
  bytes: Buffer,
  base: Base,
  random: Random,
  others: readonly Base[],
) => [Buffer, string];

const overwrite: Step = (bytes, { fields }, random) => {
  const field = random.pick(fields);
  const value = random.pick(VECTOR);
  writeField(bytes, field, value);
  return [bytes, `${field.width} bytes at ${field.at} = ${value}`];
};

const nudge: Step = (bytes, { fields }, random) => {
  const field = random.pick(fields);
  const by = random.pick([1n, -1n, 2n, 8n, -8n, 512n, -512n, 4096n, 65_536n, -65_536n, 1n << 20n]);
  writeField(bytes, field, readField(bytes, field) + by);
  return [bytes, `${field.width} bytes at ${field.at} changed by ${by}`];
};

/** An entry that refers to some place in the file: what it says is possible, and wrong. */
const repoint: Step = (bytes, base, random) => {
  const fields = base.fields.filter(({ width, littleEndian }) => width === 8 && !littleEndian);
  if (fields.length === 0) return overwrite(bytes, base, random, []);
  const field = random.pick(fields);
  const unit = random.pick([1, 512, 512, 512, 4096, 65_536]);
  const place = BigInt(random.below(bytes.length / unit + 1) * unit);
  const flags = random.pick([0n, 1n << 63n, 1n << 63n, 1n << 62n, 5n << 61n, 1n]);
  const value = place | flags;
  writeField(bytes, field, value);
  return [bytes, `8 bytes at ${field.at} = ${value}`];
};

const flipFieldBit: Step = (bytes, { fields }, random) => {
  const field = random.pick(fields);
  const bit = BigInt(random.below(8 * field.width));
  writeField(bytes, field, readField(bytes, field) ^ (1n << bit));
  return [bytes, `bit ${bit} of ${field.width} bytes at ${field.at} flipped`];
};

/** Two entries of a table with one owner, sizes that are offsets. */
const copyField: Step = (bytes, { fields }, random) => {
  const from = random.pick(fields);
  const to = random.pick(fields.filter(({ width }) => width === from.width));
  writeField(bytes, to, readField(bytes, from));
  return [bytes, `${from.width} bytes at ${to.at} copied from ${from.at}`];
};

const flipBits: Step = (bytes, _, random) => {
  const places: number[] = [];
  for (let count = 1 + random.below(4); count > 0 && bytes.length > 0; count--) {
    const at = random.below(bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    places.push(at);
  }
  return [bytes, `bits flipped at ${places.join(', ')}`];
};

const truncate: Step = (bytes, base, random) => {
  const end = Math.min(
    random.once(2) ? random.pick(cuts(base)) : random.below(bytes.length + 1),
    bytes.length,
  );
  return [bytes.subarray(0, end), `cut at ${end}`];
};

const extend: Step = (bytes, _, random) => {
  const length = random.pick([1, 4, 511, 512, 4096, 70_000]);
  const fill = random.pick([0, 0, 0xff, 0x51]);
  return [Buffer.concat([bytes, Buffer.alloc(length, fill)]), `${length} bytes of ${fill} added`];
};

const range = (bytes: Buffer, random: Random): { start: number; end: number } => {
  const start = random.below(bytes.length + 1);
  const length = random.pick([1, 2, 8, 16, 512, 513, 4096]);
  return { start, end: Math.min(start + length, bytes.length) };
};

const remove: Step = (bytes, _, random) => {
  const { start, end } = range(bytes, random);
  const rest = [bytes.subarray(0, start), bytes.subarray(end)];
  return [Buffer.concat(rest), `${start} to ${end} removed`];
};

const insert: Step = (bytes, _, random) => {
  const { start, end } = range(bytes, random);
  const at = random.below(bytes.length + 1);
  const parts = [bytes.subarray(0, at), bytes.subarray(start, end), bytes.subarray(at)];
  return [Buffer.concat(parts), `${start} to ${end} inserted again at ${at}`];
};

const moveOver: Step = (bytes, _, random) => {
  const { start, end } = range(bytes, random);
  const at = random.below(bytes.length + 1);
  bytes.copy(bytes, at, start, end);
  return [bytes, `${start} to ${end} copied over ${at}`];
};

const wipe: Step = (bytes, _, random) => {
  const { start, end } = range(bytes, random);
  const fill = random.pick([0, 0xff]);
  bytes.fill(fill, start, end);
  return [bytes, `${start} to ${end} filled with ${fill}`];
};

const splice: Step = (bytes, _, random, others) => {
  const other = random.pick(others);
  const at = random.below(Math.min(bytes.length, other.bytes.length) + 1);
  const joined = Buffer.concat([bytes.subarray(0, at), other.bytes.subarray(at)]);
  return [joined, `from ${at} on that of ${other.name}`];
};

const twice: Step = (bytes, base) => [
  Buffer.concat([bytes, base.bytes]),
  'the whole file once more behind it',
];

/** Fields come first: a step that is here several times is taken so much more often. */
const STEPS: readonly Step[] = [
  ...[overwrite, overwrite, overwrite, overwrite],
  ...[nudge, nudge, nudge, flipFieldBit, flipFieldBit, flipFieldBit, copyField, copyField],
  ...[repoint, repoint, repoint, repoint],
  ...[flipBits, truncate, extend, remove, insert, moveOver, wipe, splice, twice],
];

/** The mutant of `base` that `seed` stands for; parts of `others` may come into it. */
export function mutate(base: Base, seed: number, others: readonly Base[]): Mutant {
  const random = makeRandom(seed);
  const steps: string[] = [];
  let bytes = Buffer.from(base.bytes);
  for (let count = random.pick([1, 1, 1, 2, 2, 3, 4]); count > 0; count--) {
    const [changed, step] = random.pick(STEPS)(bytes, base, random, others);
    bytes = Buffer.from(changed.subarray(0, LARGEST));
    steps.push(step);
  }
  return { bytes, steps };
}
