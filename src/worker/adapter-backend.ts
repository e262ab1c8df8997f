import type { HostTierBackend } from '../adapters/host-tier.js';
import type { AdapterBackend } from '../adapters/loader.js';
import type { NativeBinding, NativeEngine } from '../engine/binding.js';

/** What loading adapters into `engine` needs of the native side. */
export function adapterBackend(binding: NativeBinding, engine: NativeEngine): AdapterBackend {
  return {
    openAdapterFile: (path, maxBytes) => binding.openAdapterFile(path, maxBytes),
    firstMatches: (patterns, names) => binding.firstMatches(patterns, names),
    mergeAdapterFiles: (files, recipe) => binding.mergeAdapterFiles(files, recipe),
    compileAdapter: (file, planJson) => engine.compileAdapter(file, planJson),
    placeAdapter: (handle, pages) => engine.placeAdapter(handle, pages),
    releaseAdapter: (handle) => engine.releaseAdapter(handle),
  };
}

/** What keeping adapters of a device on the host needs of it. */
export function hostTierBackend(engine: NativeEngine): HostTierBackend {
  return {
    keepAdapter: (handle) => engine.keepAdapter(handle),
    restoreAdapter: (image, pages) => engine.restoreAdapter(image, pages),
    discardImage: (image) => engine.discardImage(image),
  };
}
