import { resolve } from 'node:path';
import type { Config } from './config/config.js';
import { LoramuxError } from './core/errors.js';
import { elementBytes, type ModelManifest, type Precision } from './core/model-manifest.js';
import { defaultCudaRuntime, useCudaAddon } from './engine/addon.js';
import type { NativeCudaDevice } from './engine/binding.js';
import { chooseDevice, type DeviceChoice } from './engine/choose-device.js';
import { probeCuda } from './engine/cuda-probe.js';
import { deviceBudget, hostBudget, type MemoryBudget } from './engine/memory-budget.js';
import type { CudaStart } from './messages/worker-messages.js';
import type { DeviceKind } from './model/choose-precision.js';

/** Settings that decide what computes. */
export const DEVICE_SETTINGS = [
  'device',
  'deviceFallback',
  'cudaRuntime',
  'cudaGraphs',
  'adapterDtype',
  'kvDtype',
  'adapterHostMemoryBytes',
] as const;

/** Rows of prompts beside answers: what a step of a CPU, and of a GPU, reads without holding answers up for long. */
const PREFILL_ROWS = { cpu: 64, cuda: 1024 } as const;

/** Of the memory that the process may use, what holds copies of a GPU's adapters when nothing else is said. */
const HOST_SHARE = 1 / 8;

/** What computes in this process, and what settings that were left open come to on it. */
export class StartedDevice {
  readonly kind: DeviceKind;
  /** What the engine worker is told; empty for a CPU. */
  readonly start: { readonly cuda?: CudaStart };
  /** For people. */
  readonly title: string;
  readonly #facts: NativeCudaDevice | null;

  constructor(cuda: DeviceChoice['cuda'], graphs: boolean) {
    this.kind = cuda === null ? 'cpu' : 'cuda';
    this.#facts = cuda?.facts ?? null;
    if (cuda === null) {
      this.title = 'the CPU';
      this.start = {};
    } else {
      const { name, capability, freeBytes } = cuda.facts;
      this.title = `cuda:${cuda.index}, ${name}, ${Math.floor(freeBytes / 2 ** 20)} MiB free`;
      this.start = { cuda: { device: cuda.index, name, capability, graphs } };
    }
  }

  precision({ precision }: Pick<Config, 'precision'>): Precision | 'auto' {
    return precision ?? (this.kind === 'cuda' ? 'auto' : 'f32');
  }

  prefillRows({ maxPrefillRows }: Pick<Config, 'maxPrefillRows'>): number {
    return maxPrefillRows ?? PREFILL_ROWS[this.kind];
  }

  /** Whether the next step is handed over while one runs. */
  launchAhead({ launchAhead }: Pick<Config, 'launchAhead'>): boolean {
    return launchAhead ?? this.kind === 'cuda';
  }

  /** Pinned host memory for copies of adapters that leave a GPU; 0 on a CPU. */
  hostMemory({ adapterHostMemoryBytes }: Pick<Config, 'adapterHostMemoryBytes'>, memoryBytes: number): number {
    if (this.#facts === null) return 0;
    return adapterHostMemoryBytes ?? Math.floor(memoryBytes * HOST_SHARE);
  }

  /** ERR_CONFIG when a GPU's memory is too small, and for budgets that are another device's. */
  memory(
    wanted: Pick<Config, 'adapterMemoryBytes' | 'kvMemoryBytes' | 'gpuMemory' | 'maxBatchTokens'>,
    manifest: ModelManifest,
    memoryBytes: number,
  ): MemoryBudget {
    if (this.#facts === null) return hostBudget(memoryBytes, wanted);
    const { freeBytes } = this.#facts;
    const { maxBatchTokens } = wanted;
    const load = {
      freeBytes,
      weightsBytes: manifest.weights.bytes,
      config: manifest.config,
      elementBytes: elementBytes(manifest),
      maxBatchTokens,
    };
    return deviceBudget(load, wanted);
  }
}

/**
 * Decides what computes, and which addon this process loads; before anything else loads one. The CPU in the place of a
 * GPU is said to `warn`. ERR_CONFIG says what keeps a GPU from being used where the CPU may not take its place.
 */
export function startDevice(
  config: Pick<Config, (typeof DEVICE_SETTINGS)[number]>,
  warn: (text: string) => void,
  probe: typeof probeCuda = probeCuda,
): StartedDevice {
  const runtime = resolve(config.cudaRuntime ?? defaultCudaRuntime());
  const { cuda, warning } = chooseDevice(config.device, config.deviceFallback, () => probe(runtime));
  if (warning !== null) warn(warning);
  if (cuda !== null) {
    if (config.adapterDtype === 'int4')
      throw new LoramuxError(
        'ERR_CONFIG',
        '--adapter-dtype int4: expected file or int8 on a GPU: factors of 4 bits have kernels for CPUs only',
        { field: '--adapter-dtype' },
      );
    if (config.kvDtype !== null)
      throw new LoramuxError(
        'ERR_CONFIG',
        `--kv-dtype ${config.kvDtype}: expected none on a GPU: keys and values there have the type of activations`,
        { field: '--kv-dtype' },
      );
    useCudaAddon(runtime);
  } else if ((config.adapterHostMemoryBytes ?? 0) > 0) {
    throw new LoramuxError(
      'ERR_CONFIG',
      '--adapter-host-memory: expected a GPU, whose adapters it keeps: a CPU has all of them in host memory, give it --adapter-memory',
      { field: '--adapter-host-memory' },
    );
  }
  return new StartedDevice(cuda, config.cudaGraphs);
}
