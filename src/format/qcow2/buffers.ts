/** Buffers of one size in a fixed number: who wants one more waits, so memory has a bound however much is asked for. */

export interface Buffers {
  /** A buffer with arbitrary content, once there is one. Whoever takes one gives it back without waiting for another. */
  take(): Promise<Uint8Array>;
  give(buffer: Uint8Array): void;
}

/** At most `count` buffers of `size` bytes, made when they are first needed. */
export function makeBuffers(count: number, size: number): Buffers {
  const free: Uint8Array[] = [];
  const waiting: ((buffer: Uint8Array) => void)[] = [];
  let made = 0;
  return {
    take(): Promise<Uint8Array> {
      const buffer = free.pop();
      if (buffer !== undefined) return Promise.resolve(buffer);
      if (made < count) {
        made++;
        return Promise.resolve(Buffer.allocUnsafeSlow(size));
      }
      return new Promise((resolve) => waiting.push(resolve));
    },
    give(buffer: Uint8Array): void {
      const next = waiting.shift();
      if (next === undefined) free.push(buffer);
      else next(buffer);
    },
  };
}
