import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { TEST_CACHE } from './paths.js';

/** The built command beside these built tests. */
const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
/** On a fresh clone the first start fetches and converts the model. */
const START_TIMEOUT_MS = 300_000;
const STOP_TIMEOUT_MS = 30_000;
const LOG_ERROR = 50;
/** What a server that is ready prints, each with the flag without which it prints no such line. */
const READY_LINES: readonly { readonly what: string; readonly flag: string | null }[] = [
  { what: 'listening', flag: null },
  { what: 'admin', flag: null },
  { what: 'grpc', flag: '--grpc-port' },
  { what: 'grpc admin', flag: '--grpc-admin-port' },
];

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface LogLine {
  readonly level: number;
  readonly event?: string;
  readonly msg: string;
}

function spawnServer(flags: readonly string[]): ChildProcess {
  // What the tester's shell sets must not reach the server under test.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('LORAMUX_')));
  const defaults = ['--port', '0', '--admin-port', '0', '--cache-dir', TEST_CACHE];
  const child = spawn(process.execPath, [MAIN, 'serve', ...defaults, ...flags], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const kill = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', kill);
  child.once('exit', () => process.off('exit', kill));
  return child;
}

/** Starts the command with flags that make it end by itself; resolves when it did. */
export async function runToExit(flags: readonly string[]): Promise<Exit> {
  return new ServerProcess(spawnServer(flags)).exit;
}

/** The real server as a child process, on free ports. Later flags win over the defaults. */
export class ServerProcess {
  readonly exit: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #startedMs = performance.now();
  #stdout = '';
  #stderr = '';
  /** By what the ready lines begin with. */
  readonly #addresses = new Map<string, string>();
  #readySeconds = Number.NaN;

  /** Resolves once all ready lines were printed; rejects with what the server said if it ends before. */
  static async start(flags: readonly string[] = []): Promise<ServerProcess> {
    const server = new ServerProcess(spawnServer(flags));
    await server.#ready(READY_LINES.filter(({ flag }) => flag === null || flags.includes(flag)));
    return server;
  }

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      this.#stderr += chunk;
    });
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      this.#stdout += chunk;
    });
    this.exit = once(child, 'close').then(([code, signal]) => ({
      code: code as number | null,
      signal: signal as NodeJS.Signals | null,
      stdout: this.#stdout,
      stderr: this.#stderr,
    }));
  }

  /** `http://host:port` of the public listener. */
  get url(): string {
    return this.#addressOf('listening');
  }

  get adminUrl(): string {
    return this.#addressOf('admin');
  }

  /** `host:port` of the gRPC service Generation; '' unless the flags ask for it. */
  get grpcAddress(): string {
    return this.#addressOf('grpc');
  }

  /** `host:port` of the gRPC service AdapterAdmin; '' unless the flags ask for it. */
  get grpcAdminAddress(): string {
    return this.#addressOf('grpc admin');
  }

  get pid(): number {
    return this.#child.pid ?? Number.NaN;
  }

  /** From the start of the process to the last ready line. */
  get readySeconds(): number {
    return this.#readySeconds;
  }

  get stdout(): string {
    return this.#stdout;
  }

  /** Lines of the log so far. */
  get log(): readonly LogLine[] {
    return this.#stderr
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as LogLine);
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Memory of the process in bytes, by the kernel's names (`VmRSS`, `VmHWM`, `RssAnon`, `RssFile`). */
  memory(): Readonly<Record<string, number>> {
    const text = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    const fields = [...text.matchAll(/^(\w+):\s+(\d+) kB$/gm)];
    return Object.fromEntries(fields.map(([, name, kib]) => [name ?? '', Number(kib) * 1024]));
  }

  /** SIGTERM; asserts a clean end and that nothing was logged as an error. */
  async stop(): Promise<Exit> {
    this.signal('SIGTERM');
    return this.ended();
  }

  /** Awaits an end that was asked for: exit code 0, in time, without errors in the log. */
  async ended(): Promise<Exit> {
    const timer = setTimeout(() => this.signal('SIGKILL'), STOP_TIMEOUT_MS);
    const exit = await this.exit;
    clearTimeout(timer);
    assert.deepEqual({ code: exit.code, signal: exit.signal }, { code: 0, signal: null }, exit.stderr.slice(-2_000));
    assert.deepEqual(
      this.log.filter(({ level }) => level >= LOG_ERROR),
      [],
    );
    return exit;
  }

  /** For `after` hooks: ends whatever a failed test left running. */
  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.exit;
  }

  #addressOf(what: string): string {
    return this.#addresses.get(what) ?? '';
  }

  async #ready(awaited: typeof READY_LINES): Promise<void> {
    const timer = setTimeout(() => this.signal('SIGKILL'), START_TIMEOUT_MS);
    const isReady = (): boolean => awaited.every(({ what }) => this.#addresses.has(what));
    const lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream });
    for await (const line of lines) {
      const [, what, address] = /^(listening|admin|grpc|grpc admin) on (\S+)$/.exec(line) ?? [];
      if (what !== undefined && address !== undefined) this.#addresses.set(what, address);
      if (isReady()) break;
    }
    clearTimeout(timer);
    this.#readySeconds = (performance.now() - this.#startedMs) / 1_000;
    if (isReady()) return;
    const { code, stderr } = await this.exit;
    assert.fail(`the server ended before it was ready (code ${code}): ${stderr.slice(-2_000)}`);
  }
}
