import type { DirectEngine, Outcome } from '../../tests/helpers/direct-engine.js';

/** A generation whose tokens are given: what the engine would choose at each step, after the given ones before it. */
export interface Script {
  readonly adapter: string;
  readonly promptIds: readonly number[];
  readonly tokens: readonly number[];
}

export interface ForcedSteps {
  /** The engine's choice at each step. */
  readonly choices: number[];
  /** What it chose from, float32 [V] a step. */
  readonly logits: Float32Array[];
}

/**
 * Runs every script through the engine, all together. A sequence that chose another token than its script is begun
 * again behind that token: prefill and decode of one row give the same bits, so nothing depends on where.
 */
export async function forcedSteps(engine: DirectEngine, scripts: readonly Script[]): Promise<readonly ForcedSteps[]> {
  const all: ForcedSteps[] = scripts.map(() => ({ choices: [], logits: [] }));
  for (;;) {
    const open = scripts.map((script, i) => ({ script, steps: all[i] as ForcedSteps }));
    const unfinished = open.filter(({ script, steps }) => steps.choices.length < script.tokens.length);
    if (unfinished.length === 0) return all;
    const requests = unfinished.map(({ script: { adapter, promptIds, tokens }, steps: { choices } }) =>
      engine.request(adapter, [...promptIds, ...tokens.slice(0, choices.length)], tokens.length - choices.length),
    );
    const outcomes = await engine.run(requests, { logits: true });
    for (const [i, { script, steps }] of unfinished.entries()) take(steps, outcomes[i] as Outcome, script.tokens);
  }
}

/** Takes over the steps whose context was the script's: up to and with the first that chose otherwise. */
function take(steps: ForcedSteps, outcome: Outcome, wanted: readonly number[]): void {
  for (const [i, token] of outcome.tokens.entries()) {
    const step = steps.choices.length;
    steps.choices.push(token);
    steps.logits.push(outcome.logits[i] as Float32Array);
    if (token !== wanted[step]) return;
  }
}
