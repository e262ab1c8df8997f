import { stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { LoramuxError } from '../core/errors.js';
import { DEMO_MODEL, fetchDemoModel } from './fetch/demo-model.js';
import { fetchHubModel, parseHubId } from './fetch/hub-model.js';
import type { HubOptions } from './fetch/hub-repository.js';
import type { ProgressReport } from './progress.js';
import { openGgufSource } from './sources/gguf-source.js';
import { listModelFiles } from './sources/hf-files.js';
import { openHuggingFaceSource } from './sources/hf-source.js';
import type { ModelSource } from './sources/model-source.js';

/** A model on this machine's disk. */
export interface ModelLocation {
  readonly kind: 'directory' | 'gguf';
  /** What users call it: hub id where known, else file or directory name. */
  readonly modelId: string;
  /** Absolute paths of every file that decides the conversion. */
  readonly files: readonly string[];
  open(): Promise<ModelSource>;
}

/**
 * Resolves what `--model` names, downloading it when needed: `demo`, then existing paths, then hub ids.
 * ERR_MODEL_NOT_FOUND says what was looked for.
 */
export async function locateModel(
  model: string,
  cacheDir: string,
  onProgress: ProgressReport,
  hub: HubOptions,
): Promise<ModelLocation> {
  if (model === 'demo') return ggufLocation(await fetchDemoModel(resolve(cacheDir), onProgress), DEMO_MODEL.modelId);
  const path = resolve(model);
  const stats = await stat(path).catch(() => undefined);
  if (stats?.isFile()) return ggufLocation(path, basename(path));
  if (stats?.isDirectory()) return directoryLocation(path, basename(path));
  const id = parseHubId(model);
  if (id !== undefined) {
    return directoryLocation(await fetchHubModel(id, resolve(cacheDir), onProgress, hub), id.repo);
  }
  throw new LoramuxError(
    'ERR_MODEL_NOT_FOUND',
    `--model ${model}: expected demo, a Hugging Face directory, a .gguf file or a hub id like org/name@revision, found no such path`,
  );
}

function ggufLocation(path: string, modelId: string): ModelLocation {
  return { kind: 'gguf', modelId, files: [path], open: () => openGgufSource(path) };
}

async function directoryLocation(path: string, modelId: string): Promise<ModelLocation> {
  return { kind: 'directory', modelId, files: await listModelFiles(path), open: () => openHuggingFaceSource(path) };
}
