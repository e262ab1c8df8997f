import type { Precision } from '../../src/core/model-manifest.js';
import { demoModel, type PeftCase, peftCases } from '../../tests/helpers/demo-model.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../../tests/helpers/paths.js';
import { Agreement, divergence } from './agreement.js';
import { type ForcedSteps, forcedSteps } from './forced.js';

/** Steps whose two best logits are closer in PEFT: rounding may decide them. */
export const DEMO_TIE = 0.02;

/** How one precision does on the demo model. Choices against PEFT, logits against our float32. */
export interface DemoResult {
  readonly precision: Precision;
  readonly cases: number;
  /** Every step, and those that PEFT decided by more than DEMO_TIE. */
  readonly all: Agreement;
  readonly decided: Agreement;
  /** Cases whose decided steps all agree. */
  readonly wholeCases: number;
  /** Mean Kullback-Leibler divergence of the next token from float32's, nats a step. */
  readonly divergence: number;
}

async function runDemo(precision: Precision, cases: readonly PeftCase[]): Promise<readonly ForcedSteps[]> {
  const engine = await DirectEngine.open({
    model: await demoModel(precision),
    adapterRoots: [DEMO_ADAPTERS],
    maxSequences: 16,
  });
  const scripts = cases.map(({ adapter, prompt_ids, expected_ids }) => ({
    adapter,
    promptIds: prompt_ids,
    tokens: expected_ids,
  }));
  const steps = await forcedSteps(engine, scripts);
  await engine.close();
  return steps;
}

function compare(
  precision: Precision,
  cases: readonly PeftCase[],
  steps: readonly ForcedSteps[],
  float32: readonly ForcedSteps[],
): DemoResult {
  const [all, decided] = [new Agreement(), new Agreement()];
  let [wholeCases, diverged, count] = [0, 0, 0];
  for (const [i, one] of cases.entries()) {
    const [ours, reference] = [steps[i] as ForcedSteps, float32[i] as ForcedSteps];
    let whole = true;
    for (const [step, token] of one.expected_ids.entries()) {
      const [choice, logits] = [ours.choices[step] as number, ours.logits[step] as Float32Array];
      const wanted = reference.logits[step] as Float32Array;
      all.addChoice(choice, token);
      all.addLogits(logits, wanted);
      diverged += divergence(logits, wanted);
      count += 1;
      if ((one.gaps[step] as number) < DEMO_TIE) continue;
      decided.addChoice(choice, token);
      whole &&= choice === token;
    }
    if (whole) wholeCases += 1;
  }
  return { precision, cases: cases.length, all, decided, wholeCases, divergence: diverged / count };
}

/** PEFT's cases of the demo model in each precision; the first one is float32. */
export async function runDemoCases(precisions: readonly Precision[]): Promise<readonly DemoResult[]> {
  const cases = peftCases();
  const float32 = await runDemo('f32', cases);
  const results: DemoResult[] = [];
  for (const precision of precisions) {
    const steps = precision === 'f32' ? float32 : await runDemo(precision, cases);
    results.push(compare(precision, cases, steps, float32));
  }
  return results;
}
