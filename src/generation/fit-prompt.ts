import type { EngineLimits } from '../core/engine-client.js';
import { LoramuxError } from '../core/errors.js';
import type { GenerationSpec } from './spec.js';

export interface FittedPrompt {
  /** [promptLength], at least one. */
  readonly promptIds: Uint32Array;
  /** Effective limit: as asked, or what the model length leaves. */
  readonly maxNewTokens: number;
}

/**
 * Applies truncation and the model length to a tokenized prompt. ERR_PROMPT_TOO_LONG or ERR_VALIDATION say which
 * limit was passed, with both numbers.
 */
export function fitPrompt(
  spec: Pick<GenerationSpec, 'truncate' | 'truncateSide' | 'maxNewTokens'>,
  ids: Uint32Array,
  { maxModelLen }: EngineLimits,
): FittedPrompt {
  const promptIds = truncated(spec, ids);
  const length = promptIds.length;
  if (length === 0) {
    throw new LoramuxError('ERR_VALIDATION', 'the prompt must have at least one token, got none', { field: 'inputs' });
  }
  if (spec.maxNewTokens !== null && length + spec.maxNewTokens > maxModelLen) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `\`inputs\` tokens + \`max_new_tokens\` must be <= ${maxModelLen}. Given: ${length} \`inputs\` tokens and ${spec.maxNewTokens} \`max_new_tokens\``,
      {
        field: 'max_new_tokens',
        context: { limit: maxModelLen, promptTokens: length, newTokens: spec.maxNewTokens },
      },
    );
  }
  // Where no token is wanted, none needs room.
  if (spec.maxNewTokens !== 0 && length > maxModelLen - 1) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `\`inputs\` must have less than ${maxModelLen - 1} tokens. Given: ${length}`,
      { field: 'inputs', context: { limit: maxModelLen, promptTokens: length, newTokens: null } },
    );
  }
  return { promptIds, maxNewTokens: spec.maxNewTokens ?? maxModelLen - length };
}

function truncated(
  { truncate, truncateSide }: Pick<GenerationSpec, 'truncate' | 'truncateSide'>,
  ids: Uint32Array,
): Uint32Array {
  if (truncate === null) return ids;
  return truncateSide === 'left' ? ids.slice(-truncate) : ids.slice(0, truncate);
}
