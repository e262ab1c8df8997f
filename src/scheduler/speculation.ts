import { maxScoredRows, type SchedulerLimits } from './policy.js';
import type { Sequence } from './sequence.js';
import type { StepCost } from './step-cost.js';

const NO_DRAFTS: readonly number[] = [];

/**
 * Decides which guessed tokens ("drafts") a step tries beside the rows that it has anyway. A draft is worth its row
 * while it raises the tokens that the step is expected to yield by more than the time it takes, in proportion; where
 * weights are read for few rows that is nearly always, in large batches only for text that repeats itself.
 */
export class Speculation {
  readonly #cost: StepCost;
  #rowsLeft: number;
  #rows: number;
  /** Tokens that the step is expected to yield. */
  #tokens: number;

  /**
   * For a step that has `decodeRows` rows of running sequences. Of what is left of its budget prefills may use all that
   * they are allowed, or half of it where it is less than twice that: drafts hold nobody up.
   */
  constructor(limits: SchedulerLimits, cost: StepCost, decodeRows: number) {
    const room = limits.maxBatchTokens - decodeRows;
    const free = room - Math.min(limits.maxPrefillRows, Math.ceil(room / 2));
    this.#rowsLeft = limits.speculation ? Math.min(free, maxScoredRows(limits.vocabSize)) : 0;
    this.#cost = cost;
    this.#rows = decodeRows;
    this.#tokens = decodeRows;
  }

  /** Drafts that follow the last token of a decoding sequence whose blocks have room for `capacity` tokens. */
  drafts(sequence: Sequence, capacity: number): readonly number[] {
    // Nothing is known to follow a token that is not known itself.
    if (sequence.awaited > 0) return NO_DRAFTS;
    const { request, lookup } = sequence;
    const wanted = request.maxNewTokens - sequence.generated - 1;
    const most = Math.min(this.#rowsLeft, capacity - sequence.length, wanted);
    if (most <= 0 || !lookup.follow(sequence)) return NO_DRAFTS;
    const { confidence } = lookup;
    const drafts: number[] = [];
    // A draft counts only if all before it were right.
    for (let likely = confidence; drafts.length < most && this.#pays(likely); likely *= confidence) {
      const token = lookup.guess(sequence, drafts);
      // Nothing follows a stop token, and to see it chosen takes no row of its own.
      if (request.stopIds.includes(token)) break;
      drafts.push(token);
      this.#rowsLeft -= 1;
      this.#rows += 1;
      this.#tokens += likely;
    }
    return drafts;
  }

  /**
   * True when a sequence whose next token is about to be known promises drafts behind it: there is a guess for that token,
   * and it and a draft after it are together likely enough for the draft to pay.
   */
  promises(sequence: Sequence): boolean {
    const { request, lookup, generated } = sequence;
    if (this.#rowsLeft <= 0 || request.maxNewTokens - generated <= 2 || !lookup.follow(sequence)) return false;
    return this.#pays(lookup.confidence ** 2);
  }

  #pays(likely: number): boolean {
    return likely * this.#cost.inRows(this.#rows) > this.#tokens;
  }
}
