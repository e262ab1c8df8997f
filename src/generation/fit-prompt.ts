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
  spec: Pick<GenerationSpec, 'truncate' | 'maxNewTokens'>,
  ids: Uint32Array,
  { maxModelLen }: EngineLimits,
): FittedPrompt {
  const promptIds = spec.truncate === null ? ids : ids.slice(-spec.truncate);
  const length = promptIds.length;
  if (length === 0) {
    throw new LoramuxError('ERR_VALIDATION', '`inputs` must have at least one token, got none', { field: 'inputs' });
  }
  if (spec.maxNewTokens !== null && length + spec.maxNewTokens > maxModelLen) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `\`inputs\` tokens + \`max_new_tokens\` must be <= ${maxModelLen}. Given: ${length} \`inputs\` tokens and ${spec.maxNewTokens} \`max_new_tokens\``,
      { field: 'max_new_tokens' },
    );
  }
  if (length > maxModelLen - 1) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `\`inputs\` must have less than ${maxModelLen - 1} tokens. Given: ${length}`,
      { field: 'inputs' },
    );
  }
  return { promptIds, maxNewTokens: spec.maxNewTokens ?? maxModelLen - length };
}
