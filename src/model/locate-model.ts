import { stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { LoramuxError } from '../core/errors.js';
import { DEMO_MODEL, fetchDemoModel } from './fetch/demo-model.js';
import type { ProgressReport } from './progress.js';
import { openGgufSource } from './sources/gguf-source.js';
import type { ModelSource } from './sources/model-source.js';

/** How to reach a hub, for models given by id. */
export interface HubOptions {
  /** Base URL; the library's default when absent. */
  readonly endpoint?: string;
  readonly token?: string;
  /** Use only what was downloaded before. */
  readonly offline?: boolean;
}

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
  _hub: HubOptions,
): Promise<ModelLocation> {
  if (model === 'demo') return ggufLocation(await fetchDemoModel(resolve(cacheDir), onProgress), DEMO_MODEL.modelId);
  const stats = await stat(model).catch(() => undefined);
  if (stats?.isFile()) return ggufLocation(resolve(model), basename(model));
  throw new LoramuxError(
    'ERR_MODEL_NOT_FOUND',
    `--model ${model}: expected \`demo\`, a Hugging Face directory, a .gguf file or a hub id like org/name@revision, found no such path`,
  );
}

function ggufLocation(path: string, modelId: string): ModelLocation {
  return { kind: 'gguf', modelId, files: [path], open: () => openGgufSource(path) };
}
