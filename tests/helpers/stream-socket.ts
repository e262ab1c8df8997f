import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { type ClientOptions, WebSocket } from 'ws';

/** A message of the server, as parsed JSON. */
export type Message = ReturnType<typeof JSON.parse>;

/** A client of `GET /v1/stream` that keeps what it is told. */
export class StreamSocket {
  readonly messages: Message[] = [];
  readonly socket: WebSocket;
  /** Code of the close; null while open. */
  closeCode: number | null = null;
  readonly #patienceMs: number;
  #waiting: (() => void)[] = [];

  constructor(socket: WebSocket, patienceMs: number) {
    this.socket = socket;
    this.#patienceMs = patienceMs;
    socket.on('message', (data) => {
      this.messages.push(JSON.parse(String(data)));
      this.#wake();
    });
    socket.on('close', (code) => {
      this.closeCode = code;
      this.#wake();
    });
    socket.on('error', () => undefined);
  }

  send(message: object | string): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** Messages about one stream. */
  of(id: string): Message[] {
    return this.messages.filter((message) => message.id === id);
  }

  /** Resolves once `condition` holds; fails when patience runs out. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + this.#patienceMs;
    while (!condition()) {
      if (Date.now() > deadline) throw new Error(`never happened: ${what}; got ${JSON.stringify(this.messages)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 200);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Resolves with the `done` or `error` message of a stream. */
  async end(id: string): Promise<Message> {
    const isEnd = (message: Message): boolean =>
      message.id === id && (message.type === 'done' || message.type === 'error');
    await this.until(() => this.messages.some(isEnd), `the end of ${id}`);
    return this.messages.find(isEnd);
  }

  closed(): Promise<void> {
    return this.until(() => this.closeCode !== null, 'the socket closes');
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }
}

/** Listens if the app does not yet. */
export async function addressOf(app: FastifyInstance): Promise<string> {
  if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 });
  return `127.0.0.1:${(app.server.address() as AddressInfo).port}`;
}

export interface SocketOptions extends ClientOptions {
  readonly protocols?: readonly string[];
  /** Longest wait for what must happen. */
  readonly patienceMs?: number;
}

/** Connects to an app; closed when the test ends. Rejects with the HTTP status of a refusal. */
export async function connect(
  test: TestContext,
  app: FastifyInstance,
  options: SocketOptions = {},
): Promise<StreamSocket> {
  return openSocket(test, `ws://${await addressOf(app)}/v1/stream`, options);
}

/** Connects to `url`; closed when the test ends. Rejects with the HTTP status of a refusal. */
export async function openSocket(test: TestContext, url: string, options: SocketOptions = {}): Promise<StreamSocket> {
  const { protocols = ['loramux.v1'], patienceMs = 5_000, ...rest } = options;
  const socket = new WebSocket(url, [...protocols], rest);
  test.after(() => socket.terminate());
  const client = new StreamSocket(socket, patienceMs);
  const refused = once(socket, 'unexpected-response').then(([, response]) => {
    throw Object.assign(new Error(`refused with ${response.statusCode}`), { status: response.statusCode });
  });
  await Promise.race([once(socket, 'open'), refused]);
  refused.catch(() => undefined);
  await client.until(() => client.messages.length > 0, 'hello');
  return client;
}
