import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Config, HostFacts } from './config.js';
import {
  anyOrOrigins,
  bytes,
  bytesOrNone,
  bytesOrShare,
  choice,
  device,
  duration,
  hostList,
  httpUrl,
  integer,
  listOf,
  nameList,
  onOff,
  originList,
  text,
  type ValueParser,
} from './values.js';

/** What a default may depend on. */
export interface DefaultContext {
  readonly facts: HostFacts;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Directory of the adapters that are shipped for the demo model. */
  readonly demoAdapters: string;
  /** The chosen model. */
  readonly model: string;
}

/** One setting: its flag, its environment twin (`LORAMUX_` + flag in upper snake case), its values and its default. */
export interface Flag<T> {
  readonly flag: string;
  /** Placeholder of the value in the help text. */
  readonly value: string;
  readonly parse: ValueParser<Exclude<T, null>>;
  readonly fallback: (context: DefaultContext) => T;
  /** The default in words. */
  readonly defaultText: string;
  readonly help: string;
}

const port = integer(0, 65535);
const MISSING_STATUS = { '404': 404, '400': 400, '200': 200 } as const;

function cacheDirectory({ env }: DefaultContext): string {
  const base = env.XDG_CACHE_HOME;
  return join(base !== undefined && base !== '' ? base : join(env.HOME ?? homedir(), '.cache'), 'loramux');
}

/** The one table behind flags, environment variables, help text and documentation. Order is the order of the help. */
export const FLAGS: { readonly [K in keyof Config]: Flag<Config[K]> } = {
  model: {
    flag: 'model',
    value: 'MODEL',
    parse: text,
    fallback: () => 'demo',
    defaultText: 'demo',
    help: 'base model: demo, a Hugging Face directory, a .gguf file or a hub id',
  },
  adapters: {
    flag: 'adapters',
    value: 'DIR',
    parse: text,
    fallback: ({ model, demoAdapters }) => (model === 'demo' ? demoAdapters : null),
    defaultText: 'the demo adapters with --model demo, else none',
    help: 'each sub-folder is an adapter named after it',
  },
  host: {
    flag: 'host',
    value: 'HOST',
    parse: text,
    fallback: () => '127.0.0.1',
    defaultText: '127.0.0.1',
    help: 'address to serve on',
  },
  port: {
    flag: 'port',
    value: 'PORT',
    parse: port,
    fallback: () => 8080,
    defaultText: '8080',
    help: 'port to serve on; 0 picks a free one',
  },
  adminHost: {
    flag: 'admin-host',
    value: 'HOST',
    parse: text,
    fallback: () => '127.0.0.1',
    defaultText: '127.0.0.1',
    help: 'address of the admin API',
  },
  adminPort: {
    flag: 'admin-port',
    value: 'PORT',
    parse: port,
    fallback: () => 8081,
    defaultText: '8081',
    help: 'port of the admin API; 0 picks a free one',
  },
  apiKeys: {
    flag: 'api-keys',
    value: 'FILE',
    parse: text,
    fallback: () => null,
    defaultText: 'none',
    help: 'API keys, as loramux key add writes them; changes count at once. Required where other machines reach a listener',
  },
  auth: {
    flag: 'auth',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => true,
    defaultText: 'on',
    help: 'off: other machines may come without a key, because a gateway in front decides',
  },
  publicMetrics: {
    flag: 'public-metrics',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => false,
    defaultText: 'off',
    help: 'on: metrics are read without a key',
  },
  grpcPort: {
    flag: 'grpc-port',
    value: 'PORT',
    parse: port,
    fallback: () => null,
    defaultText: 'not served',
    help: 'port of the gRPC service Generation, on --host; 0 picks a free one',
  },
  grpcAdminPort: {
    flag: 'grpc-admin-port',
    value: 'PORT',
    parse: port,
    fallback: () => null,
    defaultText: 'not served',
    help: 'port of the gRPC service AdapterAdmin, on --admin-host; 0 picks a free one',
  },
  corsOrigins: {
    flag: 'cors-origins',
    value: 'ORIGINS',
    parse: anyOrOrigins,
    fallback: () => [],
    defaultText: 'none',
    help: 'ORIGIN or ORIGIN,ORIGIN…, as https://app.example, or *: sites whose pages may send requests and read replies',
  },
  streamOrigins: {
    flag: 'stream-origins',
    value: 'ORIGINS',
    parse: originList,
    fallback: () => [],
    defaultText: "the server's own",
    help: 'ORIGIN or ORIGIN,ORIGIN…, as https://app.example: sites whose pages may open WebSockets',
  },
  precision: {
    flag: 'precision',
    value: 'PRECISION',
    parse: choice(['f32', 'f16', 'bf16', 'w8', 'w4', 'auto'], { w8a8: 'use w8, which quantises the weights only' }),
    fallback: () => null,
    defaultText: 'f32 on a CPU, auto on a GPU',
    help: 'f32 (reference), f16 or bf16 (GPUs), w8 or w4 (weights of 8 or 4 bits), auto',
  },
  adapterDtype: {
    flag: 'adapter-dtype',
    value: 'DTYPE',
    parse: choice(['file', 'int8', 'int4'], {
      f32: 'file keeps what the adapter came as',
      f16: 'file keeps what the adapter came as',
      bf16: 'file keeps what the adapter came as',
    }),
    fallback: () => 'file',
    defaultText: 'file',
    help: 'file (factors of adapters as they came), int8 (half of float16: faster with many adapters, approximate) or int4 (half of int8, coarser)',
  },
  kvDtype: {
    flag: 'kv-dtype',
    value: 'DTYPE',
    parse: choice(['f32', 'f16', 'bf16'], { auto: 'name a type: f32 is exact, f16 and bf16 take half of the memory' }),
    fallback: () => null,
    defaultText: 'f32 on a CPU; a GPU takes that of its activations',
    help: 'type of keys and values on a CPU: f32 (reference), f16 or bf16 (twice the tokens in --kv-memory, approximate)',
  },
  device: {
    flag: 'device',
    value: 'DEVICE',
    parse: device,
    fallback: () => 'auto',
    defaultText: 'auto',
    help: 'auto (a GPU where one can be used), cpu, cuda or cuda:N',
  },
  deviceFallback: {
    flag: 'device-fallback',
    value: 'SWITCH',
    parse: choice(['allow', 'refuse']),
    fallback: () => null,
    defaultText: 'allow with auto, refuse with cuda',
    help: 'allow or refuse: whether the CPU may take the place of a GPU that cannot be used',
  },
  cudaRuntime: {
    flag: 'cuda-runtime',
    value: 'DIR',
    parse: text,
    fallback: () => null,
    defaultText: '.cuda/runtime of the package',
    help: 'ONNX Runtime with its CUDA provider, as npm run cuda:runtime makes it',
  },
  cudaGraphs: {
    flag: 'cuda-graphs',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => true,
    defaultText: 'on',
    help: 'on: a GPU records the launches of decode steps, once a batch size, and repeats them as one',
  },
  threads: {
    flag: 'threads',
    value: 'N',
    parse: integer(1, 1024),
    fallback: ({ facts }) => facts.cpus,
    defaultText: 'the CPUs this process may use',
    help: 'threads that compute',
  },
  adapterMemoryBytes: {
    flag: 'adapter-memory',
    value: 'SIZE',
    parse: bytes,
    fallback: () => null,
    defaultText: 'memory / 16, at least 64MiB',
    help: 'budget of resident adapters: 64MiB, 8GiB, plain bytes; on a GPU --gpu-memory takes its place',
  },
  adapterHostMemoryBytes: {
    flag: 'adapter-host-memory',
    value: 'SIZE',
    parse: bytesOrNone,
    fallback: () => null,
    defaultText: 'memory / 8 on a GPU',
    help: 'pinned host memory for adapters that leave a GPU, from which they come back without their files; 0: none',
  },
  kvMemoryBytes: {
    flag: 'kv-memory',
    value: 'SIZE',
    parse: bytes,
    fallback: () => null,
    defaultText: 'memory / 64, at least 64MiB',
    help: 'budget of the KV cache; on a GPU --gpu-memory takes its place',
  },
  gpuMemory: {
    flag: 'gpu-memory',
    value: 'SIZE',
    parse: bytesOrShare,
    fallback: () => null,
    defaultText: '0.92',
    help: 'what may be taken of a GPU, a size or a share of what is free; KV cache and adapters share what weights and activations leave of it',
  },
  maxModelLen: {
    flag: 'max-model-len',
    value: 'TOKENS',
    parse: integer(2, 2 ** 31 - 1),
    fallback: () => null,
    defaultText: 'what the model and the KV memory allow',
    help: 'longest prompt and answer together',
  },
  maxBatchTokens: {
    flag: 'max-batch-tokens',
    value: 'N',
    parse: integer(1, 2 ** 20),
    fallback: () => 512,
    defaultText: '512',
    help: 'rows of one step, prompts and answers together',
  },
  maxPrefillRows: {
    flag: 'max-prefill-rows',
    value: 'N',
    parse: integer(1, 2 ** 20),
    fallback: () => null,
    defaultText: '64, on a GPU 1024',
    help: 'rows of prompts in a step that continues answers too: less delays those less, more reads prompts faster; a longer prompt gets a quarter, all such three quarters',
  },
  maxSequences: {
    flag: 'max-sequences',
    value: 'N',
    parse: integer(1, 65536),
    fallback: () => 64,
    defaultText: '64',
    help: 'requests that run at once',
  },
  maxQueue: {
    flag: 'max-queue',
    value: 'N',
    parse: integer(1, 2 ** 20),
    fallback: () => 1024,
    defaultText: '1024',
    help: 'requests that may wait; the next one is answered 429',
  },
  prefixCache: {
    flag: 'prefix-cache',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => true,
    defaultText: 'on',
    help: 'on: requests that begin alike, under the same adapters, share their KV cache',
  },
  speculation: {
    flag: 'speculation',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => true,
    defaultText: 'on',
    help: 'on: text that repeats itself is guessed and checked, several tokens a step, where that pays; the same answers',
  },
  launchAhead: {
    flag: 'launch-ahead',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => null,
    defaultText: 'on on a GPU, off on a CPU',
    help: 'on: the next step is handed to the engine while one runs; the same answers, new requests start a step later',
  },
  drainTimeoutMs: {
    flag: 'drain-timeout',
    value: 'TIME',
    parse: duration,
    fallback: () => 30_000,
    defaultText: '30s',
    help: 'how long a stop waits for running requests: 250ms, 30s, 2m',
  },
  servedNames: {
    flag: 'served-model-name',
    value: 'NAMES',
    parse: nameList,
    fallback: () => [],
    defaultText: "the model's own name",
    help: 'NAME or NAME,NAME…: further names of the base on OpenAI routes, the first for replies',
  },
  maxChoices: {
    flag: 'max-choices',
    value: 'N',
    parse: integer(1, 128),
    fallback: () => 16,
    defaultText: '16',
    help: 'largest n of one OpenAI request',
  },
  maxBestOf: {
    flag: 'max-best-of',
    value: 'N',
    parse: integer(1, 128),
    fallback: () => 2,
    defaultText: '2',
    help: 'largest best_of of one request',
  },
  toolCallFormat: {
    flag: 'tool-call-format',
    value: 'FORMAT',
    parse: choice(['auto', 'hermes', 'llama3', 'mistral', 'none']),
    fallback: () => 'auto' as const,
    defaultText: 'auto',
    help: 'how calls of tools are found in answers; auto: as the chat template shows them; none: only where they are forced',
  },
  vllmLoraApi: {
    flag: 'vllm-lora-api',
    value: 'WHO',
    parse: choice(['off', 'on', 'loopback']),
    fallback: ({ env }) => (/^(?:true|1)$/i.test(env.VLLM_ALLOW_RUNTIME_LORA_UPDATING ?? '') ? 'on' : 'off'),
    defaultText: 'off, or on with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true',
    help: 'on, or loopback for callers on this machine: the routes of vLLM that load and unload adapters',
  },
  vllmUnloadMissing: {
    flag: 'vllm-unload-missing',
    value: 'STATUS',
    parse: (value, origin) => MISSING_STATUS[choice(['404', '400', '200'])(value, origin)],
    fallback: () => 404,
    defaultText: '404',
    help: '404, 400 or 200: what those routes answer to an unload of an adapter that is not there',
  },
  cacheDir: {
    flag: 'cache-dir',
    value: 'DIR',
    parse: text,
    fallback: cacheDirectory,
    defaultText: 'loramux in the XDG cache directory',
    help: 'where prepared models are kept',
  },
  logLevel: {
    flag: 'log-level',
    value: 'LEVEL',
    parse: choice(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']),
    fallback: () => 'info',
    defaultText: 'info',
    help: 'trace, debug, info, warn, error, fatal or silent',
  },
  hubEndpoint: {
    flag: 'hub-endpoint',
    value: 'URL',
    parse: httpUrl,
    fallback: () => null,
    defaultText: "the hub client's own",
    help: 'address of the model hub',
  },
  hubToken: {
    flag: 'hub-token',
    value: 'TOKEN',
    parse: text,
    fallback: () => null,
    defaultText: 'none',
    help: 'opens private repositories; better given as the variable, which no process list shows',
  },
  hubOffline: {
    flag: 'hub-offline',
    value: 'SWITCH',
    parse: onOff,
    fallback: () => false,
    defaultText: 'off',
    help: 'on: use what was fetched from the hub before, and ask it nothing',
  },
  s3Endpoint: {
    flag: 's3-endpoint',
    value: 'URL',
    parse: httpUrl,
    fallback: () => null,
    defaultText: "the AWS client's own",
    help: 'S3-compatible service for s3:// adapters, addressed path-style',
  },
  adapterDiskBytes: {
    flag: 'adapter-disk',
    value: 'SIZE',
    parse: bytes,
    fallback: () => 8 * 2 ** 30,
    defaultText: '8GiB',
    help: 'budget of fetched and uploaded adapters in the cache directory',
  },
  maxAdapterBytes: {
    flag: 'max-adapter-size',
    value: 'SIZE',
    parse: bytes,
    fallback: () => 2 * 2 ** 30,
    defaultText: '2GiB',
    help: 'largest adapter, all its files together',
  },
  fetchTimeoutMs: {
    flag: 'adapter-fetch-timeout',
    value: 'TIME',
    parse: duration,
    fallback: () => 600_000,
    defaultText: '10m',
    help: 'longest fetch or upload of one adapter',
  },
  adapterHosts: {
    flag: 'adapter-hosts',
    value: 'HOSTS',
    parse: hostList(false),
    fallback: () => [],
    defaultText: 'none',
    help: 'HOST or HOST:PORT, separated by commas: adapters may be fetched from their public addresses',
  },
  adapterPrivateHosts: {
    flag: 'adapter-private-hosts',
    value: 'HOSTS',
    parse: hostList(true),
    fallback: () => [],
    defaultText: 'none',
    help: 'HOST:PORT, separated by commas: the same at any address, private and loopback ones too',
  },
  requestSources: {
    flag: 'request-sources',
    value: 'SOURCES',
    parse: listOf(['hub', 's3'], 'none'),
    fallback: () => ['hub'],
    defaultText: 'hub',
    help: 'none, or hub and s3, separated by commas: where a request may have adapters loaded from',
  },
};

/** The keys of FLAGS with their type kept. */
export const CONFIG_KEYS = Object.keys(FLAGS) as readonly (keyof Config)[];

/** Environment variable that stands for a flag: `max-queue` → `LORAMUX_MAX_QUEUE`. */
export function variableOf(flag: string): string {
  return `LORAMUX_${flag.toUpperCase().replaceAll('-', '_')}`;
}
