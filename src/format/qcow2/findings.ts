/** What a check of an image has found wrong: counted in full, told of in part. */

/** One thing that is wrong, or several of a kind at one place. */
export interface Problem {
  /** `corruption`: data are, or will be, wrong; `leak`: space is lost; `error`: it cannot be told. */
  readonly kind: 'corruption' | 'leak' | 'error';
  /** The place, what was found, what was expected. */
  readonly sentence: string;
  /** Where that is in the file, in bytes. */
  readonly offset: number;
}

export interface Findings {
  readonly corruptions: number;
  readonly leaks: number;
  readonly errors: number;
  /** The first ones. */
  readonly problems: readonly Problem[];
  /** Notes that something is wrong `times` over. `sentence` is asked for only when there is still room for it. */
  add(kind: Problem['kind'], offset: number, sentence: () => string, times?: number): void;
}

/** Findings that tell of the first `room` problems. */
export function makeFindings(room: number): Findings {
  const counts = { corruption: 0, leak: 0, error: 0 };
  const problems: Problem[] = [];
  return {
    get corruptions(): number {
      return counts.corruption;
    },
    get leaks(): number {
      return counts.leak;
    },
    get errors(): number {
      return counts.error;
    },
    problems,
    add(kind, offset, sentence, times = 1): void {
      counts[kind] += times;
      if (problems.length < room) problems.push({ kind, sentence: sentence(), offset });
    },
  };
}
