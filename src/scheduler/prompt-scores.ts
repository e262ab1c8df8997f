import type { PromptLogprobs, TopLogprobs } from '../core/request.js';

const NONE: TopLogprobs = { ids: new Uint32Array(0), logprobs: new Float32Array(0) };

/** Log-probabilities of a prompt as far as they are known: chunks of a prefill bring them in parts. */
export class PromptScores {
  readonly #logprobs: Float32Array;
  readonly #top: TopLogprobs[] | null;
  /** The first token has nothing before it that could give it a probability. */
  #known = 1;

  constructor(promptLength: number, withTop: boolean) {
    this.#logprobs = new Float32Array(promptLength).fill(Number.NaN);
    this.#top = withTop ? [NONE] : null;
  }

  /** Tokens that need no more, the first included; survives a preemption, so that none is scored twice. */
  get known(): number {
    return this.#known;
  }

  get complete(): boolean {
    return this.#known === this.#logprobs.length;
  }

  /** The next token's; `top` is needed if alternatives were asked for. */
  add(logprob: number, top: TopLogprobs | null): void {
    this.#logprobs[this.#known] = logprob;
    if (top !== null) this.#top?.push(top);
    this.#known += 1;
  }

  result(): PromptLogprobs {
    return { logprobs: this.#logprobs, top: this.#top };
  }
}
