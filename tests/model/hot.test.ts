import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BASE_NAME } from '../../src/core/names.js';
import { peftCases } from '../helpers/demo-model.js';
import { shuffled } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import {
  type Answer,
  type Ask,
  admin,
  type Failure,
  generate,
  isIdle,
  stateOf,
  stream,
  tryGenerate,
  untilState,
} from './client.js';
import { MetricsText } from './metrics-text.js';

/** Holds either of the two large adapters beside a pinned small one, never both large ones: 4.9, 4.9, 2.0, 0.8 MB. */
const BUDGET = 7_500_000;
const ROUNDS = 60;
const CONCURRENCY = 16;
/** Adapters that are unloaded while requests name them; the others must never fail. */
const UNLOADED = ['sentiment', 'pirate'];
const UNLOAD_ERROR = /adapter (\S+) (?:is being unloaded|was unloaded by force|was unloaded by the operator):/;

const names = ['support-json', 'sql', 'sentiment', 'pirate', BASE_NAME];
/** Mostly one-token prompts, which cost least; one whole task prompt of each adapter keeps prefill in the mix. */
const asks: readonly Ask[] = names.flatMap((adapter) => {
  const task = peftCases().find((peft) => peft.adapter === adapter);
  assert.ok(task !== undefined);
  const tiny = ['-', 'The', 'Once'].map((prompt) => ({ adapter, prompt, maxNewTokens: 4, ignoreEos: true }));
  return [...tiny.flatMap((ask) => [ask, ask, ask]), { adapter, prompt: task.prompt, maxNewTokens: 6 }];
});

interface Tally {
  ok: number;
  unloaded: number;
}

let server: ServerProcess;
const solo = new Map<Ask, Answer>();

before(async () => {
  server = await ServerProcess.start(['--adapter-memory', String(BUDGET), '--log-level', 'warn']);
  for (const ask of new Set(asks)) solo.set(ask, await generate(server.url, ask));
  for (const name of names) if (name !== BASE_NAME) await admin(server, 'DELETE', `/${name}`);
  for (const name of names) if (name !== BASE_NAME) await load(name);
});
after(() => server.kill());

async function load(name: string, from = name): Promise<void> {
  const { status, body } = await admin(server, 'POST', '', { name, source: `dir:${DEMO_ADAPTERS}/${from}` });
  assert.ok(status === 200 || status === 201, `load ${name}: ${status} ${JSON.stringify(body)}`);
}

async function call(method: 'POST' | 'DELETE', path: string): Promise<void> {
  const { status, body } = await admin(server, method, path);
  assert.equal(status, 200, `${method} ${path}: ${JSON.stringify(body)}`);
}

/** The only failure that traffic may see: its own adapter was being unloaded. */
function assertUnloadError(ask: Ask, failure: Failure): void {
  assert.equal(UNLOAD_ERROR.exec(failure.error)?.[1], ask.adapter, JSON.stringify(failure));
  assert.ok(UNLOADED.includes(ask.adapter), JSON.stringify(failure));
  assert.equal(failure.error_type, 'generation');
}

async function askOnce(ask: Ask, streaming: boolean, tally: Tally): Promise<void> {
  const expected = solo.get(ask);
  assert.ok(expected !== undefined);
  if (streaming) {
    const { tokens, text, failure, terminals } = await stream(server.url, ask);
    assert.equal(terminals, 1, 'one terminal event');
    // What came before a forced unload is right, too.
    assert.deepEqual(tokens, expected.details.tokens.slice(0, tokens.length));
    if (failure === null) assert.equal(text, expected.generated_text);
    else assertUnloadError(ask, failure);
    tally[failure === null ? 'ok' : 'unloaded'] += 1;
    return;
  }
  const outcome = await tryGenerate(server.url, ask);
  if ('answer' in outcome) {
    assert.deepEqual(outcome.answer, expected, `${ask.adapter} ${ask.prompt}`);
    tally.ok += 1;
    return;
  }
  assert.equal(outcome.failure.status, 424);
  assertUnloadError(ask, outcome.failure);
  tally.unloaded += 1;
}

/** Clients that each send the next request as soon as their last one is answered. */
async function traffic(queue: readonly Ask[]): Promise<Tally> {
  const tally = { ok: 0, unloaded: 0 };
  let next = 0;
  const client = async (): Promise<void> => {
    while (next < queue.length) {
      const at = next++;
      await askOnce(queue[at] as Ask, at % 3 === 0, tally);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, client));
  return tally;
}

/** What an operator may do, over and over. Each round ends as it began. */
async function operate(signal: AbortSignal): Promise<number> {
  const actions: readonly (() => Promise<void>)[] = [
    async () => {
      await call('POST', '/pirate/pin');
      const { body } = await admin(server, 'GET', '/pirate');
      assert.equal((body.pins as { operator: boolean }).operator, true);
      await sleep(100);
      await call('DELETE', '/pirate/pin');
    },
    async () => {
      await call('DELETE', '/sentiment');
      await sleep(100);
      await load('sentiment');
    },
    async () => {
      await load('sql-copy', 'sql');
      const answer = await generate(server.url, {
        ...(asks.find(({ adapter }) => adapter === 'sql') as Ask),
        adapter: 'sql-copy',
      });
      assert.deepEqual(answer, solo.get(asks.find(({ adapter }) => adapter === 'sql') as Ask));
      await call('DELETE', '/sql-copy');
    },
    async () => {
      await call('DELETE', '/pirate?force=true');
      await sleep(100);
      await load('pirate');
    },
    async () => {
      await load('support-json');
    },
  ];
  let done = 0;
  while (!signal.aborted) {
    await actions[done % actions.length]?.();
    done += 1;
  }
  return done;
}

/** Resident bytes whenever polled; asserts the budget. */
async function watch(signal: AbortSignal): Promise<{ readonly polls: number; readonly most: number }> {
  let polls = 0;
  let most = 0;
  while (!signal.aborted) {
    const tier = (await stateOf(server)).tiers.find((each) => each.tier === 'host');
    assert.ok(tier !== undefined);
    assert.equal(tier.capacity, BUDGET);
    assert.ok(tier.bytes <= BUDGET && tier.pinned <= tier.bytes, JSON.stringify(tier));
    most = Math.max(most, tier.bytes);
    polls += 1;
    await sleep(15);
  }
  return { polls, most };
}

test('answers stay right while adapters are evicted, loaded, unloaded and pinned under traffic', async () => {
  const queue = Array.from({ length: ROUNDS }, (_, seed) => shuffled(asks, seed).slice(0, 10)).flat();
  const from = await MetricsText.read(server.url);
  const over = new AbortController();
  const [tally, actions, watched] = await Promise.all([
    traffic(queue).finally(() => over.abort()),
    operate(over.signal),
    watch(over.signal),
  ]);
  const to = await MetricsText.read(server.url);
  const evicted = (reason: string): number =>
    to.sum('loramux_adapter_evictions_total', { reason }) - from.sum('loramux_adapter_evictions_total', { reason });
  console.log(
    `${queue.length} requests: ${tally.ok} right, ${tally.unloaded} refused by an unload; ${actions} admin actions, ` +
      `${evicted('capacity')} evictions for room, ${evicted('admin')} by unload; ` +
      `at most ${watched.most} of ${BUDGET} bytes resident in ${watched.polls} polls`,
  );
  assert.equal(tally.ok + tally.unloaded, queue.length, 'no request is lost');
  assert.ok(tally.ok >= 500, `${tally.ok} right answers, expected at least 500`);
  assert.ok(actions >= 10, `${actions} admin actions, expected at least 10`);
  assert.ok(evicted('capacity') >= 20, 'eviction is constant');
  assert.ok(watched.most > BUDGET / 2, 'the budget was in use');
});

test('afterwards nothing is held, and unloading all returns to no bytes', async () => {
  await untilState(server, isIdle);
  for (const adapter of names) {
    const ask = asks.findLast((candidate) => candidate.adapter === adapter) as Ask;
    assert.deepEqual(await generate(server.url, ask), solo.get(ask));
  }
  await untilState(server, isIdle);
  const { body } = await admin(server, 'GET', '');
  const { adapters, tiers: held } = body as {
    adapters: readonly { tier: string; bytes: number }[];
    tiers: readonly { tier: string; bytes: number }[];
  };
  const resident = adapters.filter(({ tier }) => tier === 'host');
  const bytes = resident.reduce((total, adapter) => total + adapter.bytes, 0);
  assert.equal(held.find(({ tier }) => tier === 'host')?.bytes, bytes, 'every resident byte belongs to an adapter');
  for (const name of names) if (name !== BASE_NAME) await call('DELETE', `/${name}`);
  const { tiers } = await untilState(server, isIdle);
  const host = tiers.find(({ tier }) => tier === 'host');
  assert.deepEqual(host, { tier: 'host', bytes: 0, capacity: BUDGET, pinned: 0 });
});

test('the server ends cleanly', async () => {
  await server.stop();
});
