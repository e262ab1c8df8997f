import { LoramuxError } from '../core/errors.js';
import type { DecoderConfig } from '../core/model-manifest.js';

const MIB = 2 ** 20;
/** Budgets below this hold too little to serve with. */
const LEAST_BYTES = 64 * MIB;
/** Of a GPU's free memory, what is taken when nothing else is said: the rest is for CUDA's own context, graphs and fragmentation. */
const USABLE_SHARE = 0.92;

/** On a GPU both are the same memory, whose pages KV cache and adapters share. */
export interface MemoryBudget {
  readonly adapterMemoryBytes: number;
  readonly kvMemoryBytes: number;
}

/** What was configured; null = by default. */
export interface WantedMemory {
  readonly adapterMemoryBytes: number | null;
  readonly kvMemoryBytes: number | null;
  /** Bytes, or at most 1: a share of what is free. */
  readonly gpuMemory: number | null;
}

/** On a CPU: shares of the memory that the process may use. ERR_CONFIG for what only a GPU has. */
export function hostBudget(memoryBytes: number, wanted: WantedMemory): MemoryBudget {
  if (wanted.gpuMemory !== null) {
    throw misplaced('--gpu-memory', 'the CPU computes', 'set --kv-memory and --adapter-memory instead');
  }
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
 * On a GPU: what weights and activations leave of the memory that may be taken. ERR_CONFIG when that is too little, with
 * the figures, and for shares that only a CPU has.
 */
export function deviceBudget(load: DeviceLoad, wanted: WantedMemory): MemoryBudget {
  for (const [flag, bytes] of [
    ['--kv-memory', wanted.kvMemoryBytes],
    ['--adapter-memory', wanted.adapterMemoryBytes],
  ] as const) {
    if (bytes === null) continue;
    throw misplaced(flag, 'KV cache and adapters share the memory of a GPU', 'set --gpu-memory, or nothing');
  }
  const { freeBytes, weightsBytes } = load;
  const { gpuMemory } = wanted;
  const taken = weightsBytes + activationBytes(load);
  const most = gpuMemory !== null && gpuMemory > 1 ? gpuMemory : Math.floor(freeBytes * (gpuMemory ?? USABLE_SHARE));
  const room = most - taken;
  if (room < 2 * LEAST_BYTES || most > freeBytes) {
    const mib = (bytes: number) => `${Math.round(bytes / MIB)} MiB`;
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected the GPU's memory to hold weights and activations (${mib(taken)}) and beside them KV cache and adapters (${mib(2 * LEAST_BYTES)} at least), found ${mib(freeBytes)} free, of which ${mib(most)} may be taken: end other programs on it, change --gpu-memory, lower --max-batch-tokens, or serve a smaller model`,
    );
  }
  return { adapterMemoryBytes: room, kvMemoryBytes: room };
}

function misplaced(flag: string, why: string, instead: string): LoramuxError {
  return new LoramuxError('ERR_CONFIG', `${flag}: ${why}: ${instead}`, { field: flag });
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
