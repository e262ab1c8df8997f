import type { AdapterProof } from '../core/adapter.js';
import { LoramuxError } from '../core/errors.js';
import { invalidAdapter } from './offenders.js';

/** Logits [V] of the token after a prompt under a native adapter handle, or under the base for null. */
export type ProbeRun = (promptIds: Uint32Array, handle: number | null) => Promise<Float32Array>;

export interface ProverOptions {
  readonly run: ProbeRun;
  /** Ids below this are tokens. */
  readonly tokenCount: number;
  /** Prompt and one new token must fit. */
  readonly maxModelLen: number;
}

/**
 * Tokens of the probe prompt, where the model length allows as many: over a single one attention has nothing to weigh,
 * so factors of queries and keys would not show; each further one makes the step longer that decodes for others.
 */
const PROBE_TOKENS = 2;
/** 2³² divided by the golden ratio: multiples of it fall evenly over the range, whatever the vocabulary. */
const GOLDEN = 0x9e3779b9;

/** The same ids for the same vocabulary, spread over all of it. */
export function probePrompt(tokenCount: number, maxModelLen: number): Uint32Array {
  const length = Math.max(1, Math.min(PROBE_TOKENS, maxModelLen - 1));
  return Uint32Array.from({ length }, (_, at) => {
    const fraction = (Math.imul(at + 1, GOLDEN) >>> 0) / 2 ** 32;
    return Math.floor(fraction * tokenCount);
  });
}

/**
 * Shows that a compiled adapter reaches the logits: runs one short prompt with it and compares with the base, whose
 * logits are computed once. Adapters are proven one by one or side by side, before anybody is served by them.
 */
export class AdapterProver {
  readonly #run: ProbeRun;
  readonly #promptIds: Uint32Array;
  #base: Promise<Float32Array> | null = null;

  constructor({ run, tokenCount, maxModelLen }: ProverOptions) {
    this.#run = run;
    this.#promptIds = probePrompt(tokenCount, maxModelLen);
  }

  /**
   * Errors: ERR_ADAPTER_INVALID when the adapter's logits are not finite, `file` being named; ERR_MODEL_INVALID when
   * the base's are not; whatever the engine reports of a step that failed.
   */
  async prove(handle: number, file: string): Promise<AdapterProof> {
    // Side by side, so that both may join one step; both are over before the caller may free the handle.
    const [ofBase, ofAdapter] = await Promise.allSettled([this.#baseLogits(), this.#run(this.#promptIds, handle)]);
    if (ofBase.status === 'rejected') throw ofBase.reason;
    if (ofAdapter.status === 'rejected') throw ofAdapter.reason;
    const [base, logits] = [ofBase.value, ofAdapter.value];
    let maxLogitDelta = 0;
    for (let token = 0; token < logits.length; token += 1) {
      const value = logits[token] as number;
      if (!Number.isFinite(value)) throw notFinite(file, token, value);
      maxLogitDelta = Math.max(maxLogitDelta, Math.abs(value - (base[token] as number)));
    }
    return { maxLogitDelta, probeTokens: this.#promptIds.length };
  }

  /** A failed attempt is not kept: the next adapter tries again. */
  #baseLogits(): Promise<Float32Array> {
    if (this.#base === null) {
      const attempt = this.#run(this.#promptIds, null).then(requireFinite);
      this.#base = attempt;
      attempt.catch(() => {
        if (this.#base === attempt) this.#base = null;
      });
    }
    return this.#base;
  }
}

function requireFinite(logits: Float32Array): Float32Array {
  const at = logits.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return logits;
  throw new LoramuxError(
    'ERR_MODEL_INVALID',
    `expected finite logits of the base on the probe prompt, found ${logits[at]} for token ${at}: the model's weights are damaged`,
  );
}

function notFinite(file: string, token: number, value: number): LoramuxError {
  return invalidAdapter(
    file,
    [{ expected: 'finite logits on the probe prompt', found: `${value} for token ${token}` }],
    'The adapter overflows on this base: check its weights and its scaling',
  );
}
