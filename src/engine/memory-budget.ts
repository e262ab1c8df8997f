import { LoramuxError } from '../core/errors.js';
import type { DecoderConfig } from '../core/model-manifest.js';

const MIB = 2 ** 20;
/** Budgets below this hold too little to serve with. */
const LEAST_BYTES = 64 * MIB;
/** Of a GPU's free memory, what is given out: the rest is for CUDA's own context, graphs and fragmentation. */
const USABLE_SHARE = 0.92;
/** Of what weights and activations leave on a GPU, the adapters' share when nothing else is said. */
const ADAPTER_SHARE = 0.2;

export interface MemoryBudget {
  readonly adapterMemoryBytes: number;
  readonly kvMemoryBytes: number;
}

/** What was configured; null = by default. */
export interface WantedMemory {
  readonly adapterMemoryBytes: number | null;
  readonly kvMemoryBytes: number | null;
}

/** On a CPU: shares of the memory that the process may use. */
export function hostBudget(memoryBytes: number, wanted: WantedMemory): MemoryBudget {
  const share = (divisor: number) => Math.max(LEAST_BYTES, Math.floor(memoryBytes / divisor));
  return {
    adapterMemoryBytes: wanted.adapterMemoryBytes ?? share(16),
    kvMemoryBytes: wanted.kvMemoryBytes ?? share(64),
  };
}

/** What besides KV and adapters lies in a GPU's memory. */
export interface DeviceLoad {
  /** Free before anything of ours was there. */
  readonly freeBytes: number;
  readonly weightsBytes: number;
  readonly config: DecoderConfig;
  /** Bytes of one activation. */
  readonly elementBytes: number;
  /** Rows of the largest step. */
  readonly maxBatchTokens: number;
}

/**
 * On a GPU: of what weights and activations leave of its free memory, a fifth for adapters and the rest for the KV
 * cache, or the rest beside what was asked for. ERR_CONFIG when that is too little, with the figures.
 */
export function deviceBudget(load: DeviceLoad, wanted: WantedMemory): MemoryBudget {
  const taken = load.weightsBytes + activationBytes(load);
  const room = Math.floor(load.freeBytes * USABLE_SHARE) - taken;
  const adapters =
    wanted.adapterMemoryBytes ??
    Math.max(
      LEAST_BYTES,
      Math.floor(wanted.kvMemoryBytes === null ? room * ADAPTER_SHARE : room - wanted.kvMemoryBytes),
    );
  const kv = wanted.kvMemoryBytes ?? room - adapters;
  if (kv < Math.min(LEAST_BYTES, wanted.kvMemoryBytes ?? LEAST_BYTES) || adapters + kv > room) {
    const mib = (bytes: number) => `${Math.round(bytes / MIB)} MiB`;
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected the GPU's memory to hold adapters (${mib(adapters)}) and KV cache (${mib(Math.max(kv, LEAST_BYTES))}) beside weights and activations (${mib(taken)}), found ${mib(load.freeBytes)} free: end other programs on it, lower --adapter-memory, --kv-memory or --max-batch-tokens, or serve a smaller model`,
    );
  }
  return { adapterMemoryBytes: adapters, kvMemoryBytes: kv };
}

/**
 * An upper bound of what one step's graph holds at once: a few rows of the widest matrices each, logits of every row
 * twice (once widened for sampling), and cuBLAS's workspaces.
 */
function activationBytes({ config, elementBytes, maxBatchTokens }: DeviceLoad): number {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize } = config;
  const wide = 6 * hiddenSize + 4 * intermediateSize + 2 * (heads + 2 * kvHeads) * headDim;
  return maxBatchTokens * (wide * elementBytes + vocabSize * (elementBytes + 4)) + 256 * MIB;
}
