import type { AdapterBackend } from '../../src/adapters/loader.js';
import type { SharedPages } from '../../src/adapters/version-store.js';
import { elementBytes, type ModelManifest } from '../../src/core/model-manifest.js';
import { PagePool } from '../../src/core/page-pool.js';
import { deviceBlockBytes } from '../../src/engine/engine-sizing.js';

/** Pages of a GPU that adapters have for themselves, behind the KV blocks: for engines whose schedulers come and go. */
export interface OwnPages {
  readonly count: number;
  /** For `AdapterRegistry`. */
  readonly registry: {
    readonly capacityBytes: number;
    readonly device: { readonly pages: SharedPages; readonly host: null };
  };
  readonly backend: (backend: AdapterBackend) => AdapterBackend;
}

/** `bytes` of them, or less than a page more, from page `first` on. */
export function ownPages(manifest: ModelManifest, bytes: number, first: number): OwnPages {
  const pageBytes = deviceBlockBytes(manifest.config, elementBytes(manifest));
  const count = Math.ceil(bytes / pageBytes);
  return {
    count,
    registry: {
      capacityBytes: count * pageBytes,
      device: { pages: { pool: new PagePool(count), pageBytes }, host: null },
    },
    backend: (backend) => ({
      ...backend,
      placeAdapter: (handle, pages) =>
        backend.placeAdapter(
          handle,
          pages.map((page) => first + page),
        ),
    }),
  };
}
