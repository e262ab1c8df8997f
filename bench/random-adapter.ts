import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LoraSite } from '../src/core/model-manifest.js';

/** A PEFT adapter on every linear module with weights of its own. */
export interface RandomAdapter {
  readonly name: string;
  readonly rank: number;
  readonly seed: number;
  /** Last parts of the modules' names; absent = every linear module. */
  readonly targets?: readonly string[];
  /** B ~ U(±strength); 0.02 when absent. */
  readonly strength?: number;
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);
const WEAK = 0.02;

/** Float16 bits of a value whose magnitude lies in [2^-14, 2), by truncation. */
function halfBits(value: number): number {
  float[0] = value;
  const bits = floatBits[0] as number;
  const exponent = ((bits >>> 23) & 255) - 127 + 15;
  if (exponent <= 0) return (bits >>> 16) & 0x8000;
  return ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 0x3ff);
}

/** Uniform numbers from a 32-bit xorshift: reproducible, and fast enough for millions. */
function generator(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}

/**
 * Writes the adapter as `<root>/<name>/` unless it is there: float16, A ~ U(±1/√in), B ~ U(±strength), scaling 2.
 */
export function writeRandomAdapter(root: string, adapter: RandomAdapter, sites: readonly LoraSite[]): void {
  const directory = join(root, adapter.name);
  const weights = join(directory, 'adapter_model.safetensors');
  if (existsSync(weights)) return;
  mkdirSync(directory, { recursive: true });
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    r: adapter.rank,
    lora_alpha: 2 * adapter.rank,
    target_modules: adapter.targets ?? 'all-linear',
  };
  writeFileSync(join(directory, 'adapter_config.json'), JSON.stringify(config));

  const random = generator(adapter.seed);
  const header: Record<string, { dtype: 'F16'; shape: number[]; data_offsets: [number, number] }> = {};
  const chunks: Uint16Array[] = [];
  let offset = 0;
  const add = (name: string, shape: [number, number], scale: number): void => {
    const values = new Uint16Array(shape[0] * shape[1]);
    for (let i = 0; i < values.length; i += 1) values[i] = halfBits(random() * scale);
    header[name] = { dtype: 'F16', shape, data_offsets: [offset, offset + values.byteLength] };
    offset += values.byteLength;
    chunks.push(values);
  };
  for (const site of sites) {
    for (const module of site.modules) {
      // As PEFT's "all-linear", which leaves the head out.
      if (module.name === 'lm_head') continue;
      if (adapter.targets !== undefined && !adapter.targets.some((end) => module.name.endsWith(`.${end}`))) continue;
      const name = `base_model.model.${module.name}`;
      add(`${name}.lora_A.weight`, [adapter.rank, site.inFeatures], 1 / Math.sqrt(site.inFeatures));
      add(`${name}.lora_B.weight`, [module.outFeatures, adapter.rank], adapter.strength ?? WEAK);
    }
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const data = chunks.map((chunk) => Buffer.from(chunk.buffer));
  writeFileSync(weights, Buffer.concat([length, json, ...data]));
}
