import { resolve } from 'node:path';
import type { ModelManifest } from '../core/model-manifest.js';
import { adapterPlaces, planModel } from './graph/model-plan.js';
import { locateModel } from './locate-model.js';
import type { PrepareModelOptions } from './prepare-model.js';

/** What decides which adapters fit a model. */
export interface ModelDescription
  extends Pick<ModelManifest, 'modelId' | 'config' | 'sites' | 'embedding' | 'norms'>,
    Pick<ModelManifest, 'chatTemplate' | 'specialTokens' | 'eosTokenIds'> {
  /** A complete `tokenizer.json`. */
  readonly tokenizerJson: Uint8Array;
}

/**
 * Reads what a model is made of without converting it: a download if it is not there, no weights. Errors: as
 * `prepareModel`.
 */
export async function describeModel({
  model,
  cacheDir,
  onProgress,
  hub = {},
}: Pick<PrepareModelOptions, 'model' | 'cacheDir' | 'onProgress' | 'hub'>): Promise<ModelDescription> {
  const location = await locateModel(model, resolve(cacheDir), onProgress, hub);
  const source = await location.open();
  try {
    // Sites are the same in every precision.
    const places = adapterPlaces(planModel(source, 'f32'));
    const { chatTemplate, specialTokens, eosTokenIds } = await source.textMetadata();
    const text = { chatTemplate, specialTokens, eosTokenIds, tokenizerJson: await source.tokenizerJson() };
    return { modelId: location.modelId, config: source.config, ...places, ...text };
  } finally {
    await source.close();
  }
}
