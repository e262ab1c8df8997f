import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Registry } from 'prom-client';
import { IGNORED_KEYS, REFUSED_KEYS } from '../../../src/adapters/config-rules.js';
import { CONFIG_KEYS, FLAGS, variableOf } from '../../../src/config/flags.js';
import { type ErrorCode, LoramuxError } from '../../../src/core/errors.js';
import { createInstruments } from '../../../src/metrics/families.js';
import { createVllmInstruments } from '../../../src/metrics/vllm-families.js';
import { UNSUPPORTED_FIELDS } from '../../../src/server/lorax/unsupported.js';
import { COMPLETION_FIELDS } from '../../../src/server/openai/completion-body.js';
import { OPENAI_PREFIX } from '../../../src/server/openai/routes.js';
import { startApp } from '../../helpers/http-app.js';
import { ROOT } from '../../helpers/paths.js';

function read(...path: string[]): string {
  return readFileSync(join(ROOT, ...path), 'utf8');
}

const API = read('docs', 'api.md');
const ADAPTERS = read('docs', 'adapters.md');

/** Cells of every table row below the heading `## title`, up to the next one; header and rule left out. */
function table(document: string, title: string): string[][] {
  const [, section = ''] = document.split(`\n## ${title}\n`);
  const [body = ''] = section.split('\n## ');
  const rows = body.split('\n').filter((line) => line.startsWith('| `'));
  return rows.map((row) => row.slice(2, -2).split(' | '));
}

function plain(cell: string | undefined): string {
  return (cell ?? '').replaceAll('`', '').trim();
}

test('the table of flags is the table of the code', () => {
  const wanted = CONFIG_KEYS.map((key) => {
    const { flag, value, defaultText, help } = FLAGS[key];
    return [`--${flag} ${value}`, variableOf(flag), defaultText, help];
  });
  assert.deepEqual(
    table(API, 'Flags').map((row) => row.map(plain)),
    wanted,
  );
});

test('the table of metrics is the table of the code', () => {
  const registry = new Registry();
  createInstruments(registry, { maxModelLen: 100, maxSequences: 4 });
  createVllmInstruments(registry, { maxModelLen: 100 });
  const wanted = registry.getMetricsAsArray().map((metric) => {
    const { name, help, type, labelNames } = metric as typeof metric & { readonly labelNames: readonly string[] };
    return [name, String(type), labelNames.join(', '), help];
  });
  const rows = table(API, 'Metrics').map((row) => row.map(plain));
  assert.deepEqual(
    rows.filter((row) => row.length === 4),
    wanted,
  );
});

test('the rendered metrics are all documented', async (t) => {
  const { app } = startApp(t);
  const { body } = await app.inject({ url: '/metrics' });
  const names = [...body.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
  assert.ok(names.length > 40);
  for (const [, name, type] of names) assert.ok(API.includes(`| \`${name}\` | ${type} |`), `${name} is not in api.md`);
});

/** Families that dashboards of LoRAX and vLLM and the lists of gateways name. */
const WANTED_FAMILIES = {
  lorax: [
    ...['request_count', 'request_success', 'request_failure', 'request_duration', 'request_validation_duration'],
    ...['request_queue_duration', 'request_inference_duration', 'request_mean_time_per_token_duration'],
    ...['request_input_length', 'request_max_new_tokens', 'request_generated_tokens', 'request_skipped_tokens'],
    ...['request_input_count', 'request_classify_output_count', 'batch_next_size', 'batch_current_size'],
    ...['batch_current_max_tokens', 'queue_length', 'batch_concat', 'batch_inference_count'],
    ...['batch_inference_success', 'batch_inference_failure', 'batch_inference_duration'],
  ],
  loramux: [
    ...['build_info', 'model_info', 'ready', 'draining', 'requests_total', 'request_duration_seconds'],
    ...['queue_seconds', 'time_to_first_token_seconds', 'inter_token_seconds', 'requests_running'],
    ...['requests_waiting', 'queued_tokens', 'rejections_total', 'disconnects_total', 'slow_consumers_total'],
    ...['stream_buffer_bytes', 'adapters', 'adapter_bytes', 'adapter_bytes_limit', 'adapter_pins'],
    ...['adapter_cache_requests_total', 'adapter_load_seconds', 'adapter_loads_total', 'adapter_wait_seconds'],
    ...['adapter_evictions_total', 'adapter_swaps_total', 'steps_total', 'step_seconds', 'step_rows'],
    ...['step_segments', 'step_distinct_adapters', 'lora_rows_total', 'base_rows_total', 'kv_cache_usage_ratio'],
    ...['kv_blocks', 'prefix_cache_tokens_total', 'tokens_total', 'event_loop_delay_seconds'],
    ...['event_loop_utilization_ratio', 'engine_heartbeat_age_seconds', 'native_memory_bytes', 'ws_connections'],
    ...['ws_streams', 'adapter_requests_total', 'adapter_prompt_tokens_total', 'adapter_generated_tokens_total'],
    ...['adapter_errors_total', 'adapter_first_token_seconds_total', 'adapter_first_tokens_total'],
    ...['adapter_resident', 'manifest_desired_adapters', 'manifest_errors_total', 'metrics_series_dropped_total'],
  ],
  vllm: [
    ...['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'gpu_cache_usage_perc'],
    ...['gpu_prefix_cache_hits_total', 'gpu_prefix_cache_queries_total', 'cache_config_info', 'lora_requests_info'],
    ...['prompt_tokens_total', 'generation_tokens_total', 'num_preemptions_total', 'prefix_cache_queries_total'],
    ...['prefix_cache_hits_total', 'request_success_total', 'time_to_first_token_seconds'],
    ...['inter_token_latency_seconds', 'request_time_per_output_token_seconds', 'time_per_output_token_seconds'],
    ...['e2e_request_latency_seconds', 'request_queue_time_seconds', 'request_inference_time_seconds'],
    ...['request_prefill_time_seconds', 'request_decode_time_seconds', 'request_prompt_tokens'],
    ...['request_generation_tokens', 'request_params_max_tokens', 'request_max_num_generation_tokens'],
    ...['iteration_tokens_total', 'request_params_n'],
  ],
};

test('every family that dashboards and gateways look for is rendered, or said to be left out', async (t) => {
  const { app } = startApp(t);
  const { body } = await app.inject({ url: '/metrics' });
  const rendered = new Set([...body.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name));
  const section = API.split('### What is left out')[1]?.split('\n## ')[0] ?? '';
  const leftOut = new Set([...section.matchAll(/^\| (`.*?) \| /gm)].flatMap(([, cell]) => plain(cell).split(', ')));
  for (const [prefix, names] of Object.entries(WANTED_FAMILIES)) {
    for (const name of names.map((own) => `${prefix}${prefix === 'vllm' ? ':' : '_'}${own}`)) {
      assert.notEqual(rendered.has(name), leftOut.has(name), name);
    }
  }
});

/** Routes as the sources register them: `GET /adapters/{name}`. */
function registeredRoutes(): Set<string> {
  const routes = new Set<string>();
  const files = readdirSync(join(ROOT, 'src', 'server'), { recursive: true, encoding: 'utf8' });
  for (const file of files.filter((name) => name.endsWith('.ts'))) {
    for (const [, method = '', path = ''] of read('src', 'server', file).matchAll(
      /\bapp\.(get|post|put|patch|delete)(?:<[^(]*>)?\('([^']+)'/g,
    )) {
      const prefix = file.startsWith('openai') ? OPENAI_PREFIX : '';
      routes.add(`${method.toUpperCase()} ${prefix}${path.replace(/:(\w+)/g, '{$1}').replace('*', '{id}')}`);
    }
  }
  // Registered with both its handlers, in another form.
  routes.add(`GET ${OPENAI_PREFIX}/stream`);
  return routes;
}

test('the table of routes has every route, on the listeners that have it', async (t) => {
  const { app, admin } = startApp(t, { openai: { vllmLoraApi: 'on' } });
  await app.ready();
  const rows = table(API, 'Routes');
  assert.deepEqual(rows.map(([route]) => plain(route)).sort(), [...registeredRoutes()].sort());
  for (const [route, listener] of rows) {
    const [method = '', path = ''] = plain(route).split(' ');
    const url = path.replace(/(?<=^\/v1\/.*)\{id\}/, '*').replace(/\{(\w+)\}/g, ':$1');
    for (const [name, server] of [
      ['public', app],
      ['admin', admin],
    ] as const) {
      const served = server.hasRoute({ method: method as 'GET', url });
      assert.equal(served, listener === name || listener === 'both', `${plain(route)} on the ${name} listener`);
    }
  }
});

test('the table of error codes has every code with its status', () => {
  const codes = [...read('src', 'core', 'errors.ts').matchAll(/^ {2}(ERR_[A-Z_]+): \{/gm)].map(([, code]) => code);
  assert.ok(codes.length > 20);
  const rows = table(API, 'Error codes').map((row) => row.map(plain));
  assert.deepEqual(
    rows.map(([code]) => code),
    codes,
  );
  for (const [code, status, retry] of rows) {
    const error = new LoramuxError(code as ErrorCode, '');
    assert.deepEqual([status, retry], [String(error.status), error.retryable ? 'yes' : 'no'], code);
  }
});

test("the table of OpenAI's fields is the table of the code", () => {
  const { served, neutral, refused } = COMPLETION_FIELDS;
  const documented = table(read('docs', 'openai.md'), 'Fields').flatMap(([fields = '', kind]) =>
    plain(fields)
      .split(', ')
      .map((field) => `${field} ${kind}`),
  );
  const wanted = [
    ...[...served].map((field) => `${field} acts`),
    ...Object.keys(neutral).map((field) => `${field} neutral`),
    ...Object.keys(refused).map((field) => `${field} refused`),
  ];
  assert.deepEqual(documented.sort(), wanted.sort());
});

test('refused fields and configuration keys are named', () => {
  for (const field of UNSUPPORTED_FIELDS) assert.ok(API.includes(`\`${field}\``), `${field} is not in api.md`);
  for (const key of [...REFUSED_KEYS.keys(), ...IGNORED_KEYS]) {
    assert.ok(ADAPTERS.includes(`\`${key}\``), `${key} is not in adapters.md`);
  }
});
