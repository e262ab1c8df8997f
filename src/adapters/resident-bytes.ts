import type { LoraSite } from '../core/model-manifest.js';
import type { NativeModulePlan, NativeTensorInfo } from '../engine/binding.js';

/** Bytes per element of the dtypes that an adapter file may hold. */
export const ELEMENT_BYTES: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2 };

/** Native pads rows of A to whole vectors and B to whole panels of output columns. */
const VECTOR = 16;
const PANEL = 32;

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/**
 * Bytes that an adapter will take once compiled: A [rank, in] and B [out, rank] at the file's dtype (float32 where
 * the modules of one site differ), a scale per rank, a float32 gain per output with DoRA. `tensors` by name.
 */
export function residentBytes(
  modules: readonly NativeModulePlan[],
  sites: readonly LoraSite[],
  tensors: ReadonlyMap<string, NativeTensorInfo>,
): number {
  const siteById = new Map(sites.map((site) => [site.id, site]));
  const dtypes = new Map<number, Set<string>>();
  for (const { site, a, b } of modules) {
    const seen = dtypes.get(site) ?? new Set();
    for (const name of [a, b]) seen.add(tensors.get(name)?.dtype ?? 'F32');
    dtypes.set(site, seen);
  }
  let bytes = 0;
  for (const { site: id, module, rank, magnitude } of modules) {
    const site = siteById.get(id);
    const outFeatures = site?.modules[module]?.outFeatures ?? 0;
    const [dtype = 'F32', ...others] = dtypes.get(id) ?? [];
    const element = others.length > 0 ? 4 : (ELEMENT_BYTES[dtype] ?? 4);
    bytes += rank * element * (roundUp(site?.inFeatures ?? 0, VECTOR) + roundUp(outFeatures, PANEL)) + rank * 4;
    if (magnitude !== undefined) bytes += outFeatures * 4;
  }
  return bytes;
}
