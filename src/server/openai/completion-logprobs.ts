import type { AlternativeToken } from '../../generation/spec.js';
import { countCharacters } from '../lorax/headers.js';
import { logprobValue, tokenText } from './logprob-value.js';

/** The `logprobs` object of a completion choice; lists of equal length. */
export interface CompletionLogprobs {
  readonly tokens: string[];
  /** null for the first token of a prompt. */
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Readonly<Record<string, number>> | null)[];
  /** Characters of the reply's text before each token. */
  readonly text_offset: number[];
}

/** A token of prompt or output. */
export interface ScoredToken extends AlternativeToken {
  readonly top: readonly AlternativeToken[];
}

export interface LogprobOptions {
  readonly tokensAsIds: boolean;
  /** True for tokens that the text leaves out. */
  readonly isHidden: (id: number) => boolean;
}

/** Turns one choice's tokens into `logprobs` objects, chunk by chunk; the offsets run on. */
export class LogprobWriter {
  readonly #options: LogprobOptions;
  #offset = 0;

  constructor(options: LogprobOptions) {
    this.#options = options;
  }

  write(tokens: readonly ScoredToken[]): CompletionLogprobs {
    const { tokensAsIds, isHidden } = this.#options;
    const object: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const token of tokens) {
      // The first token of a prompt follows nothing.
      const isFirst = Number.isNaN(token.logprob);
      object.tokens.push(tokenText(token, tokensAsIds));
      object.token_logprobs.push(isFirst ? null : logprobValue(token.logprob));
      object.top_logprobs.push(isFirst ? null : topOf(token, tokensAsIds));
      object.text_offset.push(this.#offset);
      if (!isHidden(token.id)) this.#offset += countCharacters(token.text);
    }
    return object;
  }

  /** What comes next follows `text`, which may differ from the text of the prompt's tokens. */
  startAfter(text: string): void {
    this.#offset = countCharacters(text);
  }
}

/** The likeliest tokens and the token itself, by text. Of two tokens with the same text the likelier is shown. */
function topOf(token: ScoredToken, asIds: boolean): Readonly<Record<string, number>> {
  const shown = new Map<string, number>();
  for (const each of token.top) {
    // Texts depend on what came before; the token itself reads as it does in `tokens`.
    const text = tokenText(each.id === token.id ? token : each, asIds);
    if (!shown.has(text)) shown.set(text, logprobValue(each.logprob));
  }
  const own = tokenText(token, asIds);
  if (!shown.has(own)) shown.set(own, logprobValue(token.logprob));
  return Object.fromEntries(shown);
}
