import { statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LoramuxError } from '../core/errors.js';
import type { Precision } from '../core/model-manifest.js';
import { GRAPH_FILE, type ManifestDraft, TOKENIZER_FILE, WEIGHTS_FILE } from './cache/model-cache.js';
import { buildGraph } from './graph/graph-builder.js';
import { adapterPlaces, type MatrixOrder, planModel } from './graph/model-plan.js';
import type { ProgressReport } from './progress.js';
import type { ModelSource } from './sources/model-source.js';
import { writeWeights } from './weights/weight-writer.js';

/** How a model's weights are kept. */
export interface Storage {
  readonly precision: Precision;
  readonly order: MatrixOrder;
}

/**
 * Writes graph, weights and tokenizer of an opened model into `directory` (which exists and is empty).
 * Memory stays bounded by pieces of weights plus the tokenizer. ERR_MODEL_INVALID, ERR_MODEL_UNSUPPORTED, ERR_CONFIG.
 */
export async function convertModel(
  source: ModelSource,
  modelId: string,
  { precision, order }: Storage,
  directory: string,
  onProgress: ProgressReport,
): Promise<ManifestDraft> {
  const plan = planModel(source, precision, order);
  const total = plan.layout.totalBytes;
  await requireSpace(directory, total);
  const text = await source.textMetadata();
  await writeFile(join(directory, TOKENIZER_FILE), await source.tokenizerJson());
  await writeFile(join(directory, GRAPH_FILE), buildGraph(plan, WEIGHTS_FILE));
  const label = `${modelId} to ${precision}`;
  onProgress({ phase: 'convert', label, done: 0, total });
  await writeWeights(plan, source, join(directory, WEIGHTS_FILE), (done) =>
    onProgress({ phase: 'convert', label, done, total }),
  );
  onProgress({ phase: 'convert', label, done: total, total });
  return { modelId, precision, config: source.config, ...adapterPlaces(plan), ...text };
}

async function requireSpace(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize >= bytes) return;
  throw new LoramuxError(
    'ERR_CONFIG',
    `${dirname(directory)}: expected ${bytes} bytes of free space for the converted weights, found ${bavail * bsize}: free some or choose another --cache-dir`,
  );
}
