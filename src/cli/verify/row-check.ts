import { BASE_NAME } from '../../core/names.js';
import type { SequenceEvent } from '../../core/request.js';
import type { Target } from './cases.js';
import type { RequestListener } from './private-engine.js';
import { type Answer, hashLogits } from './solo-runs.js';

/** Where a request left its solo run. */
export interface Difference extends Target {
  readonly digest: string | null;
  readonly caseIndex: number;
  /** Index of the token. */
  readonly position: number;
  readonly expected: string;
  readonly found: string;
  /** Behind the token, where only they differ or may tell more; null when there are none. */
  readonly logits: Float32Array | null;
}

export interface RowCheckOptions {
  readonly target: Target;
  readonly caseIndex: number;
  /** Tokens asked for. */
  readonly tokens: number;
  /** Logits must be equal too, bit for bit. */
  readonly compareLogits: boolean;
  readonly answerOf: (digest: string, caseIndex: number) => Answer | undefined;
  readonly onDifference: (difference: Difference) => void;
  /** After each token that was as expected; returning false ends the check (the request is aborted). */
  readonly onToken: (count: number) => boolean;
  readonly onEnd: () => void;
}

/** Holds one request against the solo run of the digest that serves it, token by token. */
export class RowCheck implements RequestListener {
  readonly #options: RowCheckOptions;
  /** Rows whose token is still to come. */
  readonly #rows: Float32Array[] = [];
  #digest: string | null = null;
  #count = 0;
  #over = false;

  constructor(options: RowCheckOptions) {
    this.#options = options;
  }

  onLogits(logits: Float32Array): void {
    if (!this.#over) this.#rows.push(logits.slice());
  }

  onEvent(event: SequenceEvent): void {
    if (this.#over) return;
    switch (event.kind) {
      case 'admitted':
        this.#digest = event.servedBy.digest ?? BASE_NAME;
        break;
      case 'token':
        this.#compare(event.token);
        break;
      case 'finish':
        if (this.#count === this.#options.tokens) this.#end();
        else this.#differ(`${this.#options.tokens} tokens`, `an end by ${event.reason} after ${this.#count}`, null);
        break;
      case 'error':
        this.#differ('an answer', `${event.error.code}: ${event.error.message}`, null);
        break;
    }
  }

  /** The request was given up before its end; nothing more is compared. */
  cancel(): void {
    if (!this.#over) this.#end();
  }

  #compare(token: number): void {
    const { answerOf, caseIndex, compareLogits, onToken } = this.#options;
    const logits = this.#rows.shift() ?? null;
    const answer = this.#digest === null ? undefined : answerOf(this.#digest, caseIndex);
    const at = this.#count;
    if (answer === undefined) {
      this.#differ('a digest that has a solo run', `${this.#digest}`, logits);
    } else if (answer.tokens[at] !== token) {
      this.#differ(`token ${answer.tokens[at]}`, `token ${token}`, logits);
    } else if (compareLogits && (logits === null || hashLogits(logits) !== answer.logits[at])) {
      this.#differ('the same logits, bit for bit', 'others, with the same token', logits);
    } else {
      this.#count += 1;
      if (!onToken(this.#count)) this.#end();
    }
  }

  #differ(expected: string, found: string, logits: Float32Array | null): void {
    const { target, caseIndex, onDifference } = this.#options;
    onDifference({ ...target, digest: this.#digest, caseIndex, position: this.#count, expected, found, logits });
    this.#end();
  }

  #end(): void {
    this.#over = true;
    this.#options.onEnd();
  }
}
