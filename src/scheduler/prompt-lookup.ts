import type { Sequence } from './sequence.js';

/** Tokens that must have occurred before, in a row, for what followed them to be guessed again. */
const GRAM = 3;
/** What is left of a checked guess's weight after the next one. */
const MEMORY = 0.9;

/** The tokens of a sequence, prompt and output; only ever longer from call to call. */
type Tokens = Pick<Sequence, 'length' | 'tokenAt'>;

/**
 * Guesses what comes next in one sequence: what followed the latest earlier occurrence of its last three tokens
 * (prompt lookup; no model). Every guess that can be checked is, drafted or not, so it is known how good they are.
 */
export class PromptLookup {
  /** Position after the latest occurrence of each run of GRAM tokens, by hash; what it finds is compared. */
  readonly #ends = new Map<number, number>();
  /** Guesses before this position are not counted: a prompt is no sample of what the model says. */
  readonly #promptLength: number;
  #known = 0;
  /** Where the next token is guessed from; −1 = no guess. */
  #source = -1;
  #tried = 0;
  #right = 0;

  constructor(promptLength: number) {
    this.#promptLength = promptLength;
  }

  /** How likely a guess is right, from those that were checked; one half before any. */
  get confidence(): number {
    return (this.#right + 1) / (this.#tried + 2);
  }

  /** Takes note of the tokens that were added; true when there is a guess for the next one. Amortised O(1) a token. */
  follow(tokens: Tokens): boolean {
    for (; this.#known < tokens.length; this.#known += 1) {
      this.#check(tokens);
      this.#index(tokens);
    }
    return this.#source >= 0;
  }

  /** The token guessed for the place after `drafts`, which are the guesses for those before it. */
  guess(tokens: Tokens, drafts: readonly number[]): number {
    const at = this.#source + drafts.length;
    // A text that repeats itself goes on as it did.
    return at < tokens.length ? tokens.tokenAt(at) : (drafts[at - tokens.length] as number);
  }

  #check(tokens: Tokens): void {
    if (this.#source < 0) return;
    const right = tokens.tokenAt(this.#source) === tokens.tokenAt(this.#known);
    this.#source = right ? this.#source + 1 : -1;
    if (this.#known < this.#promptLength) return;
    this.#tried = this.#tried * MEMORY + 1;
    this.#right = this.#right * MEMORY + (right ? 1 : 0);
  }

  #index(tokens: Tokens): void {
    const end = this.#known + 1;
    if (end < GRAM) return;
    const hash = hashBefore(tokens, end);
    if (this.#source < 0) {
      const earlier = this.#ends.get(hash);
      if (earlier !== undefined && sameBefore(tokens, earlier, end)) this.#source = earlier;
    }
    this.#ends.set(hash, end);
  }
}

/** FNV-1a over the GRAM tokens before `end`. */
function hashBefore(tokens: Tokens, end: number): number {
  let hash = 0x811c9dc5;
  for (let at = end - GRAM; at < end; at += 1) hash = Math.imul(hash ^ tokens.tokenAt(at), 0x01000193);
  return hash;
}

function sameBefore(tokens: Tokens, one: number, other: number): boolean {
  for (let back = 1; back <= GRAM; back += 1) {
    if (tokens.tokenAt(one - back) !== tokens.tokenAt(other - back)) return false;
  }
  return true;
}
