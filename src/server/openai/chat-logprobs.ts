import type { AlternativeToken, GeneratedToken } from '../../generation/spec.js';
import { logprobValue, tokenText } from './logprob-value.js';

/** A token with its log-probability, as chat choices show it. */
export interface ChatLogprob {
  readonly token: string;
  readonly logprob: number;
  /** UTF-8 of the text; null where the token is part of a character. */
  readonly bytes: readonly number[] | null;
}

/** The `logprobs` object of a chat choice or chunk. */
export interface ChatLogprobs {
  readonly content: readonly (ChatLogprob & { readonly top_logprobs: readonly ChatLogprob[] })[];
  readonly refusal: null;
}

export function chatLogprobs(tokens: readonly GeneratedToken[], asIds: boolean): ChatLogprobs {
  const content = tokens.map((token) => {
    // Texts depend on what came before; the token itself reads the same in both places.
    const top = token.top.map((each) => shown(each.id === token.id ? token : each, asIds));
    return { ...shown(token, asIds), top_logprobs: top };
  });
  return { content, refusal: null };
}

function shown(token: AlternativeToken, asIds: boolean): ChatLogprob {
  const partial = token.text === '' || token.text.includes('\uFFFD');
  const bytes = partial ? null : [...Buffer.from(token.text, 'utf8')];
  return { token: tokenText(token, asIds), logprob: logprobValue(token.logprob), bytes };
}
