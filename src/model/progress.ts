import { Presets, SingleBar } from 'cli-progress';

export interface Progress {
  readonly phase: 'download' | 'convert' | 'verify';
  readonly label: string;
  /** Bytes; `total` is 0 while it is unknown. */
  readonly done: number;
  readonly total: number;
}

export type ProgressReport = (progress: Progress) => void;

/** Draws progress; `stop` leaves the terminal clean and may be called twice. */
export interface ProgressDisplay {
  readonly report: ProgressReport;
  stop(): void;
}

const VERBS: Readonly<Record<Progress['phase'], string>> = {
  download: 'downloading',
  convert: 'converting',
  verify: 'verifying',
};
const MEBIBYTE = 2 ** 20;

/** A bar per phase on a terminal; one line per phase elsewhere, and for a phase of unknown size. */
export function createProgressDisplay(stream: NodeJS.WriteStream = process.stderr): ProgressDisplay {
  return stream.isTTY ? new ProgressBars(stream) : new ProgressLines(stream);
}

class ProgressLines implements ProgressDisplay {
  #current = '';

  constructor(private readonly stream: NodeJS.WritableStream) {}

  readonly report: ProgressReport = ({ phase, label, total }) => {
    const current = `${VERBS[phase]} ${label}`;
    if (current === this.#current) return;
    this.#current = current;
    this.stream.write(`${current}${total === 0 ? '' : ` (${mebibytes(total)} MiB)`}\n`);
  };

  stop(): void {
    this.#current = '';
  }
}

class ProgressBars implements ProgressDisplay {
  #bar: SingleBar | undefined;
  #current = '';

  constructor(private readonly stream: NodeJS.WriteStream) {}

  readonly report: ProgressReport = ({ phase, label, done, total }) => {
    const current = `${VERBS[phase]} ${label}`;
    if (current !== this.#current) {
      this.stop();
      this.#current = current;
      if (total === 0) this.stream.write(`${current}\n`);
      else this.#start(current, total);
    }
    this.#bar?.update(mebibytes(done));
  };

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#current = '';
  }

  #start(task: string, total: number): void {
    const format = '{task} {bar} {percentage}% of {total} MiB';
    this.#bar = new SingleBar({ stream: this.stream, format, hideCursor: true }, Presets.shades_classic);
    this.#bar.start(mebibytes(total), 0, { task });
  }
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / MEBIBYTE);
}
