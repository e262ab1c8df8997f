import type { AdapterDtype } from '../core/adapter.js';
import type { NativeAdapterExtras, NativeModulePlan, NativeRowsPlan, NativeTensorInfo } from '../engine/binding.js';
import { type BaseModel, embeddingShape } from './base-modules.js';

/** Bytes per element that the dtypes of an adapter file take once resident: float64 is narrowed. */
export const ELEMENT_BYTES: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2, F64: 4 };

/** Native pads rows of A to whole vectors and B to whole panels of output columns. */
const VECTOR = 16;
const PANEL = 32;
/** Scales are bfloat16: in int8 for each adapter row of a panel, in int4 in vectors. */
const SCALE_BYTES = 2;
/** Int4 holds four adapter rows together, in A as in B; a step of A is 32 inputs of theirs. */
const NIBBLE_GROUP = 4;
const NIBBLE_STEP = 32;
const NIBBLE_STEP_BYTES = (NIBBLE_GROUP * NIBBLE_STEP) / 2;
const SCALES_BYTES = VECTOR * SCALE_BYTES;
/** Most steps of A that share a vector of scales. */
const MAX_BLOCK_STEPS = 5;
/** Adapter rows of a panel of B that share one. */
const NIBBLE_CHUNK = 16;

type Tensors = ReadonlyMap<string, NativeTensorInfo>;

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** Bytes per element where `names` are held together: the dtype that all share, else float32. */
function elementBytes(names: readonly string[], tensors: Tensors): number {
  const dtypes = new Set(names.map((name) => tensors.get(name)?.dtype ?? 'F32'));
  const [dtype = 'F32'] = dtypes;
  return dtypes.size > 1 ? 4 : (ELEMENT_BYTES[dtype] ?? 4);
}

/** Bytes of A [rank, in], all modules of a site together; `elementBytes` is that of the file. */
function aBytes(dtype: AdapterDtype, rank: number, inFeatures: number, elementBytes: number): number {
  if (dtype !== 'int4') return rank * roundUp(inFeatures, VECTOR) * (dtype === 'int8' ? 1 : elementBytes);
  const steps = Math.ceil(inFeatures / NIBBLE_STEP);
  // Blocks as equal as whole steps allow.
  const blocks = Math.ceil(steps / Math.ceil(steps / Math.ceil(steps / MAX_BLOCK_STEPS)));
  return Math.ceil(rank / NIBBLE_GROUP) * (steps * NIBBLE_STEP_BYTES + blocks * SCALES_BYTES);
}

/** Bytes of B [out, rank] of one module. */
function bBytes(dtype: AdapterDtype, rank: number, outFeatures: number, elementBytes: number): number {
  const panels = Math.ceil(outFeatures / PANEL);
  switch (dtype) {
    case 'file':
      return panels * PANEL * rank * elementBytes;
    case 'int8':
      return panels * (PANEL + SCALE_BYTES) * rank;
    case 'int4': {
      const quads = Math.ceil(rank / NIBBLE_GROUP) * ((PANEL * NIBBLE_GROUP) / 2);
      return panels * (quads + Math.ceil(rank / NIBBLE_CHUNK) * SCALES_BYTES);
    }
  }
}

/**
 * Bytes that an adapter will take once compiled: A [rank, in] and B [out, rank] at the file's dtype (float32 where
 * the modules of one site differ) or, with `base.adapterDtype`, as bytes or nibbles with their scales; a float32 per rank,
 * a float32 gain per output with DoRA, a float32 per output with biases, and what `extraBytes` counts. `tensors` by name.
 */
export function residentBytes(
  { modules, extras }: { readonly modules: readonly NativeModulePlan[]; readonly extras: NativeAdapterExtras },
  base: BaseModel,
  tensors: Tensors,
): number {
  const { sites, adapterDtype = 'file' } = base;
  const siteById = new Map(sites.map((site) => [site.id, site]));
  const names = new Map<number, string[]>();
  for (const { site, a, b } of modules) names.set(site, [...(names.get(site) ?? []), a, b]);
  let bytes = 0;
  const ranks = new Map<number, number>();
  const biased = new Map<string, number>();
  for (const { site: id, module, rank, magnitude, loraBias } of modules) {
    const outFeatures = siteById.get(id)?.modules[module]?.outFeatures ?? 0;
    ranks.set(id, (ranks.get(id) ?? 0) + rank);
    bytes += bBytes(adapterDtype, rank, outFeatures, elementBytes(names.get(id) ?? [], tensors)) + rank * 4;
    if (magnitude !== undefined) bytes += outFeatures * 4;
    if (loraBias !== undefined) biased.set(`${id} ${module}`, outFeatures);
  }
  for (const [id, rank] of ranks) {
    bytes += aBytes(adapterDtype, rank, siteById.get(id)?.inFeatures ?? 0, elementBytes(names.get(id) ?? [], tensors));
  }
  for (const { site, module } of extras.biases) {
    biased.set(`${site} ${module}`, siteById.get(site)?.modules[module]?.outFeatures ?? 0);
  }
  for (const outFeatures of biased.values()) bytes += outFeatures * 4;
  return bytes + extraBytes(extras, base, tensors);
}

/** Factors of the embedding, rows of embedding and head, norms. */
function extraBytes(
  { embedding, embeddingRows, headRows, norms }: NativeAdapterExtras,
  base: BaseModel,
  tensors: Tensors,
): number {
  const { vocab, hidden } = embeddingShape(base);
  const rowBytes = (plan: NativeRowsPlan | undefined): number => {
    if (plan === undefined) return 0;
    const row = roundUp(hidden, VECTOR) * elementBytes([plan.tensor], tensors);
    return plan.tokens === undefined ? vocab * row : new Set(plan.tokens).size * (row + 4);
  };
  let bytes = rowBytes(embeddingRows) + rowBytes(headRows) + norms.length * hidden * 4;
  if (embedding !== undefined) {
    const { a, b, magnitude, rank } = embedding;
    bytes += (vocab + roundUp(hidden, PANEL)) * rank * elementBytes([a, b], tensors);
    if (magnitude !== undefined) bytes += hidden * 4;
  }
  return bytes;
}
