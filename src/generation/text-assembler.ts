import type { TopLogprobs } from '../core/request.js';
import type { NativeTokenizer } from '../engine/binding.js';
import { decodingContext, IncrementalDecoder } from '../tokenizer/incremental-decoder.js';
import { StopMatcher } from '../tokenizer/stop-matcher.js';
import { alternatives } from './prompt-tokens.js';
import type { GeneratedToken, GenerationSpec } from './spec.js';

export type TextTokenizer = Pick<NativeTokenizer, 'decode' | 'isSpecial'>;

/** What one token adds. */
export interface AssembledToken {
  readonly token: GeneratedToken;
  /** Text added to the answer. */
  readonly delta: string;
  /** A stop string ended here. */
  readonly stopped: boolean;
  /** The stop string that did. */
  readonly stop: string | null;
}

/** Tokens in, text out: decodes in the prompt's context, leaves special tokens out of the answer, cuts at stop strings. */
export class TextAssembler {
  readonly #tokenizer: TextTokenizer;
  readonly #endIds: ReadonlySet<number>;
  readonly #includeStop: boolean;
  readonly #skipSpecialTokens: boolean;
  /** Every token, for the token's own text. */
  readonly #shown: IncrementalDecoder;
  /** Tokens of the answer only; the same decoder until a token comes that is none of the answer. */
  #answer: IncrementalDecoder;
  readonly #stops: StopMatcher;

  /** `endIds`: tokens that end the generation, left out of the answer even if they are not special. */
  constructor(
    tokenizer: TextTokenizer,
    spec: Pick<GenerationSpec, 'stop' | 'includeStop' | 'skipSpecialTokens'>,
    promptIds: Uint32Array,
    endIds: readonly number[],
  ) {
    // More ids than any context needs, so that enough are left without the special ones.
    const tail = [...promptIds.subarray(-32)];
    const plain = spec.skipSpecialTokens ? tail.filter((id) => !tokenizer.isSpecial(id)) : tail;
    this.#tokenizer = tokenizer;
    this.#endIds = new Set(endIds);
    this.#includeStop = spec.includeStop;
    this.#skipSpecialTokens = spec.skipSpecialTokens;
    const context = decodingContext(tokenizer, tail);
    const answerContext = plain.length === tail.length ? context : decodingContext(tokenizer, plain);
    const isSame = context.join() === answerContext.join();
    this.#shown = new IncrementalDecoder(tokenizer, context);
    this.#answer = isSame ? this.#shown : new IncrementalDecoder(tokenizer, answerContext);
    this.#stops = new StopMatcher(spec.stop, spec.includeStop);
  }

  push(id: number, logprob: number, top: TopLogprobs | null, speculated: boolean): AssembledToken {
    const special = this.#tokenizer.isSpecial(id);
    const hidden = (special && this.#skipSpecialTokens) || this.#endIds.has(id);
    if (hidden && this.#answer === this.#shown) this.#answer = this.#shown.fork();
    const shown = this.#shown.push(id);
    const visible = hidden ? '' : this.#answer === this.#shown ? shown : this.#answer.push(id);
    const { text, stop } = this.#stops.push(visible);
    const cut = stop !== null && this.#includeStop;
    const others = alternatives(this.#tokenizer, top);
    const token = { id, text: cut ? text : shown, special, logprob, top: others, speculated };
    return { token, delta: text, stopped: stop !== null, stop };
  }

  /** Adds to the last token what was held back for more to come. */
  finish(last: AssembledToken): AssembledToken {
    if (last.stopped) return last;
    const shown = this.#shown.flush();
    const { text, stop } = this.#stops.push(this.#answer === this.#shown ? shown : this.#answer.flush());
    const delta = last.delta + text + (stop === null ? this.#stops.flush() : '');
    const token = { ...last.token, text: last.token.text + shown };
    return { token, delta, stopped: stop !== null, stop };
  }
}
