import type { Offender } from '../core/errors.js';
import type { NativeEmbeddingPlan, NativeTensorInfo } from '../engine/binding.js';
import { type BaseModel, embeddingShape } from './base-modules.js';
import type { AdapterConfig } from './config.js';
import { type ModuleSettings, rankSource, scaleOf } from './plan-modules.js';
import { checkTensor, type ModuleTensors } from './tensor-groups.js';

/** Plans `lora_embedding_A` [r, V] and `lora_embedding_B` [H, r] of the token embedding; null when there are none. */
export function planEmbedding(
  config: AdapterConfig,
  settings: ModuleSettings,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): NativeEmbeddingPlan | null {
  const module = base.embedding.name;
  const { embeddingA: a, embeddingB: b, magnitude } = groups.get(module) ?? {};
  const missing = (present: NativeTensorInfo, other: string): void => {
    offenders.push({ tensor: present.name, expected: `${other} of the same module in the file`, found: 'none' });
  };
  if (a !== undefined && b === undefined) missing(a, 'lora_embedding_B');
  if (b !== undefined && a === undefined) missing(b, 'lora_embedding_A');
  if (config.dora && a !== undefined && magnitude === undefined) missing(a, 'lora_magnitude_vector (use_dora is true)');
  if (magnitude !== undefined && a === undefined && b === undefined)
    missing(magnitude, 'lora_embedding_A and lora_embedding_B');
  if (magnitude !== undefined && !config.dora) {
    offenders.push({
      tensor: magnitude.name,
      expected: 'no magnitude, or use_dora: true',
      found: `use_dora: false on ${module}`,
    });
  }
  if (a === undefined || b === undefined) return null;
  if (config.invocation !== null) {
    offenders.push({
      tensor: a.name,
      expected: `no factors of ${module} with alora_invocation_tokens: PEFT refuses both together`,
      found: `${a.dtype} [${a.shape}]`,
    });
  }
  const { rank, scaling } = scaleOf(module, config, settings, offenders);
  const { vocab, hidden } = embeddingShape(base);
  const source = rankSource(config);
  checkTensor(a, [rank, vocab], `rank ${rank} by ${source}, vocabulary size`, offenders);
  checkTensor(b, [hidden, rank], `hidden size, rank ${rank} by ${source}`, offenders);
  if (magnitude !== undefined) checkTensor(magnitude, [hidden], 'hidden size', offenders);
  return {
    a: a.name,
    b: b.name,
    ...(magnitude === undefined ? {} : { magnitude: magnitude.name }),
    rank,
    scaling,
  };
}
