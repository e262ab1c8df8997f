import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { comparableTokens, type PeftCase, peftCases } from '../helpers/demo-model.js';
import { shuffled } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type Answer, type Ask, generate, generateList, isIdle, loadAdapters, untilState } from './client.js';
import { MetricsText } from './metrics-text.js';

const ADAPTERS = ['support-json', 'sql', 'sentiment', 'pirate'];
const MUST_COMPARE = 484;

const cases = peftCases();
const asks = cases.map(askOf);
let server: ServerProcess;
/** Answers of `asks`, each generated with nothing else in flight. */
const alone: Answer[] = [];

before(async () => {
  // Steps are counted: one for each token.
  server = await ServerProcess.start(['--speculation', 'off']);
  // Cold loads would spread the rows of one batch over time.
  await loadAdapters(server, DEMO_ADAPTERS, ADAPTERS);
});
after(() => server.kill());

function askOf(peft: PeftCase): Ask {
  return { adapter: peft.adapter, prompt: peft.prompt, maxNewTokens: peft.max_new_tokens };
}

/** One case of each adapter and of the base. */
function oneOfEach(): number[] {
  return [...ADAPTERS, BASE_NAME].map((name) => cases.findIndex(({ adapter }) => adapter === name));
}

/** Asserts PEFT's ids, and its text where no near tie may lead elsewhere; returns how many tokens were compared. */
function assertPeft(peft: PeftCase, { generated_text, details }: Answer): number {
  const count = comparableTokens(peft);
  const ids = details.tokens.map(({ id }) => id);
  assert.deepEqual(ids.slice(0, count), peft.expected_ids.slice(0, count), `${peft.adapter}: ${generated_text}`);
  assert.equal(details.prompt_tokens, peft.prompt_ids.length);
  if (count === peft.expected_ids.length) {
    const spoken = details.tokens.filter(({ special }) => !special).map(({ text }) => text);
    assert.equal(spoken.join(''), peft.text);
  }
  return count;
}

/** Steps between two scrapes. */
function stepsBetween(from: MetricsText, to: MetricsText): { all: number; withFour: number; withBase: number } {
  const grown = (read: (metrics: MetricsText) => number): number => read(to) - read(from);
  return {
    all: grown((metrics) => metrics.sum('loramux_steps_total')),
    withFour: grown((metrics) => metrics.bucket('loramux_step_distinct_adapters', 3, 4)),
    withBase: grown((metrics) => metrics.sum('loramux_steps_total', { base_rows: 'yes' })),
  };
}

/** More steps held four adapters than held no base row: at least one held both. */
function assertMixed({ all, withFour, withBase }: ReturnType<typeof stepsBetween>): void {
  const together = withFour - (all - withBase);
  console.log(`${all} steps, ${withFour} with four adapters, ${withBase} with base rows: both in at least ${together}`);
  assert.ok(together >= 8, `four adapters and base rows shared at least ${together} steps, expected 8`);
}

test('each case alone gives the ids of PEFT', async () => {
  let compared = 0;
  for (const [at, ask] of asks.entries()) {
    const answer = await generate(server.url, ask);
    compared += assertPeft(cases[at] as PeftCase, answer);
    alone.push(answer);
  }
  assert.ok(compared >= MUST_COMPARE, `compared ${compared} tokens, expected at least ${MUST_COMPARE}`);
});

test('four adapters and the base share steps, in one list and as separate requests', async () => {
  const common = { maxNewTokens: 12, ignoreEos: true };
  const picked = oneOfEach().map((at) => ({ ...(asks[at] as Ask), ...common }));
  const solo: Answer[] = [];
  for (const ask of picked) solo.push(await generate(server.url, ask));

  const start = await MetricsText.read(server.url);
  assert.deepEqual(await generateList(server.url, picked, common), solo);
  const between = await MetricsText.read(server.url);
  assertMixed(stepsBetween(start, between));
  assert.deepEqual(await Promise.all(picked.map((ask) => generate(server.url, ask))), solo);
  assertMixed(stepsBetween(between, await MetricsText.read(server.url)));
});

test('all cases at once, in a shuffled order, are answered as alone', async () => {
  const order = shuffled([...asks.keys()], 11);
  const answers = await Promise.all(order.map((at) => generate(server.url, asks[at] as Ask)));
  order.forEach((at, position) => {
    assert.deepEqual(answers[position], alone[at], `case ${at}`);
  });
  await untilState(server, isIdle);
});

test('the server ends cleanly', async () => {
  await server.stop();
});
