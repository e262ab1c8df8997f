import type { DeviceFallback, DeviceSetting } from '../core/device.js';
import { LoramuxError } from '../core/errors.js';
import type { NativeCudaDevice } from './binding.js';
import type { CudaObstacle, CudaState } from './cuda-probe.js';

/** What will compute. */
export interface DeviceChoice {
  /** Null = the CPU. */
  readonly cuda: { readonly index: number; readonly facts: NativeCudaDevice } | null;
  /** Said loudly: the CPU computes though a GPU was wanted, or is there; or it stands in for one. */
  readonly warning: string | null;
}

/** GPUs below this run none of the compiled kernels. */
const LEAST_CAPABILITY = 80;

/**
 * Decides what computes. `auto` takes the first GPU where one can be used, else the CPU. A GPU that was asked for is
 * never replaced by the CPU unless `fallback` allows it; with `refuse`, `auto` does not fall back either.
 * ERR_CONFIG says what keeps the GPU from being used, and what to do.
 */
export function chooseDevice(
  wanted: DeviceSetting,
  fallback: DeviceFallback | null,
  probe: () => CudaState,
): DeviceChoice {
  if (wanted === 'cpu') return { cuda: null, warning: null };
  const { devices, obstacles, hasDriver } = probe();
  const index = wanted === 'auto' ? 0 : Number(wanted.slice('cuda:'.length));
  const facts = devices[index];
  const obstacle = obstacles[0] ?? unfit(index, facts, devices.length);
  if (obstacle === null && facts !== undefined) {
    const warning = facts.emulated ? 'THE CPU EMULATES A GPU: this addon is for tests, run npm run build:cuda' : null;
    return { cuda: { index, facts }, warning };
  }
  const why = `${obstacle?.found}: ${obstacle?.advice}`;
  const allowed = fallback ?? (wanted === 'auto' ? 'allow' : 'refuse');
  if (allowed === 'refuse') {
    throw new LoramuxError(
      'ERR_CONFIG',
      `--device ${wanted} cannot compute on a GPU: ${why}; or let the CPU compute with --device cpu`,
      { field: '--device' },
    );
  }
  // On a machine without an NVIDIA GPU, a build for the CPU is what was meant.
  const isPlainCpu = wanted === 'auto' && !hasDriver;
  return { cuda: null, warning: isPlainCpu ? null : `THE CPU COMPUTES instead of a GPU. ${why}` };
}

function unfit(index: number, facts: NativeCudaDevice | undefined, count: number): CudaObstacle | null {
  if (facts === undefined) {
    const found = `expected one of the ${count} GPUs that CUDA lists, got cuda:${index}`;
    return { part: 'device', found, advice: `name cuda:0 to cuda:${count - 1}` };
  }
  if (facts.capability >= LEAST_CAPABILITY || facts.emulated) return null;
  const found = `${facts.name} is sm_${facts.capability}`;
  return { part: 'device', found, advice: `kernels are compiled for sm_${LEAST_CAPABILITY} and newer` };
}
