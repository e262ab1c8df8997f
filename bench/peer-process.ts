import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';

/** One line of a peer's answer; further fields are facts of its versions. */
export interface PeerMeasurement {
  readonly engine: string;
  readonly scenario: string;
  readonly batch: number;
  readonly tokensPerSecond: number;
}

/** Another engine as a child process: one command in, one measurement out. */
export class PeerProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  /** Rejects when the peer ends while an answer is awaited. */
  readonly #gone: Promise<never>;

  static async start(command: string, args: readonly string[]): Promise<PeerProcess> {
    const peer = new PeerProcess(spawn(command, args));
    await peer.#next();
    return peer;
  }

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    child.stderr.pipe(process.stderr);
    this.#lines = createInterface({ input: child.stdout });
    this.#gone = once(child, 'exit').then(([code]) => {
      throw new Error(`the peer ended with status ${code}: see its output above`);
    });
    // Its end after the last answer is no failure.
    this.#gone.catch(() => undefined);
  }

  async measure(scenario: string, batch: number, steps: number): Promise<PeerMeasurement> {
    this.#child.stdin.write(`${JSON.stringify({ scenario, batch, steps, rounds: 1 })}\n`);
    return JSON.parse(await this.#next()) as PeerMeasurement;
  }

  async close(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.stdin.end();
    await ended;
  }

  async #next(): Promise<string> {
    const [line] = (await Promise.race([once(this.#lines, 'line'), this.#gone])) as [string];
    return line;
  }
}
