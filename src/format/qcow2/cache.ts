/** Remembers the last few things loaded, in such a way that several callers may want the same one at once. */

/** Values loaded by number. */
export interface Cache<Value> {
  /** The value for `key`: one that is there, one that is on its way, or a new one. A failed load is not remembered. */
  get(key: number): Promise<Value>;
  /** Resolves when nothing is being loaded any more; never rejects. */
  drain(): Promise<void>;
}

/**
 * A cache of the `capacity` values used last. `load` is called once for a key however many wait for it. A rejection
 * goes to those who wait; when nobody does, it is dropped.
 */
export function makeCache<Value>(
  capacity: number,
  load: (key: number) => Promise<Value>,
): Cache<Value> {
  /** In order of last use: a Map keeps the order of insertion. */
  const entries = new Map<number, Promise<Value>>();
  const loading = new Set<Promise<Value>>();

  function start(key: number): Promise<Value> {
    const value = load(key);
    loading.add(value);
    value.then(
      () => loading.delete(value),
      () => {
        loading.delete(value);
        if (entries.get(key) === value) entries.delete(key);
      },
    );
    return value;
  }

  return {
    get(key: number): Promise<Value> {
      const known = entries.get(key);
      if (known !== undefined) entries.delete(key);
      const value = known ?? start(key);
      entries.set(key, value);
      if (entries.size > capacity) {
        const [oldest] = entries.keys();
        if (oldest !== undefined) entries.delete(oldest);
      }
      return value;
    },
    async drain(): Promise<void> {
      await Promise.allSettled(loading);
    },
  };
}
