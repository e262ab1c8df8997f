import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Answer, Greeting, Job, Timing } from './protocol.js';

/** Lines that are kept to say why a contender ended. */
const KEPT_LINES = 20;

/** A contender as a child process: one job in, one timing out. */
export class ContenderProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  /** How it ended: with which status, or why it never began. */
  readonly #ended: Promise<string>;
  #greeting: Greeting = { versions: {}, settings: '' };

  /** Resolves once the contender greeted; rejects with what it printed last when it ends before. */
  static async start(command: readonly [string, ...string[]]): Promise<ContenderProcess> {
    const [program, ...args] = command;
    const contender = new ContenderProcess(spawn(program, args));
    contender.#greeting = JSON.parse(await contender.#next()) as Greeting;
    return contender;
  }

  readonly #said: string[] = [];

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    createInterface({ input: child.stderr }).on('line', (line) => this.#keep(line));
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('close', (code, signal) => resolve(`ended (${signal ?? code})`));
    });
    const kill = (): void => void child.kill('SIGKILL');
    process.once('exit', kill);
    child.once('exit', () => process.off('exit', kill));
    // A write to one that has ended is answered by `#next`.
    child.stdin.on('error', () => undefined);
  }

  get greeting(): Greeting {
    return this.#greeting;
  }

  /** Errors: what the contender said of a job that it refuses, or that it has ended. */
  async run(job: Job): Promise<Timing> {
    this.#child.stdin.write(`${JSON.stringify(job)}\n`);
    const answer = JSON.parse(await this.#next()) as Answer;
    if ('error' in answer) throw new Error(answer.error);
    return answer;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.stdin.end();
    await ended;
  }

  #keep(line: string): void {
    this.#said.push(line);
    if (this.#said.length > KEPT_LINES) this.#said.shift();
  }

  /** The next line of JSON; libraries print other things in between. */
  async #next(): Promise<string> {
    for (;;) {
      const line = await Promise.race([this.#lines.next(), this.#ended]);
      if (typeof line === 'string' || line.done === true) break;
      if (line.value.startsWith('{')) return line.value;
      this.#keep(line.value);
    }
    throw new Error([`${this.#child.spawnfile}: ${await this.#ended}`, ...this.#said].join('\n'));
  }
}
