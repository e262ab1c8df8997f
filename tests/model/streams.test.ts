import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type Answer, type Ask, admin, generate, isIdle, postJson, stream, tryGenerate, untilState } from './client.js';
import { MetricsText } from './metrics-text.js';

const SEQUENCES = 4;
const NAMES = ['support-json', 'sql', 'sentiment', 'pirate', BASE_NAME];

const asks: readonly Ask[] = NAMES.map((adapter) => ({ adapter, prompt: 'The', maxNewTokens: 24, ignoreEos: true }));
/** Runs until its client leaves. */
const endless: Ask = { adapter: BASE_NAME, prompt: 'Once', maxNewTokens: 1000, ignoreEos: true };

let server: ServerProcess;
const solo: Answer[] = [];

before(async () => {
  server = await ServerProcess.start(['--max-sequences', String(SEQUENCES), '--log-level', 'warn']);
  for (const ask of asks) solo.push(await generate(server.url, ask));
});
after(() => server.kill());

/** A stream whose client leaves after `tokens` tokens; rejects as a client's own abort does. */
async function leaveAfter(ask: Ask, tokens: number): Promise<void> {
  const leave = new AbortController();
  const onToken = (count: number): void => {
    if (count === tokens) leave.abort();
  };
  await assert.rejects(stream(server.url, ask, { signal: leave.signal, onToken }), { name: 'AbortError' });
}

test('a stream brings the tokens and the text of the plain answer, then one final event', async () => {
  const streams = await Promise.all(asks.map((ask) => stream(server.url, ask)));
  streams.forEach(({ tokens, text, failure, terminals }, at) => {
    const { details, generated_text } = solo[at] as Answer;
    assert.deepEqual(tokens, details.tokens);
    assert.deepEqual({ text, failure, terminals }, { text: generated_text, failure: null, terminals: 1 });
  });
});

test('clients that leave mid-stream and mid-queue free everything and disturb nobody', async () => {
  const start = await MetricsText.read(server.url);
  const leavers = [3, 5].map((tokens) => leaveAfter(endless, tokens));
  const stayers = asks.map((ask) => stream(server.url, ask));
  await untilState(server, ({ running, waiting }) => running === SEQUENCES && waiting > 0);
  const queued = new AbortController();
  const given = Array.from({ length: 3 }, () => tryGenerate(server.url, endless, queued.signal));
  await untilState(server, ({ waiting }) => waiting >= given.length);
  queued.abort();
  for (const outcome of given) await assert.rejects(outcome, { name: 'AbortError' });
  await Promise.all(leavers);
  (await Promise.all(stayers)).forEach(({ tokens, terminals }, at) => {
    assert.deepEqual(tokens, (solo[at] as Answer).details.tokens);
    assert.equal(terminals, 1);
  });
  await untilState(server, isIdle);
  const end = await MetricsText.read(server.url);
  const grown = end.sum('loramux_disconnects_total') - start.sum('loramux_disconnects_total');
  assert.equal(grown, leavers.length + given.length);
});

test('a client that leaves a plain call or a list ends all its prompts', async () => {
  const leave = new AbortController();
  const parameters = { max_new_tokens: 1000, ignore_eos_token: true };
  const calls = [
    postJson(
      `${server.url}/generate`,
      { inputs: 'Once', parameters: { adapter_id: 'sql', ...parameters } },
      leave.signal,
    ),
    postJson(
      `${server.url}/generate`,
      { inputs: NAMES.map(() => 'Once'), parameters: { adapter_names: NAMES, ...parameters } },
      leave.signal,
    ),
  ];
  await untilState(server, ({ running, waiting }) => running === SEQUENCES && waiting === 2);
  leave.abort();
  for (const call of calls) await assert.rejects(call, { name: 'AbortError' });
  await untilState(server, isIdle);
});

test('clients that leave at any moment, adapters still loading, leave nothing behind', async () => {
  for (const name of NAMES) if (name !== BASE_NAME) await admin(server, 'DELETE', `/${name}`);
  for (const name of NAMES) {
    if (name !== BASE_NAME)
      await admin(server, 'POST', '', { name, source: `dir:${DEMO_ADAPTERS}/${name}`, wait: false });
  }
  const left = Array.from({ length: 30 }, async (_, at) => {
    const ask = { ...endless, adapter: NAMES[at % NAMES.length] as string };
    const leave = AbortSignal.timeout(1 + at * 7);
    await assert.rejects(
      at % 2 === 0 ? stream(server.url, ask, { signal: leave }) : tryGenerate(server.url, ask, leave),
    );
  });
  await Promise.all(left);
  await untilState(server, isIdle);
  for (const [at, ask] of asks.entries()) assert.deepEqual(await generate(server.url, ask), solo[at]);
});

test('the server ends cleanly', async () => {
  await server.stop();
});
