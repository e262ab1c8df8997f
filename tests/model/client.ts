import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EngineState } from '../../src/core/adapter-admin.js';
import type { ServerProcess } from '../helpers/server-process.js';

/** One greedy generation. */
export interface Ask {
  readonly adapter: string;
  readonly prompt: string;
  readonly maxNewTokens: number;
  /** Go on to `maxNewTokens` whatever the model says. */
  readonly ignoreEos?: boolean;
}

export interface Token {
  readonly id: number;
  readonly text: string;
  readonly logprob: number;
  readonly special: boolean;
}

/** A reply with details; equal answers are equal down to the bits of their log-probabilities. */
export interface Answer {
  readonly generated_text: string;
  readonly details: {
    readonly finish_reason: string;
    readonly prompt_tokens: number;
    readonly generated_tokens: number;
    readonly tokens: readonly Token[];
  };
}

export interface Failure {
  readonly status: number;
  readonly error: string;
  readonly error_type: string;
}

export type Outcome = { readonly answer: Answer } | { readonly failure: Failure };

/** A stream, read to its end. */
export interface StreamOutcome {
  readonly tokens: readonly Token[];
  /** From the final event, null without one. */
  readonly text: string | null;
  /** A refusal by status, or the error event that ended the stream (status 200). */
  readonly failure: Failure | null;
  /** Final and error events. */
  readonly terminals: number;
}

interface StreamEvent {
  readonly token?: Token;
  readonly generated_text?: string | null;
  readonly error?: string;
  readonly error_type?: string;
}

export function postJson(url: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

function parametersOf({ maxNewTokens, ignoreEos }: Omit<Ask, 'adapter' | 'prompt'>): Record<string, unknown> {
  return { max_new_tokens: maxNewTokens, ignore_eos_token: ignoreEos ?? false, details: true };
}

async function failureOf(response: Response): Promise<Failure> {
  const { error, error_type } = (await response.json()) as Omit<Failure, 'status'>;
  return { status: response.status, error, error_type };
}

/** `POST /generate`. */
export async function tryGenerate(url: string, ask: Ask, signal?: AbortSignal): Promise<Outcome> {
  const body = { inputs: ask.prompt, parameters: { adapter_id: ask.adapter, ...parametersOf(ask) } };
  const response = await postJson(`${url}/generate`, body, signal);
  if (response.status !== 200) return { failure: await failureOf(response) };
  return { answer: withoutCircumstances((await response.json()) as Answer) };
}

/** What equal answers may differ in: where the adapter was, and which tokens were guessed, as other requests left room. */
interface Circumstances {
  readonly adapter?: unknown;
  readonly skipped_tokens?: number;
}

function withoutCircumstances({ generated_text, details }: Answer): Answer {
  const { adapter: _, skipped_tokens: __, tokens, ...rest } = details as Answer['details'] & Circumstances;
  return { generated_text, details: { ...rest, tokens: tokens.map(tokenOf) } };
}

function tokenOf({ id, text, logprob, special }: Token): Token {
  return { id, text, logprob, special };
}

/** `POST /generate` that must succeed. */
export async function generate(url: string, ask: Ask): Promise<Answer> {
  const outcome = await tryGenerate(url, ask);
  assert.ok('answer' in outcome, `${ask.adapter}: ${JSON.stringify(outcome)}`);
  return outcome.answer;
}

/** `POST /generate` with `adapter_names`: all asks in one call, of one length. */
export async function generateList(
  url: string,
  asks: readonly Pick<Ask, 'adapter' | 'prompt'>[],
  common: Omit<Ask, 'adapter' | 'prompt'>,
): Promise<readonly Answer[]> {
  const response = await postJson(`${url}/generate`, {
    inputs: asks.map(({ prompt }) => prompt),
    parameters: { adapter_names: asks.map(({ adapter }) => adapter), ...parametersOf(common) },
  });
  assert.equal(response.status, 200, await response.clone().text());
  return ((await response.json()) as readonly Answer[]).map(withoutCircumstances);
}

/** `data:` lines of a response, parsed, as they come. */
async function* eventsOf(response: Response): AsyncGenerator<StreamEvent> {
  assert.ok(response.body !== null);
  let text = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      if (block.startsWith(':')) continue;
      assert.ok(block.startsWith('data: ') && !block.includes('\n'), `not one data line: ${block}`);
      yield JSON.parse(block.slice('data: '.length)) as StreamEvent;
    }
  }
  assert.equal(text, '', 'the stream ends with a whole event');
}

/** `POST /generate_stream`, read to the end. `onToken` sees how many tokens came so far. */
export async function stream(
  url: string,
  ask: Ask,
  { signal, onToken }: { readonly signal?: AbortSignal; readonly onToken?: (count: number) => void } = {},
): Promise<StreamOutcome> {
  const body = { inputs: ask.prompt, parameters: { adapter_id: ask.adapter, ...parametersOf(ask) } };
  const response = await postJson(`${url}/generate_stream`, body, signal);
  if (response.status !== 200) return { tokens: [], text: null, failure: await failureOf(response), terminals: 1 };
  const tokens: Token[] = [];
  let text: string | null = null;
  let failure: Failure | null = null;
  let terminals = 0;
  for await (const event of eventsOf(response)) {
    assert.equal(terminals, 0, 'nothing follows a terminal event');
    if (event.token !== undefined) {
      tokens.push(tokenOf(event.token));
      onToken?.(tokens.length);
    }
    if (typeof event.generated_text === 'string') text = event.generated_text;
    if (event.error !== undefined) failure = { status: 200, error: event.error, error_type: event.error_type ?? '' };
    if (typeof event.generated_text === 'string' || event.error !== undefined) terminals += 1;
  }
  return { tokens, text, failure, terminals };
}

type AdminAddress = Pick<ServerProcess, 'adminUrl'>;

/** Admin `GET /state`. */
export async function stateOf(server: AdminAddress): Promise<EngineState> {
  return (await (await fetch(`${server.adminUrl}/state`)).json()) as EngineState;
}

/** Polls until the state satisfies `condition`; fails with the last state after `timeoutMs`. */
export async function untilState(
  server: AdminAddress,
  condition: (state: EngineState) => boolean,
  timeoutMs = 15_000,
): Promise<EngineState> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const state = await stateOf(server);
    if (condition(state)) return state;
    assert.ok(performance.now() < deadline, `not in ${timeoutMs} ms: ${JSON.stringify(state)}`);
    await sleep(20);
  }
}

/** Nothing runs, waits or holds KV blocks or adapters. */
export function isIdle({ running, waiting, waitingForAdapter, kvBlocks, tiers }: EngineState): boolean {
  const pinned = tiers.reduce((total, tier) => total + tier.pinned, 0);
  return running === 0 && waiting === 0 && waitingForAdapter === 0 && kvBlocks.used === 0 && pinned === 0;
}

/** An adapter call of the admin API; `path` follows `/adapters`. */
export async function admin(
  server: ServerProcess,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  body?: unknown,
): Promise<{ readonly status: number; readonly body: Readonly<Record<string, unknown>> }> {
  const response = await fetch(`${server.adminUrl}/adapters${path}`, {
    method,
    ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Readonly<Record<string, unknown>> };
}

/** Loads each sub-folder of `root` that is named, by admin call. */
export async function loadAdapters(server: ServerProcess, root: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const { status, body } = await admin(server, 'POST', '', { name, source: `dir:${root}/${name}` });
    assert.ok(status === 200 || status === 201, `${name}: ${JSON.stringify(body)}`);
  }
}
