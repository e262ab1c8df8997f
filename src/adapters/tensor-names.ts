import type { TrainingMethod } from './config.js';

/**
 * The role of a tensor in a module: `loraBias` is the bias of B; `bias` and `weight` stand in the place of the base's;
 * `baseWeight` is a copy of it; `tokens` are rows of single tokens.
 */
export type TensorPart =
  | 'a'
  | 'b'
  | 'magnitude'
  | 'loraBias'
  | 'bias'
  | 'embeddingA'
  | 'embeddingB'
  | 'tokens'
  | 'baseWeight'
  | 'weight';

/** What a tensor name says. `repaired` is true when a known artefact of saving was stripped from it. */
export type TensorName =
  | { readonly kind: 'part'; readonly module: string; readonly part: TensorPart; readonly repaired: boolean }
  /** What a method of training keeps for itself. */
  | { readonly kind: 'training'; readonly method: TrainingMethod }
  | { readonly kind: 'refused'; readonly expected: string };

const PREFIX = 'base_model.model.';
/** Left in front of names by `torch.compile`. */
const COMPILED = '_orig_mod.';

const SUFFIXES: readonly (readonly [suffix: string, part: TensorPart, repaired: boolean])[] = [
  ['.lora_A.weight', 'a', false],
  ['.lora_B.weight', 'b', false],
  ['.lora_magnitude_vector', 'magnitude', false],
  ['.lora_magnitude_vector.weight', 'magnitude', false],
  ['.lora_A.default.weight', 'a', true],
  ['.lora_B.default.weight', 'b', true],
  ['.lora_magnitude_vector.default', 'magnitude', true],
  ['.lora_magnitude_vector.default.weight', 'magnitude', true],
  ['.lora_B.bias', 'loraBias', false],
  ['.lora_B.default.bias', 'loraBias', true],
  ['.lora_embedding_A', 'embeddingA', false],
  ['.lora_embedding_B', 'embeddingB', false],
  ['.lora_embedding_A.default', 'embeddingA', true],
  ['.lora_embedding_B.default', 'embeddingB', true],
  ['.token_adapter.trainable_tokens_delta', 'tokens', false],
  ['.token_adapter.trainable_tokens_delta.default', 'tokens', true],
  // Targeted modules keep their own parameters one level down.
  ['.base_layer.bias', 'bias', false],
  ['.bias', 'bias', false],
  ['.base_layer.weight', 'baseWeight', false],
  // Last: every name above that ends so is another role.
  ['.weight', 'weight', false],
];

const REFUSED: readonly (readonly [pattern: RegExp, expected: string])[] = [
  [/\.lora_E$/, 'a LORA file: lora_E belongs to AdaLoRA'],
  [/\.lora_diag$/, 'a plain LoRA file: lora_diag belongs to KaSA'],
];

const TRAINING: readonly (readonly [pattern: RegExp, method: TrainingMethod])[] = [
  [/\.lora_velora_embed(?:\.default)?$/, 'velora'],
  [/\.lora_monteclora_sampler\./, 'monteclora'],
];

/**
 * Sorts a tensor name of an adapter file by the whitelist of PEFT's LoRA names. Whatever is not on it is refused: a
 * name that equals a base parameter would otherwise overwrite the shared base when loaded the way PEFT does.
 */
export function parseTensorName(name: string): TensorName {
  let rest = name;
  let repaired = false;
  const dropCompiled = (): void => {
    if (!rest.startsWith(COMPILED)) return;
    rest = rest.slice(COMPILED.length);
    repaired = true;
  };
  dropCompiled();
  if (!rest.startsWith(PREFIX)) return { kind: 'refused', expected: `a name that begins with ${PREFIX}` };
  rest = rest.slice(PREFIX.length);
  dropCompiled();
  const training = TRAINING.find(([pattern]) => pattern.test(rest));
  if (training !== undefined) return { kind: 'training', method: training[1] };
  for (const [suffix, part, artefact] of SUFFIXES) {
    if (!rest.endsWith(suffix) || rest.length === suffix.length) continue;
    return { kind: 'part', module: rest.slice(0, -suffix.length), part, repaired: repaired || artefact };
  }
  const known = REFUSED.find(([pattern]) => pattern.test(rest));
  return {
    kind: 'refused',
    expected:
      known?.[1] ??
      'only tensors that PEFT saves with a LoRA adapter: factors, magnitudes, biases, weights of whole modules, token rows',
  };
}
