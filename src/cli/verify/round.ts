import { LoramuxError, toLoramuxError } from '../../core/errors.js';
import { ANSWER_TOKENS, requestFor, type Target, type VerifyCase } from './cases.js';
import type { PrivateEngine } from './private-engine.js';
import { Random } from './random.js';
import { type Difference, RowCheck } from './row-check.js';
import { answerKey, type SoloRuns, type Subject, servedDigest } from './solo-runs.js';

/** Requests of one round. */
const REQUESTS = 24;
/** Nothing of a round takes longer without a single token; a hang is a failure too. */
const STALL_MS = 120_000;

export interface RoundOptions {
  readonly engine: PrivateEngine;
  readonly cases: readonly VerifyCase[];
  readonly solo: SoloRuns;
  readonly compareLogits: boolean;
  /** Name that moves from adapter to adapter; it must stand for one already. */
  readonly movingName: string;
  readonly seed: number;
  /** Requests of the round take the ids from here on. */
  readonly firstId: number;
}

/** What a round did. */
export interface RoundTally {
  requests: number;
  aborted: number;
  /** Requests that combined adapters. */
  combined: number;
  reloads: number;
  /** Tokens that were compared. */
  tokens: number;
}

export interface RoundResult {
  readonly tally: RoundTally;
  readonly difference: Difference | null;
}

/** One thing that a round does, once `after` more tokens have come or nothing runs any more. */
type Action = { readonly after: number } & (
  | {
      readonly kind: 'request';
      readonly target: Target;
      readonly caseIndex: number;
      readonly tokens: number;
      readonly abortAfter: number | null;
    }
  | { readonly kind: 'reload'; readonly subject: Subject }
);

/** The base, an adapter, the name that moves, or several adapters combined. */
function target(random: Random, { subjects, combinations }: SoloRuns, movingName: string): Target {
  if (combinations.length > 0 && random.oneIn(4)) {
    const { label, composition } = random.pick(combinations);
    return { adapter: label, composition };
  }
  return { adapter: random.oneIn(5) ? movingName : random.pick(subjects).name, composition: null };
}

/** A round's script: all that is random about it is decided before it begins. */
function script(random: Random, { cases, solo, movingName }: RoundOptions): Action[] {
  const adapters = solo.subjects.filter(({ directory }) => directory !== '');
  const actions: Action[] = [];
  for (let index = 0; index < REQUESTS; index += 1) {
    if (random.oneIn(6)) actions.push({ kind: 'reload', subject: random.pick(adapters), after: random.below(4) });
    const tokens = 1 + random.below(ANSWER_TOKENS);
    actions.push({
      kind: 'request',
      target: target(random, solo, movingName),
      caseIndex: random.below(cases.length),
      tokens,
      abortAfter: random.oneIn(5) ? random.below(tokens) : null,
      after: random.oneIn(2) ? 0 : random.below(6),
    });
  }
  return actions;
}

/**
 * Runs one round of random requests, aborts and reloads to its end, or to the first request that is not what its solo
 * run was.
 */
export async function runRound(options: RoundOptions): Promise<RoundResult> {
  const round = new Round(options);
  return round.run(script(new Random(options.seed), options));
}

class Round {
  readonly #options: RoundOptions;
  readonly #tally: RoundTally = { requests: 0, aborted: 0, combined: 0, reloads: 0, tokens: 0 };
  readonly #reloads: Promise<void>[] = [];
  #difference: Difference | null = null;
  #open = 0;
  #nextId: number;
  #wake: () => void = () => undefined;

  constructor(options: RoundOptions) {
    this.#options = options;
    this.#nextId = options.firstId;
  }

  async run(actions: readonly Action[]): Promise<RoundResult> {
    for (const action of actions) {
      const target = this.#tally.tokens + action.after;
      while (this.#difference === null && this.#open > 0 && this.#tally.tokens < target) await this.#moved();
      if (this.#difference !== null) break;
      if (action.kind === 'request') this.#request(action);
      else this.#reload(action.subject);
    }
    while (this.#difference === null && this.#open > 0) await this.#moved();
    await Promise.all(this.#reloads);
    // What differed is run alone next; nothing of the round may share a step with it.
    if (this.#difference !== null) this.#options.engine.abortAll();
    return { tally: this.#tally, difference: this.#difference };
  }

  #request({ target, caseIndex, tokens, abortAfter }: Extract<Action, { kind: 'request' }>): void {
    const { engine, cases, solo, compareLogits } = this.#options;
    const id = this.#nextId++;
    this.#open += 1;
    this.#tally.requests += 1;
    const label = target.composition === null ? null : target.adapter;
    if (label !== null) this.#tally.combined += 1;
    const check = new RowCheck({
      target,
      caseIndex,
      tokens,
      compareLogits,
      answerOf: (digest, at) => solo.answers.get(answerKey(servedDigest(digest, label), at)),
      onDifference: (difference) => {
        this.#difference ??= difference;
      },
      onToken: (count) => {
        this.#tally.tokens += 1;
        const goesOn = abortAfter === null || count < abortAfter;
        if (!goesOn) this.#abort(id);
        this.#wake();
        return goesOn;
      },
      onEnd: () => {
        this.#open -= 1;
        this.#wake();
      },
    });
    // What is shared within a round was computed in it.
    const salt = `round from ${this.#options.firstId}`;
    engine.submit(requestFor(id, target, cases[caseIndex] as VerifyCase, tokens, salt), check);
    // Some leave before anything came, also while their adapter is loading.
    if (abortAfter === 0) {
      this.#abort(id);
      check.cancel();
    }
  }

  #abort(id: number): void {
    this.#tally.aborted += 1;
    this.#options.engine.abort(id);
  }

  /** Moves the one name to other files while requests use it. */
  #reload({ name, directory }: Subject): void {
    const { engine, movingName } = this.#options;
    this.#tally.reloads += 1;
    const source = { type: 'dir', location: directory } as const;
    const load = { op: 'load', name: movingName, source, pin: false, wait: true, replace: true } as const;
    const done = engine.admin(load).then(
      () => undefined,
      (thrown: unknown) => {
        const { code, message } = toLoramuxError(thrown);
        this.#difference ??= {
          adapter: `${movingName} (reloaded from ${name})`,
          composition: null,
          digest: null,
          caseIndex: -1,
          position: -1,
          expected: 'a load',
          found: `${code}: ${message}`,
          logits: null,
        };
        this.#wake();
      },
    );
    this.#reloads.push(done);
  }

  /** Resolves at the next token, end or failure. */
  #moved(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new LoramuxError('ERR_ENGINE_FATAL', `no token came for ${STALL_MS / 1000} s: ${this.#open} requests hang`),
          ),
        STALL_MS,
      );
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = () => undefined;
        resolve();
      };
    });
  }
}
