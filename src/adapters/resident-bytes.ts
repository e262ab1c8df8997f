import type { AdapterDtype } from '../core/adapter.js';
import type { NativeAdapterExtras, NativeModulePlan, NativeRowsPlan, NativeTensorInfo } from '../engine/binding.js';
import { type BaseModel, embeddingShape } from './base-modules.js';

/** Bytes per element that the dtypes of an adapter file take once resident: float64 is narrowed. */
export const ELEMENT_BYTES: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2, F64: 4 };

/** Native pads rows of A to whole vectors and B to whole panels of output columns. */
const VECTOR = 16;
const PANEL = 32;
/** Scales are bfloat16: for each adapter row of a panel of int8 and int4, and by vectors in rows of A in int4. */
const SCALE_BYTES = 2;
/** Inputs that a row of A in int4 holds in one vector of bytes, and most of these that share a vector of scales. */
const NIBBLE_STEP = 32;
const MAX_BLOCK_STEPS = 18;

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

/** Bytes of one adapter row of int4's A: blocks as equal as whole steps allow, each with its scales. */
function nibbleRowBytes(inFeatures: number): number {
  const steps = Math.ceil(inFeatures / NIBBLE_STEP);
  const blockSteps = Math.ceil(steps / Math.ceil(steps / MAX_BLOCK_STEPS));
  return steps * VECTOR + Math.ceil(steps / blockSteps) * VECTOR * SCALE_BYTES;
}

/** Bytes of an adapter row, A's and B's together; `elementBytes` is that of the file. */
function rankBytes(dtype: AdapterDtype, inFeatures: number, outFeatures: number, elementBytes: number): number {
  const panels = Math.ceil(outFeatures / PANEL);
  switch (dtype) {
    case 'file':
      return (roundUp(inFeatures, VECTOR) + panels * PANEL) * elementBytes;
    case 'int8':
      return roundUp(inFeatures, VECTOR) + panels * (PANEL + SCALE_BYTES);
    case 'int4':
      return nibbleRowBytes(inFeatures) + panels * (PANEL / 2 + SCALE_BYTES);
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
  const biased = new Map<string, number>();
  for (const { site: id, module, rank, magnitude, loraBias } of modules) {
    const site = siteById.get(id);
    const outFeatures = site?.modules[module]?.outFeatures ?? 0;
    const stored = elementBytes(names.get(id) ?? [], tensors);
    bytes += rank * (rankBytes(adapterDtype, site?.inFeatures ?? 0, outFeatures, stored) + 4);
    if (magnitude !== undefined) bytes += outFeatures * 4;
    if (loraBias !== undefined) biased.set(`${id} ${module}`, outFeatures);
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
