import type { JsonValue } from './strict-json.js';

/** Keys that say nothing about the arithmetic of a loaded adapter: provenance, training set-up, other packages. */
export const IGNORED_KEYS: ReadonlySet<string> = new Set([
  'auto_mapping',
  'corda_config',
  'eva_config',
  'fan_in_fan_out',
  'inference_mode',
  'loftq_config',
  'lora_dropout',
  'lora_ga_config',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
]);

/**
 * Keys of PEFT whose effect this release does not compute, with what is expected instead and the way out. A neutral
 * value (see `isNeutral`) means that the feature is off and passes.
 */
export const REFUSED_KEYS: ReadonlyMap<string, string> = new Map([
  ['arrow_config', 'null: Arrow routing over other adapters is not supported'],
  ['kasa_config', 'null: KaSA changes the base weights, which are shared; retrain as plain LoRA'],
  ['layer_replication', 'null: replicated layers need another graph; merge the adapter into its own base instead'],
  ['megatron_config', 'null: Megatron parallel layers are not supported; save the adapter from the plain model'],
  ['target_parameters', 'null: LoRA on bare parameters is not supported; target linear modules'],
  ['use_qalora', 'false: QALoRA pools its input over groups, which is not supported; retrain with use_qalora=False'],
]);

const PLAIN_INITS: ReadonlySet<string> = new Set(['gaussian', 'eva', 'orthogonal', 'mica']);
const CONVERTED = 'save_pretrained(…, path_initial_model_for_weight_conversion=…) of PEFT writes one';

/** Null when `init_lora_weights` assumes the original base weights; otherwise what is expected instead. */
export function initRefusal(value: JsonValue): string | null {
  if (value === null || typeof value === 'boolean') return null;
  if (typeof value !== 'string') return 'true, false or the name of an initialisation';
  const name = value.toLowerCase();
  if (PLAIN_INITS.has(name)) return null;
  if (name.startsWith('pissa') || name === 'olora') {
    return `a converted adapter, because ${name} factors only fit base weights changed by their initialisation; ${CONVERTED}`;
  }
  if (name === 'corda' || name === 'lora_ga') {
    return `a converted adapter, because ${name} training moved the base weights; ${CONVERTED}`;
  }
  if (name === 'loftq')
    return 'an adapter trained on the original weights, because loftq assumes its own quantised base';
  return `true, false, ${[...PLAIN_INITS].join(', ')}; it decides which base weights the factors assume`;
}

/** Keys of PEFT that choose how a linear module computes: at most one may be on. */
const METHODS = [
  'alora_invocation_tokens',
  'use_dora',
  'use_bdlora',
  'velora_config',
  'monteclora_config',
] as const satisfies readonly string[];

/** The methods that are on beside the first one. */
export function surplusMethods(get: (key: string) => JsonValue): readonly string[] {
  return METHODS.filter((key) => !isNeutral(get(key))).slice(1);
}

/** True for null, false, "", [] and {}: a feature that is switched off. */
export function isNeutral(value: JsonValue): boolean {
  if (value === null || value === false || value === '') return true;
  if (Array.isArray(value)) return value.length === 0;
  return value instanceof Map && value.size === 0;
}
