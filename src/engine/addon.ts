import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads';
import { LoramuxError } from '../core/errors.js';
import type { NativeBinding } from './binding.js';

/** Finds and loads the native addon and the ONNX Runtime that it opens. Only this file loads them. */

const require = createRequire(import.meta.url);

/** The package root, found from this file wherever it was built to. */
export function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const parent = dirname(directory);
    if (parent === directory)
      throw new LoramuxError('ERR_NATIVE_LOAD', 'no package.json above the loramux sources: reinstall the package');
    directory = parent;
  }
  return directory;
}

/** The two addons: for CPUs, and for CPUs and NVIDIA GPUs. */
export type AddonKind = 'cpu' | 'cuda';

const ADDONS: Readonly<Record<AddonKind, { readonly file: string; readonly build: string }>> = {
  cpu: { file: 'loramux.node', build: '`npm run build:native` (needs Rust)' },
  cuda: { file: 'loramux-cuda.node', build: '`npm run build:cuda` (needs Rust, and nvcc or pip)' },
};

/** Absolute path of an addon, whether it is there or not. */
export function addonPath(kind: AddonKind): string {
  return join(packageRoot(), 'native', ADDONS[kind].file);
}

/** Where `npm run cuda:runtime` puts ONNX Runtime with its CUDA provider. */
export function defaultCudaRuntime(): string {
  return join(packageRoot(), '.cuda', 'runtime');
}

/** File of ONNX Runtime on Linux, where CUDA is. */
export const RUNTIME_LIBRARY = 'libonnxruntime.so.1';

/** Absolute path of the ONNX Runtime library inside the installed `onnxruntime-node`. */
export function runtimeLibraryPath(): string {
  const names: Record<string, string> = {
    linux: RUNTIME_LIBRARY,
    darwin: 'libonnxruntime.1.30.0.dylib',
    win32: 'onnxruntime.dll',
  };
  const name = names[process.platform] ?? RUNTIME_LIBRARY;
  const entry = require.resolve('onnxruntime-node/package.json');
  const path = join(dirname(entry), 'bin', 'napi-v6', process.platform, process.arch, name);
  if (!existsSync(path)) {
    throw new LoramuxError(
      'ERR_NATIVE_LOAD',
      `expected ONNX Runtime at ${path}, but onnxruntime-node ships no library for ${process.platform}-${process.arch}: run on a platform it supports`,
    );
  }
  return path;
}

/** Version of the installed `onnxruntime-node`, whose library the addon opens. */
export function runtimeVersion(): string {
  return (require('onnxruntime-node/package.json') as { version: string }).version;
}

/** An addon without ONNX Runtime. ERR_NATIVE_LOAD says what was tried. */
export function loadAddon(kind: AddonKind): NativeBinding {
  const path = addonPath(kind);
  try {
    return require(path) as NativeBinding;
  } catch (cause) {
    const reason = existsSync(path) ? `: ${(cause as Error).message}` : '';
    throw new LoramuxError(
      'ERR_NATIVE_LOAD',
      `could not load the native addon ${path} on ${process.platform}-${process.arch}, Node ${process.version}${reason}: run ${ADDONS[kind].build}`,
      undefined,
      { cause },
    );
  }
}

const CUDA_RUNTIME = 'loramux.cudaRuntime';

let loaded: NativeBinding | undefined;

/**
 * Lets this thread and the workers that it starts load the addon for CUDA, on the ONNX Runtime in the folder `runtime`:
 * a process opens one library. Before the first `loadBinding`.
 */
export function useCudaAddon(runtime: string): void {
  setEnvironmentData(CUDA_RUNTIME, runtime);
}

/** The addon, loaded once per thread, with ONNX Runtime opened. ERR_NATIVE_LOAD says what was tried. */
export function loadBinding(): NativeBinding {
  if (loaded !== undefined) return loaded;
  const runtime = getEnvironmentData(CUDA_RUNTIME);
  const binding = loadAddon(typeof runtime === 'string' ? 'cuda' : 'cpu');
  binding.initRuntime(typeof runtime === 'string' ? join(runtime, RUNTIME_LIBRARY) : runtimeLibraryPath());
  loaded = binding;
  return binding;
}
