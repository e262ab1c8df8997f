import { resolve } from 'node:path';
import type { ModelManifest } from '../core/model-manifest.js';
import { adapterPlaces, planModel } from './graph/model-plan.js';
import { locateModel } from './locate-model.js';
import type { PrepareModelOptions } from './prepare-model.js';

/** What decides which adapters fit a model. */
export type ModelDescription = Pick<ModelManifest, 'modelId' | 'config' | 'sites' | 'embedding' | 'norms'>;

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
    return { modelId: location.modelId, config: source.config, ...adapterPlaces(planModel(source, 'f32')) };
  } finally {
    await source.close();
  }
}
