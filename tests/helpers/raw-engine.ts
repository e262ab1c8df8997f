import { join } from 'node:path';
import type { PreparedModel } from '../../src/core/model-manifest.js';
import { GREEDY_ROW, type RowSampling, type StepBatch } from '../../src/core/step.js';
import { loadBinding } from '../../src/engine/addon.js';
import type {
  NativeAdapterFile,
  NativeBinding,
  NativeEngine,
  NativeEngineOptions,
  NativeModulePlan,
} from '../../src/engine/binding.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from './synthetic.js';

export const RAW_MODEL = 'llama-gqa-tied';
/** Rank-8 factors for q_proj and v_proj of both layers. */
export const RAW_ADAPTER = join(SYNTHETIC, 'adapters', RAW_MODEL, 'plain', 'adapter_model.safetensors');

/** The addon's own engine over a tiny model, with nothing of ours between. */
export interface RawEngine {
  readonly binding: NativeBinding;
  readonly engine: NativeEngine;
  readonly model: PreparedModel;
}

export async function openRaw(options: Partial<NativeEngineOptions> = {}): Promise<RawEngine> {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel(RAW_MODEL).path), 'f32');
  const binding = loadBinding();
  const engine = await binding.Engine.open(JSON.stringify(model.manifest), rawOptions(model, options));
  return { binding, engine, model };
}

export function rawOptions(model: PreparedModel, options: Partial<NativeEngineOptions> = {}): NativeEngineOptions {
  return {
    directory: model.directory,
    threads: 1,
    maxModelLen: 256,
    maxSequences: 8,
    maxBatchTokens: 256,
    kvBlocks: 32,
    tokenCount: SYNTHETIC_TOKENS,
    ...options,
  };
}

export const GREEDY: RowSampling = { ...GREEDY_ROW, position: 1, logprobs: { of: 'processed', top: 0 } };

/** One sequence from position 0 on, whose last row needs logits; base rows, or all rows of one adapter. */
export function promptBatch(tokens: readonly number[], handle: number | null = null): StepBatch {
  const rows = tokens.length;
  const blocks = Math.ceil(rows / 16);
  return {
    tokens: Int32Array.from(tokens),
    cuSeqlens: Int32Array.of(0, rows),
    contextLens: Int32Array.of(rows),
    blockTables: Int32Array.from({ length: blocks }, (_, block) => block),
    maxBlocks: blocks,
    slotMapping: Int32Array.from({ length: rows }, (_, row) => row),
    segmentIndptr: Int32Array.of(0, rows),
    segmentAdapters: Int32Array.of(handle === null ? -1 : 0),
    adapterTable: handle === null ? [] : [[{ adapter: handle, weight: 1 }]],
    logitsRows: Int32Array.of(rows - 1),
    sampling: [GREEDY],
    scoredTokens: Int32Array.of(-1),
    scoredTops: Int32Array.of(0),
    returnLogits: Int32Array.of(0),
  };
}

const LONG_ROWS = 2_048;
/** Options of an engine that `longBatch` fits. */
export const LONG: Partial<NativeEngineOptions> = {
  maxBatchTokens: LONG_ROWS,
  maxModelLen: LONG_ROWS,
  kvBlocks: LONG_ROWS / 16,
};

/** A step of tens of milliseconds: long enough for something to happen while it runs. */
export function longBatch(handle: number | null = null): StepBatch {
  return promptBatch(
    Array.from({ length: LONG_ROWS }, (_, row) => row % SYNTHETIC_TOKENS),
    handle,
  );
}

/** The modules of RAW_ADAPTER, as the plan of its configuration (rank and alpha) would name them. */
export function rawPlan(model: PreparedModel, file: NativeAdapterFile): NativeModulePlan[] {
  return model.manifest.sites.flatMap((site) =>
    site.modules.flatMap((module, index) => {
      const a = file.tensors.find(({ name }) => name === `base_model.model.${module.name}.lora_A.weight`);
      if (a === undefined) return [];
      const rank = a.shape[0] ?? 0;
      return [{ site: site.id, module: index, a: a.name, b: a.name.replace('lora_A', 'lora_B'), rank, scaling: 2 }];
    }),
  );
}

/** Makes RAW_ADAPTER resident; its handle and bytes. */
export async function compileRaw({ binding, engine, model }: RawEngine): Promise<{ handle: number; bytes: number }> {
  const file = await binding.openAdapterFile(RAW_ADAPTER, 2 ** 20);
  return engine.compileAdapter(file, JSON.stringify({ modules: rawPlan(model, file) }));
}
