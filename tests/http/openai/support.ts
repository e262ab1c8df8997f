import assert from 'node:assert/strict';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';

/** Posts JSON; `body` may be its text. */
export function post(app: FastifyInstance, url: string, body: unknown, headers: object = {}): Promise<Response> {
  const payload = typeof body === 'string' ? body : JSON.stringify(body);
  return app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json', ...headers }, payload });
}

export function complete(app: FastifyInstance, fields: object, headers: object = {}): Promise<Response> {
  return post(app, '/v1/completions', { model: 'tiny', prompt: 'hi', ...fields }, headers);
}

/** An error body with all four keys, and nothing else. */
export function assertError(reply: Response, status: number, code: string, param: string | null): string {
  assert.equal(reply.statusCode, status, reply.body);
  assert.match(String(reply.headers['content-type']), /^application\/json/);
  const body = reply.json();
  assert.deepEqual(Object.keys(body), ['error']);
  const { message, type, ...rest } = body.error;
  assert.deepEqual(rest, { param, code }, reply.body);
  assert.equal(typeof message, 'string');
  assert.equal(typeof type, 'string');
  return message;
}

/** The data of the events of a stream, parsed, and whether `[DONE]` came last. */
export function eventsOf({ body }: Response): { readonly chunks: readonly Chunk[]; readonly done: boolean } {
  const data = body
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice('data: '.length));
  const done = data.at(-1) === '[DONE]';
  return { chunks: (done ? data.slice(0, -1) : data).map((text) => JSON.parse(text)), done };
}

/** What tests read of a chunk. */
export interface Chunk {
  readonly id: string;
  readonly object: string;
  readonly model: string;
  readonly choices: readonly {
    readonly index: number;
    readonly text: string;
    readonly finish_reason: string | null;
    readonly stop_reason: string | number | null;
    readonly logprobs: { readonly tokens: readonly string[]; readonly text_offset: readonly number[] } | null;
    readonly token_ids?: readonly number[];
    readonly prompt_token_ids?: readonly number[];
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  readonly error?: { readonly code: string };
  readonly system_fingerprint?: string;
  readonly loramux?: Readonly<Record<string, unknown>>;
}
