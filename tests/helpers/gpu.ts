import { defaultCudaRuntime, useCudaAddon } from '../../src/engine/addon.js';
import { probeCuda } from '../../src/engine/cuda-probe.js';

const runtime = defaultCudaRuntime();
const { obstacles, devices } = probeCuda(runtime);

/** Why tests that need a GPU are skipped here; false where they run. */
export const NO_GPU: string | false =
  obstacles.length === 0 ? false : obstacles.map(({ found, advice }) => `${found} (${advice})`).join('; ');

/** The first GPU, as `NativeEngineOptions` wants it. Only where NO_GPU is false. */
export const GPU = { device: 0 } as const;

export const GPU_NAME = devices[0]?.name ?? 'none';

/** The CPU stands in for the GPU: what passes says nothing about one. */
export const IS_EMULATED = devices[0]?.emulated ?? false;

// Whoever imports this tests the addon for CUDA.
if (NO_GPU === false) useCudaAddon(runtime);
