import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { toLoramuxError } from '../core/errors.js';
import { addonPath, loadAddon, RUNTIME_LIBRARY } from './addon.js';
import type { NativeCudaDevice } from './binding.js';

/** A part that computing on a GPU needs and that is not there: what was found, and what to do about it. */
export interface CudaObstacle {
  readonly part: 'addon' | 'runtime' | 'device';
  readonly found: string;
  readonly advice: string;
}

/** What this machine and build have for computing on a GPU. */
export interface CudaState {
  /** In the order in which they are needed; empty: an engine may be opened. */
  readonly obstacles: readonly CudaObstacle[];
  /** By CUDA's index; empty where there is an obstacle. */
  readonly devices: readonly NativeCudaDevice[];
  /** The machine has an NVIDIA driver. */
  readonly hasDriver: boolean;
}

/** What a folder of `npm run cuda:runtime` holds, at least: ONNX Runtime, its CUDA provider, and what joins them. */
export const RUNTIME_FILES = [
  RUNTIME_LIBRARY,
  'libonnxruntime_providers_shared.so',
  'libonnxruntime_providers_cuda.so',
] as const;

/** What is asked of machine and build; tests answer in its place. */
export interface CudaProbe {
  exists(path: string): boolean;
  /** The GPUs, as the addon for CUDA lists them; its errors are what is wrong. Null where it was built without CUDA. */
  devices(): readonly NativeCudaDevice[] | null;
}

export const THIS_MACHINE: CudaProbe = {
  exists: existsSync,
  devices: () => loadAddon('cuda').cudaDevices?.() ?? null,
};

/** The driver's face in the file system; containers that were given a GPU have it too. */
const DRIVER_FILES = ['/proc/driver/nvidia/version', '/dev/nvidiactl', '/dev/dxg'];

/** Looks for all that computing on a GPU needs. Loads the addon for CUDA, without ONNX Runtime, where it was built. */
export function probeCuda(runtime: string, probe: CudaProbe = THIS_MACHINE): CudaState {
  const hasDriver = DRIVER_FILES.some((path) => probe.exists(path));
  const addon = addonPath('cuda');
  if (!probe.exists(addon)) {
    const found = `this build is without CUDA: no ${addon}`;
    return { hasDriver, devices: [], obstacles: [{ part: 'addon', found, advice: 'npm run build:cuda' }] };
  }
  const obstacles: CudaObstacle[] = [];
  const absent = RUNTIME_FILES.filter((file) => !probe.exists(join(runtime, file)));
  if (absent.length > 0) {
    const found = `no ${absent.join(', ')} in ${runtime}`;
    obstacles.push({ part: 'runtime', found, advice: 'npm run cuda:runtime, or name the folder in --cuda-runtime' });
  }
  let devices: readonly NativeCudaDevice[] | null = [];
  try {
    devices = probe.devices();
    if (devices === null)
      obstacles.push({ part: 'addon', found: `${addon} was built without CUDA`, advice: 'npm run build:cuda' });
    else if (devices.length === 0)
      obstacles.push({ part: 'device', found: 'CUDA lists no GPU', advice: driverAdvice(hasDriver) });
  } catch (error) {
    obstacles.push({ part: 'device', found: toLoramuxError(error).message, advice: driverAdvice(hasDriver) });
  }
  return { hasDriver, obstacles, devices: obstacles.length === 0 ? (devices ?? []) : [] };
}

function driverAdvice(hasDriver: boolean): string {
  return hasDriver
    ? 'check nvidia-smi, CUDA_VISIBLE_DEVICES, and that the driver is for CUDA 13 (580 or newer)'
    : 'install an NVIDIA driver for CUDA 13 (580 or newer); containers need --gpus';
}
