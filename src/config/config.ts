import type { AdapterDtype } from '../core/adapter.js';
import type { HostRule } from '../core/adapter-fetch.js';
import type { DeviceFallback, DeviceSetting } from '../core/device.js';
import type { KvDtype, Precision } from '../core/model-manifest.js';

/** Everything a start of the server is told, checked and complete. Frozen; nothing else reads flags or environment. */
export interface Config {
  /** `demo`, a directory, a `.gguf` file or a hub id. */
  readonly model: string;
  /** Directory whose sub-folders are adapters named after them; null = none at start. */
  readonly adapters: string | null;
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  readonly adminHost: string;
  /** 0 = any free port. */
  readonly adminPort: number;
  /** File of API keys; null = none are configured. */
  readonly apiKeys: string | null;
  /** Keys are required of listeners that other machines reach; false: none are, whatever is reached. */
  readonly auth: boolean;
  /** Metrics are read without a key. */
  readonly publicMetrics: boolean;
  /** Of the gRPC service Generation, on `host`; 0 = any free port, null = not served. */
  readonly grpcPort: number | null;
  /** Of the gRPC service AdapterAdmin, on `adminHost`; 0 = any free port, null = not served. */
  readonly grpcAdminPort: number | null;
  /** Sites whose pages may read replies, as `https://app.example`; `*` = all. */
  readonly corsOrigins: readonly string[];
  /** Sites whose pages may open streams, beside the server's own; as `https://app.example`. */
  readonly streamOrigins: readonly string[];
  /** Null = what the device is best at: f32 on a CPU, `auto` on a GPU. */
  readonly precision: Precision | 'auto' | null;
  /** How the factors of adapters are kept. */
  readonly adapterDtype: AdapterDtype;
  /** Null = float32 on a CPU, the activations' type on a GPU. */
  readonly kvDtype: KvDtype | null;
  readonly device: DeviceSetting;
  /** Whether the CPU may take the place of a GPU; null = with `auto` only. */
  readonly deviceFallback: DeviceFallback | null;
  /** Folder of ONNX Runtime with its CUDA provider; null = the checkout's own. */
  readonly cudaRuntime: string | null;
  /** Decode steps of a GPU are captured as CUDA graphs. */
  readonly cudaGraphs: boolean;
  readonly threads: number;
  /** Of a CPU's; null = a share of the process's memory. */
  readonly adapterMemoryBytes: number | null;
  /** Pinned host memory for copies of adapters that leave a GPU, 0 = none; null = a share of the memory. */
  readonly adapterHostMemoryBytes: number | null;
  /** Of a CPU's; null = a share of the process's memory. */
  readonly kvMemoryBytes: number | null;
  /** Of a GPU's, in all: bytes, or at most 1: a share of what is free; null = the default share. */
  readonly gpuMemory: number | null;
  /** Longest prompt + answer in tokens; null = what the model and the KV memory allow. */
  readonly maxModelLen: number | null;
  /** Rows of one step. */
  readonly maxBatchTokens: number;
  /** Rows of prompts in a step that decodes too; null = what suits the device. */
  readonly maxPrefillRows: number | null;
  /** Sequences running at once. */
  readonly maxSequences: number;
  /** Requests waiting at most; the next one is refused. */
  readonly maxQueue: number;
  /** KV blocks are kept when their requests end, and shared. */
  readonly prefixCache: boolean;
  readonly speculation: boolean;
  /** The next step is handed to the engine while one runs; null = what suits the device. */
  readonly launchAhead: boolean | null;
  readonly drainTimeoutMs: number;
  /** Further names of the base model on OpenAI's routes; the first is the one that replies say. */
  readonly servedNames: readonly string[];
  /** Largest `n` of one request. */
  readonly maxChoices: number;
  /** Largest `best_of` of one request. */
  readonly maxBestOf: number;
  /** Whether vLLM's routes that load and unload adapters are served, and to whom. */
  readonly toolCallFormat: 'auto' | 'hermes' | 'llama3' | 'mistral' | 'none';
  readonly vllmLoraApi: 'off' | 'on' | 'loopback';
  /** Status of an unload by those routes of an adapter that is not there. */
  readonly vllmUnloadMissing: 200 | 400 | 404;
  readonly cacheDir: string;
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
  /** Hub to fetch models and adapters from; null = the hub client's own default. */
  readonly hubEndpoint: string | null;
  /** For private repositories; requests may bring their own. Never shown. */
  readonly hubToken: string | null;
  /** Use what was fetched from the hub before, and ask it nothing. */
  readonly hubOffline: boolean;
  /** S3-compatible service, addressed path-style; null = AWS's own client decides. */
  readonly s3Endpoint: string | null;
  /** Budget of adapters fetched or uploaded, on the disk. */
  readonly adapterDiskBytes: number;
  /** Largest adapter, all its files together. */
  readonly maxAdapterBytes: number;
  /** Longest fetch of one adapter. */
  readonly fetchTimeoutMs: number;
  /** Hosts that adapters may be fetched from over HTTP, at public addresses. */
  readonly adapterHosts: readonly HostRule[];
  /** The same at any address; each with its port. */
  readonly adapterPrivateHosts: readonly HostRule[];
  /** Where requests may have adapters loaded from by `adapter_source`. */
  readonly requestSources: readonly ('hub' | 's3')[];
}

/** What defaults depend on. */
export interface HostFacts {
  /** CPUs this process may use. */
  readonly cpus: number;
  /** Bytes of memory this process may use. */
  readonly memoryBytes: number;
}
