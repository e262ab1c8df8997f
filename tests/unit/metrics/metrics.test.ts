import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { AdapterInfo } from '../../../src/core/adapter.js';
import type { GenerationSummary } from '../../../src/generation/observer.js';
import type { GenerationResult } from '../../../src/generation/spec.js';
import { Metrics } from '../../../src/metrics/metrics.js';
import { newFacts } from '../../../src/server/request-facts.js';
import { IDLE, ScriptedEngine } from '../../helpers/scripted-engine.js';

function start(t: TestContext) {
  const engine = new ScriptedEngine();
  let atMs = 0;
  const now = (): number => {
    atMs += 1_000;
    return atMs;
  };
  const metrics = new Metrics({ engine, version: '1', now, isReady: () => true, isDraining: () => false });
  t.after(() => metrics.close());
  return { engine, metrics };
}

function summary(adapter: string, changes: Partial<GenerationSummary> = {}): GenerationSummary {
  return {
    route: '/generate',
    adapter,
    servedBy: { adapter, digest: 'd', tierAtArrival: 'host' },
    code: null,
    reason: 'eos_token',
    slowConsumer: false,
    promptTokens: 3,
    cachedTokens: 2,
    maxNewTokens: 9,
    speculatedTokens: 0,
    generatedTokens: 4,
    times: { receivedMs: 0, submittedMs: 10, admittedMs: 30, firstTokenMs: 100, endedMs: 500 },
    ...changes,
  };
}

/** Sample lines by family; fails on anything that is not exposition format. */
function parse(text: string): Map<string, string[]> {
  const families = new Map<string, string[]>();
  let current = '';
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const declared = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
    if (declared !== null) {
      current = declared[1] ?? '';
      assert.ok(!families.has(current), `${current} twice`);
      families.set(current, []);
      continue;
    }
    if (line.startsWith('# HELP ')) continue;
    assert.match(line, /^[a-z_:][a-z0-9_:]*(\{([a-z_]+="(\\.|[^"\\\n])*",?)*\})? (-?[0-9.e+-]+|\+Inf|NaN)$/);
    assert.ok(line.startsWith(current), `${line} outside of its family`);
    families.get(current)?.push(line);
  }
  return families;
}

test('a thousand adapters leave the exposition valid, bounded and quick', async (t) => {
  const { engine, metrics } = start(t);
  const adapters = Array.from({ length: 1_000 }, (_, at) => `org/adapter-${at}`);
  engine.onAdmin = () => ({
    adapters: adapters.map((name) => ({ name, tier: 'host', state: 'ready', pins: { rows: 1 } }) as AdapterInfo),
    tiers: [],
  });
  for (const name of adapters) metrics.ended(summary(name));
  for (const name of adapters.slice(0, 50)) metrics.ended(summary(name, { code: 'ERR_STEP_FAILED' }));
  for (const url of ['/generate', '/generate_stream', '/metrics', 'unknown']) {
    const facts = {
      arrivedMs: 0,
      generation: true,
      stream: false,
      upgraded: false,
      prompts: 1,
      choices: 1,
      adapter: null,
      user: null,
      servedBy: null,
      code: null,
      results: [],
    };
    for (const status of [200, 422, 424, 429, 499]) metrics.requestEnded({ route: url, status, seconds: 1, facts });
  }
  const text = await metrics.render();
  const families = parse(text);
  const series = [...families.values()].flat().length;
  assert.ok(series < 3_000, `${series} series`);
  const named = new Set([...text.matchAll(/adapter="([^"]+)"/g)].map(([, name]) => name));
  assert.equal(named.size, 33);
  assert.ok(named.has('other'));
  assert.deepEqual(families.get('loramux_adapters'), ['loramux_adapters{tier="host",state="ready"} 1000']);
  assert.deepEqual(families.get('loramux_adapter_pins'), ['loramux_adapter_pins 1000']);
  const resident = families.get('loramux_adapter_resident') ?? [];
  assert.equal(resident.length, 32);
  assert.ok(resident.includes('loramux_adapter_resident{adapter="org/adapter-0",tier="host"} 1'));
  assert.deepEqual(families.get('loramux_adapter_requests_total')?.at(-1)?.includes('other'), true);
});

test('a step is counted by phase, by path, and by whether base rows were in it', async (t) => {
  const { engine, metrics } = start(t);
  const step = {
    kind: 'step',
    prefillRows: 0,
    decodeRows: 5,
    admitted: 0,
    baseRows: 1,
    loraRows: 4,
    segments: 5,
    distinctAdapters: 4,
    lookedUpTokens: 40,
    cachedTokens: 32,
    draftedTokens: 6,
    acceptedTokens: 5,
    planSeconds: 0,
    runSeconds: 0.01,
    sampleSeconds: 0,
    maskSeconds: null,
    stepSeconds: 0.02,
  } as const;
  engine.report(step);
  engine.report({ ...step, prefillRows: 7, admitted: 2, baseRows: 0, maskSeconds: 0.0002 });
  engine.report({ kind: 'step-failed', prefillRows: 7 });
  engine.report({ ...step, prefillRows: 7, decodeRows: 0, loraRows: 0, distinctAdapters: 0 });
  const text = await metrics.render();
  for (const line of [
    'loramux_steps_total{phase="decode",path="lora",base_rows="yes"} 1',
    'loramux_steps_total{phase="mixed",path="lora",base_rows="no"} 1',
    'loramux_steps_total{phase="prefill",path="base",base_rows="yes"} 1',
    'loramux_step_distinct_adapters_bucket{le="3"} 1',
    'loramux_step_distinct_adapters_bucket{le="4"} 3',
    'loramux_step_seconds_count{phase="decode"} 1',
    'loramux_mask_seconds_count 1',
    'lorax_batch_inference_count{method="prefill"} 3',
    'lorax_batch_inference_success{method="prefill"} 2',
    'lorax_batch_inference_failure{method="prefill"} 1',
    'lorax_batch_next_size_bucket{le="1"} 0',
    'lorax_batch_next_size_bucket{le="2"} 1',
    'lorax_batch_next_size_count 1',
    'loramux_mask_seconds_bucket{le="0.0001"} 0',
    'loramux_mask_seconds_bucket{le="0.00025"} 1',
    'loramux_lora_rows_total 8',
    'loramux_prefix_cache_tokens_total{result="hit"} 96',
    'loramux_prefix_cache_tokens_total{result="miss"} 24',
    'loramux_base_rows_total 2',
    'loramux_step_rows_sum 24',
  ]) {
    assert.ok(text.includes(`${line}\n`), line);
  }
});

test('loads, lookups, evictions and preemptions are counted by outcome', async (t) => {
  const { engine, metrics } = start(t);
  const load = { kind: 'adapter-load', name: 'a', source: 'dir', fromHost: false, seconds: 1, bytes: 5 } as const;
  engine.report({ ...load, result: 'ok', code: null });
  engine.report({ ...load, result: 'failed', code: 'ERR_ADAPTER_INVALID' });
  engine.report({ ...load, result: 'failed', code: 'ERR_NATIVE' });
  engine.report({ ...load, fromHost: true, seconds: 0.25, result: 'ok', code: null });
  engine.report({ kind: 'adapter-evict', tier: 'host', name: 'a', reason: 'capacity', bytes: 5 });
  engine.report({ kind: 'adapter-lookup', tier: 'device', name: 'a', result: 'miss' });
  engine.report({ kind: 'adapter-lookup', tier: 'host', name: 'a', result: 'hit' });
  engine.report({ kind: 'adapter-wait', tierAtArrival: 'disk', seconds: 0.25 });
  engine.report({ kind: 'adapter-fetch', source: 'hub', code: null, seconds: 2, bytes: 700 });
  engine.report({ kind: 'adapter-fetch', source: 's3', code: 'ERR_ADAPTER_SOURCE_TIMEOUT', seconds: 9, bytes: 0 });
  engine.report({ kind: 'disk-lookup', result: 'miss' });
  engine.report({ kind: 'disk-evict', reason: 'capacity', bytes: 7 });
  engine.report({ kind: 'preemption', requestId: 1 });
  const text = await metrics.render();
  for (const line of [
    'loramux_adapter_loads_total{source="dir",result="ok"} 2',
    'loramux_adapter_loads_total{source="dir",result="invalid"} 1',
    'loramux_adapter_loads_total{source="dir",result="io"} 1',
    'loramux_adapter_load_seconds_count{phase="total",source="dir"} 4',
    'loramux_adapter_load_seconds_sum{phase="device",source="dir"} 0.25',
    'loramux_adapter_cache_requests_total{tier="device",result="miss"} 1',
    'loramux_adapter_evictions_total{tier="host",reason="capacity"} 1',
    'loramux_adapter_cache_requests_total{tier="host",result="hit"} 1',
    'loramux_adapter_wait_seconds_sum{tier="disk"} 0.25',
    'loramux_adapter_fetches_total{source="hub",result="ok"} 1',
    'loramux_adapter_fetches_total{source="s3",result="timeout"} 1',
    'loramux_adapter_fetch_bytes_total{source="hub"} 700',
    'loramux_adapter_load_seconds_count{phase="fetch",source="hub"} 1',
    'loramux_adapter_cache_requests_total{tier="disk",result="miss"} 1',
    'loramux_adapter_evictions_total{tier="disk",reason="capacity"} 1',
    'loramux_preemptions_total 1',
  ]) {
    assert.ok(text.includes(`${line}\n`), line);
  }
});

test('clients that leave are counted by how far they were, names nobody served are not labels', async (t) => {
  const { metrics } = start(t);
  const times = summary('a').times;
  const gone = { code: 'ERR_ABORTED', servedBy: null } as const;
  metrics.ended(summary('a', { ...gone, times: { ...times, admittedMs: null, firstTokenMs: null } }));
  metrics.ended(summary('a', { code: 'ERR_ABORTED', times: { ...times, firstTokenMs: null } }));
  metrics.ended(summary('a', { code: 'ERR_ABORTED' }));
  metrics.ended(summary('a', { code: 'ERR_ABORTED', slowConsumer: true }));
  metrics.ended(summary('made-up', { code: 'ERR_ADAPTER_NOT_FOUND', servedBy: null }));
  const text = await metrics.render();
  for (const line of [
    'loramux_disconnects_total{phase="queue"} 1',
    'loramux_disconnects_total{phase="prefill"} 1',
    'loramux_disconnects_total{phase="decode"} 1',
    'loramux_slow_consumers_total{transport="sse"} 1',
    'loramux_adapter_errors_total{adapter="other",code="ERR_ADAPTER_NOT_FOUND"} 1',
  ]) {
    assert.ok(text.includes(`${line}\n`), line);
  }
  assert.ok(!text.includes('made-up'));
});

test('a scrape does not wait for an engine that does not answer', async (t) => {
  const { engine, metrics } = start(t);
  engine.admin = () => new Promise(() => {});
  assert.match(await metrics.render(), /^loramux_ready 1$/m);
});

/** An adapter as the engine lists it. */
function listed(name: string, changes: Partial<AdapterInfo> = {}): AdapterInfo {
  return {
    name,
    aliases: [],
    digest: 'd',
    state: 'ready',
    tier: 'host',
    bytes: 100,
    ranks: null,
    variant: ['lora'],
    modules: null,
    proof: null,
    baseModel: null,
    text: null,
    source: 'dir:/a',
    pins: { rows: 0, operator: false },
    loadedAt: null,
    lastUsedAt: null,
    requests: 0,
    failure: null,
    ...changes,
  };
}

test("a gateway's scrape has vLLM's families alone, as they are now, in valid exposition", async (t) => {
  const { engine, metrics } = start(t);
  engine.onAdmin = () => ({
    adapters: [
      listed('old', { lastUsedAt: '2026-01-01T00:00:00Z' }),
      listed('new', { lastUsedAt: '2026-02-01T00:00:00Z' }),
      listed('coming', { tier: 'disk', state: 'fetching' }),
      listed('idle', { tier: 'disk' }),
      listed('org/secret#0123'),
    ],
    tiers: [],
  });
  engine.current = { ...engine.current, running: 3, waiting: 2 };
  const labels = '{model_name="tiny",engine="0"}';
  const families = parse(await metrics.renderForRouter());
  assert.deepEqual(
    [...families.keys()],
    [
      'vllm:num_requests_running',
      'vllm:num_requests_waiting',
      'vllm:kv_cache_usage_perc',
      'vllm:cache_config_info',
      'vllm:lora_requests_info',
    ],
  );
  assert.deepEqual(families.get('vllm:num_requests_running'), [`vllm:num_requests_running${labels} 3`]);
  assert.deepEqual(families.get('vllm:kv_cache_usage_perc'), [`vllm:kv_cache_usage_perc${labels} 0.25`]);
  assert.match(families.get('vllm:cache_config_info')?.[0] ?? '', /block_size="16",num_gpu_blocks="16"\} 1$/);
  const [lora = '', ...more] = families.get('vllm:lora_requests_info') ?? [];
  assert.equal(more.length, 0);
  // Three resident, one coming, and room for ten of 100 bytes in 1000.
  assert.match(lora, /max_lora="14",running_lora_adapters="new,old",waiting_lora_adapters="coming"/);
  engine.current = { ...engine.current, running: 0 };
  assert.match(await metrics.renderForRouter(), /num_requests_running\{[^}]*\} 0\n/);
});

test('the series of adapters is one, and its time never goes back', async (t) => {
  const { engine, metrics } = start(t);
  const value = async (): Promise<number> => {
    const [line = '', ...more] = parse(await metrics.renderForRouter()).get('vllm:lora_requests_info') ?? [];
    assert.equal(more.length, 0);
    return Number(line.split(' ').at(-1));
  };
  engine.onAdmin = () => ({ adapters: [listed('a')], tiers: [] });
  const first = await value();
  assert.ok(Math.abs(first - Date.now() / 1_000) < 60);
  assert.equal(await value(), first);
  engine.onAdmin = () => ({ adapters: [listed('b')], tiers: [] });
  await new Promise((resolve) => setTimeout(resolve, 5));
  // The list is refreshed beside the scrape that finds it too old.
  await value();
  assert.ok((await value()) > first);
});

test("vLLM's copies count what our own count", async (t) => {
  const { engine, metrics } = start(t);
  engine.onAdmin = () => ({ adapters: [], tiers: [] });
  metrics.ended(summary('a'));
  metrics.ended(summary('a', { reason: 'length' }));
  metrics.ended(summary('a', { reason: 'stop_sequence' }));
  metrics.ended(summary('a', { reason: null, code: 'ERR_ABORTED' }));
  const text = await metrics.render();
  parse(text);
  const sample = (name: string, more = ''): string | undefined =>
    text.split('\n').find((line) => line.startsWith(`vllm:${name}{model_name="tiny",engine="0"${more}}`));
  assert.match(sample('request_success_total', ',finished_reason="stop"') ?? '', / 2$/);
  assert.match(sample('request_success_total', ',finished_reason="length"') ?? '', / 1$/);
  assert.match(sample('request_success_total', ',finished_reason="abort"') ?? '', / 1$/);
  assert.match(sample('generation_tokens_total') ?? '', / 16$/);
  assert.match(sample('e2e_request_latency_seconds_count') ?? '', / 3$/);
  assert.match(sample('time_to_first_token_seconds_count') ?? '', / 4$/);
});

test("open sockets, the engine's heartbeat and the answers to each prompt are told", async (t) => {
  const { engine, metrics } = start(t);
  metrics.watchSockets(() => ({ connections: 2, streams: 9 }));
  engine.current = { ...IDLE, running: 1, lastStepAgeMs: 250 };
  const facts = { ...newFacts(), generation: true, choices: 3, results: [{} as GenerationResult] };
  metrics.requestEnded({ route: '/v1/completions', status: 200, seconds: 1, facts });
  const text = await metrics.render();
  for (const line of [
    'loramux_ws_connections 2',
    'loramux_ws_streams 9',
    'loramux_engine_heartbeat_age_seconds 0.25',
    'vllm:request_params_n_bucket{le="2",model_name="tiny",engine="0"} 0',
    'vllm:request_params_n_bucket{le="5",model_name="tiny",engine="0"} 1',
  ]) {
    assert.ok(text.includes(`${line}\n`), line);
  }
  engine.current = { ...IDLE, running: 0, lastStepAgeMs: 250_000 };
  assert.ok((await metrics.render()).includes('loramux_engine_heartbeat_age_seconds 0\n'));
});
