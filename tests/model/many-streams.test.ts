import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BASE_NAME } from '../../src/core/names.js';
import { shuffled } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type Answer, type Ask, generate, isIdle, loadAdapters, stream, untilState } from './client.js';
import { MetricsText } from './metrics-text.js';

const STREAMS = 200;
const SEED = 5;
const TOKENS = 6;
const ADAPTERS = ['support-json', 'sql', 'sentiment', 'pirate'];
const PROMPTS = ['The', 'Once upon a time', 'What a clumsy book!', '1 + 1 ='];

/** Each adapter and the base with each prompt. */
const asks: readonly Ask[] = [...ADAPTERS, BASE_NAME].flatMap((adapter) =>
  PROMPTS.map((prompt) => ({ adapter, prompt, maxNewTokens: TOKENS, ignoreEos: true })),
);

let server: ServerProcess;
/** Answers of `asks`, each generated with nothing else in flight. */
const solo: Answer[] = [];

before(async () => {
  server = await ServerProcess.start(['--log-level', 'warn']);
  await loadAdapters(server, DEMO_ADAPTERS, ADAPTERS);
  for (const ask of asks) solo.push(await generate(server.url, ask));
});
after(() => server.kill());

/** A client that goes away after `tokens` tokens; after 0, at some moment before the first. */
async function leave(ask: Ask, tokens: number, afterMs: number): Promise<void> {
  const leaving = new AbortController();
  const onToken = (count: number): void => {
    if (count === tokens) leaving.abort();
  };
  const reading = stream(server.url, ask, { signal: leaving.signal, onToken });
  if (tokens === 0) void sleep(afterMs).then(() => leaving.abort());
  await assert.rejects(reading, { name: 'AbortError' });
}

test('of 200 streams at once half are left at random: the others are complete and right, and nothing leaks', async () => {
  const start = await MetricsText.read(server.url);
  const order = shuffled([...Array(STREAMS).keys()], SEED);
  let early = 0;
  let late = 0;
  const startedMs = performance.now();
  await Promise.all(
    order.map(async (position, at) => {
      const which = position % asks.length;
      const ask = asks[which] as Ask;
      if (at < STREAMS / 2) {
        // The last token would be the end of the stream.
        const after = position % TOKENS;
        if (after === 0) early += 1;
        else late += 1;
        await leave(ask, after, position);
        return;
      }
      const { tokens, text, failure, terminals } = await stream(server.url, ask);
      const { details, generated_text } = solo[which] as Answer;
      assert.deepEqual({ text, failure, terminals }, { text: generated_text, failure: null, terminals: 1 });
      assert.deepEqual(tokens, details.tokens);
    }),
  );
  const seconds = (performance.now() - startedMs) / 1_000;
  const { kvBlocks } = await untilState(server, isIdle);
  assert.equal(kvBlocks.used, 0);
  const end = await MetricsText.read(server.url);
  const disconnects = end.sum('loramux_disconnects_total') - start.sum('loramux_disconnects_total');
  // Some of the early ones were gone before their request was read.
  assert.ok(disconnects >= late && disconnects <= late + early, `${disconnects} of ${late} + ${early}`);
  assert.ok(late >= STREAMS / 4);
  assert.equal(end.sum('loramux_adapter_pins'), 0);
  assert.equal(end.sum('loramux_requests_running') + end.sum('loramux_requests_waiting'), 0);
  const delay = (stat: string): string =>
    `${(1_000 * end.sum('loramux_event_loop_delay_seconds', { stat })).toFixed(1)} ms`;
  console.log(
    `${STREAMS} streams in ${seconds.toFixed(1)} s; main thread's delay p50 ${delay('p50')}, p99 ${delay('p99')}, max ${delay('max')}`,
  );
  const p99 = end.sum('loramux_event_loop_delay_seconds', { stat: 'p99' });
  // The target is 20 ms. Whatever else uses the machine adds to it: only what no neighbour explains fails here.
  assert.ok(p99 < 0.2, `the main thread was held up for ${delay('p99')} (p99)`);
});

test('the server ends cleanly', async () => {
  await server.stop();
});
