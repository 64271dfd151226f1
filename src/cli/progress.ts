/** The progress bar on standard error. */

import type { Progress } from '../copy.ts';
import { sizeText } from './text.ts';

export interface ProgressBar {
  show(progress: Progress): void;
  stop(): void;
}

/**
 * A bar on standard error. Its share is of the disk where its size is known, else of the input; where neither is known
 * there is no share to draw, only counts. The library that draws it is loaded only here.
 */
export async function makeProgressBar(): Promise<ProgressBar> {
  const { default: cliProgress } = await import('cli-progress');
  const { Format } = cliProgress;
  let latest: Progress | undefined;
  const bar = new cliProgress.SingleBar({
    stream: process.stderr,
    hideCursor: false,
    gracefulExit: false,
    clearOnComplete: false,
    barsize: 30,
    barCompleteChar: '=',
    barIncompleteChar: '-',
    format: (options, params): string => {
      const data = sizeText(latest?.diskSize ?? 0).replace(/ \(.*/, '');
      const done = sizeText(latest?.virtualBytes ?? 0).replace(/ \(.*/, '');
      if (latest === undefined || totalOf(latest) === undefined)
        return `${done} read, ${data} of data`;
      const share = `${(params.progress * 100).toFixed(1)}%`;
      const drawn = Format.BarFormat(params.progress, options);
      return `|${drawn}| ${share.padStart(6)} ${done} read, ${data} of data`;
    },
  });
  bar.start(1, 0);
  return {
    show(progress): void {
      latest = progress;
      const total = totalOf(progress);
      if (total === undefined) bar.update(0);
      else {
        bar.setTotal(Math.max(total, 1));
        bar.update(
          progress.virtualTotal === undefined ? progress.sourceBytes : progress.virtualBytes,
        );
      }
    },
    stop: () => bar.stop(),
  };
}

function totalOf(progress: Progress): number | undefined {
  return progress.virtualTotal ?? progress.sourceTotal;
}
