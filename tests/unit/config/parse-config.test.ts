import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONFIG_KEYS, FLAGS, variableOf } from '../../../src/config/flags.js';
import { parseCommand, parseConfig } from '../../../src/config/parse-config.js';
import { LoramuxError } from '../../../src/core/errors.js';

const FACTS = { cpus: 6, memoryBytes: 16 * 2 ** 30, demoAdapters: '/shipped' };
const HOME = { HOME: '/home/u' };

test('defaults come from the host', () => {
  const config = parseConfig([], HOME, FACTS);
  assert.deepEqual(config, {
    model: 'demo',
    adapters: '/shipped',
    host: '127.0.0.1',
    port: 8080,
    adminHost: '127.0.0.1',
    adminPort: 8081,
    grpcPort: null,
    grpcAdminPort: null,
    corsOrigins: [],
    streamOrigins: [],
    apiKeys: null,
    auth: true,
    publicMetrics: false,
    precision: null,
    adapterDtype: 'file',
    kvDtype: null,
    device: 'auto',
    deviceFallback: null,
    cudaRuntime: null,
    cudaGraphs: true,
    threads: 6,
    adapterMemoryBytes: null,
    adapterHostMemoryBytes: null,
    kvMemoryBytes: null,
    gpuMemory: null,
    maxModelLen: null,
    maxBatchTokens: 512,
    maxPrefillRows: null,
    maxSequences: 64,
    maxQueue: 1024,
    prefixCache: true,
    speculation: true,
    launchAhead: null,
    drainTimeoutMs: 30_000,
    servedNames: [],
    maxChoices: 16,
    maxBestOf: 2,
    toolCallFormat: 'auto',
    vllmLoraApi: 'off',
    vllmUnloadMissing: 404,
    cacheDir: '/home/u/.cache/loramux',
    logLevel: 'info',
    hubEndpoint: null,
    hubToken: null,
    hubOffline: false,
    s3Endpoint: null,
    adapterDiskBytes: 8 * 2 ** 30,
    maxAdapterBytes: 2 * 2 ** 30,
    fetchTimeoutMs: 600_000,
    adapterHosts: [],
    adapterPrivateHosts: [],
    requestSources: ['hub'],
  });
  assert.ok(Object.isFrozen(config));
  assert.equal(parseConfig([], { XDG_CACHE_HOME: '/xdg' }, FACTS).cacheDir, '/xdg/loramux');
});

test("vLLM's variable turns its routes on", () => {
  const decided = (value: string): string =>
    parseConfig([], { ...HOME, VLLM_ALLOW_RUNTIME_LORA_UPDATING: value }, FACTS).vllmLoraApi;
  assert.deepEqual(['true', '1', 'True', 'false', '0', ''].map(decided), ['on', 'on', 'on', 'off', 'off', 'off']);
});

test('the demo adapters come with the demo model only', () => {
  assert.equal(parseConfig(['--model', '/m'], HOME, FACTS).adapters, null);
  assert.equal(parseConfig(['--model', '/m', '--adapters', '/a'], HOME, FACTS).adapters, '/a');
  assert.equal(parseConfig([], { ...HOME, LORAMUX_MODEL: '/m' }, FACTS).adapters, null);
});

/** A good value for every flag, and what it becomes. */
const VALUES: Readonly<Record<string, readonly [string, unknown]>> = {
  model: ['m.gguf', 'm.gguf'],
  adapters: ['dir', 'dir'],
  host: ['0.0.0.0', '0.0.0.0'],
  port: ['0', 0],
  'admin-host': ['::1', '::1'],
  'admin-port': ['65535', 65535],
  'api-keys': ['keys', 'keys'],
  auth: ['off', false],
  'public-metrics': ['on', true],
  precision: ['bf16', 'bf16'],
  'adapter-dtype': ['int8', 'int8'],
  'kv-dtype': ['bf16', 'bf16'],
  device: ['cuda', 'cuda:0'],
  'device-fallback': ['refuse', 'refuse'],
  'cuda-runtime': ['dir', 'dir'],
  'cuda-graphs': ['off', false],
  threads: ['3', 3],
  'adapter-memory': ['64MiB', 64 * 2 ** 20],
  'adapter-host-memory': ['0', 0],
  'kv-memory': ['1.5GB', 1.5e9],
  'gpu-memory': ['0.85', 0.85],
  'max-model-len': ['2048', 2048],
  'max-batch-tokens': ['64', 64],
  'max-sequences': ['2', 2],
  'max-queue': ['9', 9],
  'drain-timeout': ['250ms', 250],
  'served-model-name': ['org/base,small', ['org/base', 'small']],
  'max-choices': ['4', 4],
  'max-best-of': ['3', 3],
  'tool-call-format': ['hermes', 'hermes'],
  'vllm-lora-api': ['loopback', 'loopback'],
  'vllm-unload-missing': ['400', 400],
  'cache-dir': ['c', 'c'],
  'log-level': ['silent', 'silent'],
  'hub-endpoint': ['http://localhost:9/', 'http://localhost:9'],
  'hub-token': ['hf_x', 'hf_x'],
  'prefix-cache': ['off', false],
  speculation: ['off', false],
  'launch-ahead': ['on', true],
  'max-prefill-rows': ['32', 32],
  'hub-offline': ['on', true],
  's3-endpoint': ['http://localhost:9000', 'http://localhost:9000'],
  'adapter-disk': ['1GiB', 2 ** 30],
  'max-adapter-size': ['64MiB', 64 * 2 ** 20],
  'adapter-fetch-timeout': ['30s', 30_000],
  'adapter-hosts': [
    'A.example, b.example:8443',
    [
      { host: 'a.example', port: null },
      { host: 'b.example', port: 8443 },
    ],
  ],
  'adapter-private-hosts': [
    '127.0.0.1:9000,[0:0::1]:9000',
    [
      { host: '127.0.0.1', port: 9000 },
      { host: '::1', port: 9000 },
    ],
  ],
  'grpc-port': ['9090', 9090],
  'grpc-admin-port': ['0', 0],
  'cors-origins': ['*', ['*']],
  'stream-origins': ['https://a.example,http://b.example:81', ['https://a.example', 'http://b.example:81']],
  'request-sources': ['s3, hub', ['s3', 'hub']],
};

for (const key of CONFIG_KEYS) {
  const { flag } = FLAGS[key];
  test(`--${flag} and its variable set ${key}, and the flag wins`, () => {
    const [text, value] = VALUES[flag] ?? ['', null];
    assert.deepEqual(parseConfig([`--${flag}`, text], HOME, FACTS)[key], value);
    assert.deepEqual(parseConfig([`--${flag}=${text}`], HOME, FACTS)[key], value);
    assert.deepEqual(parseConfig([], { ...HOME, [variableOf(flag)]: text }, FACTS)[key], value);
    assert.deepEqual(parseConfig([`--${flag}`, text], { ...HOME, [variableOf(flag)]: '???' }, FACTS)[key], value);
    assert.deepEqual(parseConfig(['serve', `--${flag}`, '?', `--${flag}`, text], HOME, FACTS)[key], value);
  });
}

const REFUSED: readonly (readonly [readonly string[], RegExp])[] = [
  [['--nonsense', '1'], /unknown flag --nonsense/],
  [['-x'], /unknown flag -x/],
  [['--port'], /--port needs a value/],
  [['--cors-origins', '*,https://a.example'], /--cors-origins accepts https/],
  [['--cors-origins', 'https://a.example/'], /--cors-origins accepts https/],
  [['--port', '--host', 'x'], /--port needs a value/],
  [['--port='], /--port accepts a whole number from 0 to 65535, got ""/],
  [['--port', '65536'], /--port accepts a whole number from 0 to 65535, got "65536"/],
  [['--port', '1e3'], /whole number/],
  [['--request-sources', 'hub,hub'], /accepts none, or hub and s3 separated by commas, got "hub,hub"/],
  [['--request-sources', 'pbase'], /none, or hub and s3/],
  [['--port=-1'], /whole number/],
  [['--threads', '0'], /from 1 to/],
  [['--max-model-len', '1'], /from 2 to/],
  [['--precision', 'w8a8'], /use w8/],
  [['--precision', 'constructor'], /--precision accepts one of f32, f16, bf16, w8, w4, auto, got "constructor"/],
  [['--device', 'gpu'], /--device accepts auto, cpu, cuda or cuda:N, got "gpu"/],
  [['--device', 'cuda:'], /cuda:N, got "cuda:"/],
  [['--device', 'cuda:-1'], /cuda:N/],
  [['--device-fallback', 'on'], /--device-fallback accepts one of allow, refuse/],
  [['--adapter-memory', '12 parsecs'], /--adapter-memory accepts a size such as 64MiB/],
  [['--adapter-memory', '0'], /size/],
  [['--adapter-host-memory', '-1'], /--adapter-host-memory accepts a size/],
  [['--kv-memory', '99999999999TiB'], /size/],
  [['--gpu-memory', '0.0'], /a share such as 0.9/],
  [['--gpu-memory', '1.5'], /a size such as/],
  [['--gpu-memory', '-0.5'], /--gpu-memory accepts/],
  [['--drain-timeout', '30'], /--drain-timeout accepts a duration such as 250ms, 30s or 2m/],
  [['--drain-timeout', '999h'], /duration/],
  [['--auth', 'none'], /--auth accepts on or off/],
  [['--log-level', 'loud'], /one of trace, debug, info/],
  [['--hub-endpoint', 'ftp://x'], /http/],
  [['--model', ' '], /not empty/],
  [['--hub-offline', 'yes'], /on or off/],
  [['--adapter-hosts', 'a.example/path'], /HOST or HOST:PORT/],
  [['--adapter-hosts', 'a.example,'], /HOST or HOST:PORT/],
  [['--adapter-hosts', '*.example'], /HOST or HOST:PORT/],
  [['--adapter-hosts', '[::1'], /HOST or HOST:PORT/],
  [['--adapter-private-hosts', '10.0.0.1'], /accepts HOST:PORT/],
  [['--adapter-private-hosts', '10.0.0.1:70000'], /accepts HOST:PORT/],
  [['inspekt'], /unknown command "inspekt": expected serve, inspect, verify, key or doctor as the first word/],
  [['--port', '1', 'inspect'], /as the first word/],
  [['serve', 'now'], /serve takes flags only, got "now"/],
];

for (const [argv, message] of REFUSED) {
  test(`refuses ${argv.join(' ')}`, () => {
    assert.throws(
      () => parseConfig(argv, HOME, FACTS),
      (error: unknown) => error instanceof LoramuxError && error.code === 'ERR_CONFIG' && message.test(error.message),
    );
  });
}

test('unknown and malformed variables stop the start by name', () => {
  assert.throws(() => parseConfig([], { LORAMUX_PROT: '1' }, FACTS), /unknown variable LORAMUX_PROT: expected one of/);
  assert.throws(() => parseConfig([], { LORAMUX_PORT: 'x' }, FACTS), /LORAMUX_PORT accepts a whole number/);
});

test('the help shows every flag with its default, and wins over everything', () => {
  const command = parseCommand(['--port', 'x', '--help'], HOME, FACTS);
  assert.equal(command.kind, 'help');
  const text = command.kind === 'help' ? command.text : '';
  for (const key of CONFIG_KEYS) {
    assert.ok(text.includes(`--${FLAGS[key].flag} ${FLAGS[key].value}`));
    assert.ok(text.includes(`[${FLAGS[key].defaultText}]`));
  }
  assert.deepEqual(parseCommand(['--version'], HOME, FACTS), { kind: 'version' });
  assert.equal(parseCommand(['--port', '1'], HOME, FACTS).kind, 'serve');
});
