import type { PromptLogprobs, TopLogprobs } from '../core/request.js';
import { IncrementalDecoder } from '../tokenizer/incremental-decoder.js';
import type { AlternativeToken, PromptToken } from './spec.js';
import type { TextTokenizer } from './text-assembler.js';

/** Tokens that could have come in a place, likeliest first, with the text that each has on its own. */
export function alternatives(tokenizer: TextTokenizer, top: TopLogprobs | null | undefined): AlternativeToken[] {
  if (top === null || top === undefined) return [];
  return Array.from(top.ids, (id, at) => ({
    id,
    text: tokenizer.decode(Uint32Array.of(id), false),
    logprob: top.logprobs[at] as number,
  }));
}

/** The prompt's tokens as users see them. Their texts joined are the decoded prompt. */
export function promptTokens(tokenizer: TextTokenizer, ids: Uint32Array, prompt: PromptLogprobs): PromptToken[] {
  const decoder = new IncrementalDecoder(tokenizer, []);
  return Array.from(ids, (id, at) => ({
    id,
    text: decoder.push(id) + (at === ids.length - 1 ? decoder.flush() : ''),
    logprob: prompt.logprobs[at] as number,
    top: alternatives(tokenizer, prompt.top?.[at]),
  }));
}
