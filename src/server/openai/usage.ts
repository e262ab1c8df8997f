/** Tokens of one generation. */
export interface TokenCounts {
  readonly promptTokens: number;
  /** Of the prompt, found in the prefix cache. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** Choices that the generation stands for. */
  readonly copies: number;
  /** Another generation of the same prompt is counted already. */
  readonly promptCounted: boolean;
}

/** OpenAI's usage object. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Adds up a request's generations: each prompt once, the tokens of all choices. */
export function usageOf(counts: readonly TokenCounts[]): Usage {
  let prompt = 0;
  let cached = 0;
  let completion = 0;
  for (const { promptTokens, cachedTokens, generatedTokens, copies, promptCounted } of counts) {
    if (!promptCounted) {
      prompt += promptTokens;
      cached += cachedTokens;
    }
    completion += generatedTokens * copies;
  }
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  };
}
