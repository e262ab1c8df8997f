import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { SYNTHETIC, type SyntheticCase } from './synthetic.js';

/** One generation of an adapter that does more than add A and B to linear modules of the layers. */
export interface VariantCase extends SyntheticCase {
  readonly variant: string;
}

/** An adapter of the fixtures and its cases. */
export interface VariantAdapter {
  readonly model: string;
  readonly name: string;
  readonly variant: string;
  /** Configuration keys, parts of tensor names and dtypes, one of which a refusal must name. */
  readonly keys: readonly string[];
  readonly cases: readonly VariantCase[];
}

interface Manifest {
  readonly variants: Readonly<
    Record<string, { readonly keys: readonly string[]; readonly adapters: readonly string[] }>
  >;
  readonly cases: readonly VariantCase[];
}

const manifest = JSON.parse(readFileSync(join(SYNTHETIC, 'cases-variants.json'), 'utf8')) as Manifest;

export const VARIANTS: readonly string[] = Object.keys(manifest.variants);

export const VARIANT_ADAPTERS: readonly VariantAdapter[] = Object.entries(manifest.variants).flatMap(
  ([variant, { keys, adapters }]) =>
    adapters.map((path) => {
      const [model, name] = [basename(dirname(path)), basename(path)];
      const cases = manifest.cases.filter((one) => one.model === model && one.adapter === name);
      return { model, name, variant, keys, cases };
    }),
);
