import type { AdapterDtype } from '../core/adapter.js';
import type { AdminCall, AdminReply, EngineState } from '../core/adapter-admin.js';
import type { FetchSettings } from '../core/adapter-fetch.js';
import type { EngineLimits } from '../core/engine-client.js';
import type { ErrorRecord } from '../core/errors.js';
import type { KvDtype, PreparedModel } from '../core/model-manifest.js';
import type { GenerateRequest } from '../core/request.js';
import type { Telemetry } from '../core/telemetry.js';
import type { PackedEvents } from './packed-events.js';

/** Everything that crosses between the main thread and the engine worker: plain data, no functions, no handles. */

/** Adapters that are no directories: where they are kept and how they are fetched. */
export interface SourcesStart {
  /** Of the disk tier. */
  readonly directory: string;
  readonly capacityBytes: number;
  readonly hubOffline: boolean;
  readonly fetch: FetchSettings;
}

/** A GPU that computes. */
export interface CudaStart {
  /** As CUDA counts. */
  readonly device: number;
  readonly name: string;
  /** 90 for sm_90. */
  readonly capability: number;
  /** Decode steps are captured as CUDA graphs. */
  readonly graphs: boolean;
}

/** What the worker is started with. */
export interface WorkerStart {
  readonly model: PreparedModel;
  /** Ids of the tokenizer; logits at or above are padding of the embedding. */
  readonly tokenCount: number;
  readonly adapterRoots: readonly string[];
  /** Absent = adapters come from directories only. */
  readonly sources?: SourcesStart;
  /** Longest safetensors file; 2 GiB when absent. */
  readonly maxAdapterBytes?: number;
  /** `file` when absent. */
  readonly adapterDtype?: AdapterDtype;
  /** `f32` when absent; a GPU has none. */
  readonly kvDtype?: KvDtype;
  /** The GPU that computes; the CPU when absent. */
  readonly cuda?: CudaStart;
  readonly threads: number;
  /** On a GPU that of the KV cache, whose pages adapters share. */
  readonly adapterMemoryBytes: number;
  /** Pinned host memory for copies of adapters that leave a GPU; 0 or absent = none. */
  readonly adapterHostMemoryBytes?: number;
  readonly kvMemoryBytes: number;
  readonly maxModelLen: number | null;
  readonly maxBatchTokens: number;
  /** Prefill rows of a step that has decode rows too. */
  readonly maxPrefillRows: number;
  readonly maxSequences: number;
  readonly maxQueue: number;
  /** KV blocks are kept when their requests end, and shared. */
  readonly prefixCache: boolean;
  readonly speculation: boolean;
  /** The next step is planned and handed over, where that may be, while one runs. */
  readonly launchAhead: boolean;
}

export type ToWorker =
  | { readonly type: 'submit'; readonly request: GenerateRequest }
  | { readonly type: 'abort'; readonly id: number }
  | { readonly type: 'admin'; readonly callId: number; readonly call: AdminCall }
  | { readonly type: 'stop' };

export type FromWorker =
  | { readonly type: 'ready'; readonly limits: EngineLimits; readonly state: EngineState }
  /** At most one per step, plus one for what happens between steps. */
  | {
      readonly type: 'events';
      readonly events: PackedEvents;
      readonly facts: readonly Telemetry[];
      readonly state: EngineState;
    }
  | { readonly type: 'admin-reply'; readonly callId: number; readonly reply: AdminReply }
  | { readonly type: 'admin-error'; readonly callId: number; readonly error: ErrorRecord }
  | { readonly type: 'log'; readonly level: 'info' | 'warn' | 'error'; readonly event: string; readonly text: string }
  | { readonly type: 'fatal'; readonly error: ErrorRecord }
  | { readonly type: 'stopped' };
