import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Precision, PreparedModel } from '../../src/core/model-manifest.js';
import { loadBinding } from '../../src/engine/addon.js';
import type { DeviceKind } from '../../src/model/choose-precision.js';
import { prepareModel } from '../../src/model/prepare-model.js';
import { DirectEngine, type DirectOptions } from './direct-engine.js';
import { FIXTURES, TEST_CACHE } from './paths.js';

export const SYNTHETIC = join(FIXTURES, 'synthetic');

/** One generation that PEFT computed on a tiny random model; fields are described in the fixtures' README. */
export interface SyntheticCase {
  readonly model: string;
  readonly adapter: string;
  readonly prompt: string;
  /** What prompt_ids encode; absent for random ids. */
  readonly text?: string;
  readonly prompt_ids: readonly number[];
  readonly expected_ids: readonly number[];
  /** Per step, the best logit minus the second best. */
  readonly gaps: readonly number[];
  /** Base64 of float32 [V]: logits of the last prompt token. */
  readonly logits: string;
}

export interface SyntheticModel {
  readonly path: string;
  readonly dtype: string;
  readonly covers: string;
  /** Directories below the fixtures' folder. */
  readonly adapters: readonly string[];
}

interface Oracle {
  readonly token_count: number;
  readonly models: Readonly<Record<string, SyntheticModel>>;
  readonly cases: readonly SyntheticCase[];
}

const oracle = JSON.parse(readFileSync(join(SYNTHETIC, 'cases.json'), 'utf8')) as Oracle;

export const SYNTHETIC_MODELS: ReadonlyMap<string, SyntheticModel> = new Map(Object.entries(oracle.models));
export const SYNTHETIC_CASES: readonly SyntheticCase[] = oracle.cases;
/** Ids at or above this have a row in the head but no token. */
export const SYNTHETIC_TOKENS = oracle.token_count;

export function casesOf(model: string): readonly SyntheticCase[] {
  return SYNTHETIC_CASES.filter((one) => one.model === model);
}

/** Of a whole entry: what a failed assertion is about. */
export function titleOf({ model, adapter, prompt }: SyntheticCase): string {
  return `${model}, ${adapter}, ${prompt}`;
}

/** PEFT's logits of the last prompt token, [V]. */
export function oracleLogits({ logits }: SyntheticCase): Float32Array {
  // A copy: a Buffer's bytes need not begin at a multiple of four.
  return new Float32Array(Uint8Array.from(Buffer.from(logits, 'base64')).buffer);
}

/** A model of the fixtures or any other path, converted into the tests' cache on first use. */
export function prepareLocal(path: string, precision: Precision, device: DeviceKind = 'cpu'): Promise<PreparedModel> {
  return prepareModel({
    model: path,
    precision,
    device,
    cacheDir: TEST_CACHE,
    checksumFile: (file) => loadBinding().crc32File(file),
    onProgress: () => undefined,
    memoryBytes: 2 ** 30,
  });
}

export function syntheticModel(name: string): SyntheticModel {
  const model = SYNTHETIC_MODELS.get(name);
  if (model === undefined) throw new RangeError(`no synthetic model ${name}: see cases.json`);
  return model;
}

/** The folders of a synthetic model's adapters, each once. */
export function adapterRootsOf(name: string): string[] {
  const { adapters } = syntheticModel(name);
  return [...new Set(adapters.map((adapter) => dirname(join(SYNTHETIC, adapter))))];
}

/** An engine over a synthetic model that finds the model's adapters by their names. */
export async function openSynthetic(
  name: string,
  {
    precision = 'f32',
    ...sizes
  }: { readonly precision?: Precision } & Omit<DirectOptions, 'model' | 'adapterRoots'> = {},
): Promise<DirectEngine> {
  const { path } = syntheticModel(name);
  const model = await prepareLocal(join(SYNTHETIC, path), precision, sizes.cuda === undefined ? 'cpu' : 'cuda');
  return DirectEngine.open({ model, adapterRoots: adapterRootsOf(name), kvBlocks: 512, ...sizes });
}
