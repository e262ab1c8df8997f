import type { Precision } from '../../src/core/model-manifest.js';
import { sameBits, worstError } from '../../tests/helpers/compare.js';
import { type DirectEngine, type Outcome, shuffled } from '../../tests/helpers/direct-engine.js';
import { ATOL, RTOL, TIE } from '../../tests/helpers/oracle.js';
import {
  casesOf,
  openSynthetic,
  oracleLogits,
  SYNTHETIC_MODELS,
  type SyntheticCase,
} from '../../tests/helpers/synthetic.js';
import { VARIANT_ADAPTERS } from '../../tests/helpers/variants.js';
import { forcedSteps } from './forced.js';
import { refusalCode } from './refused-adapters.js';

/** What became of one case of the fixtures in one precision. */
export interface CaseResult {
  readonly model: string;
  readonly adapter: string;
  /** Whether the model has matrices in this precision; else it runs in float32, whatever was asked for. */
  readonly quantised: boolean;
  readonly outcome:
    | { readonly kind: 'refused'; readonly code: string }
    | {
        readonly kind: 'served';
        readonly logits: Float32Array;
        readonly expected: Float32Array;
        /** Within 1e-4 + 1e-4 · |PEFT's| everywhere. */
        readonly close: boolean;
        /** The same bits at every step as in a batch with all other cases of the model. */
        readonly sameMixed: boolean;
        /** The engine's greedy choice and PEFT's, given PEFT's tokens before; near ties of PEFT's left out. */
        readonly choices: readonly (readonly [ours: number, peft: number])[];
      };
}

function sameOutcome(a: Outcome, b: Outcome): boolean {
  return a.logits.length === b.logits.length && a.logits.every((row, i) => sameBits(row, b.logits[i] as Float32Array));
}

async function generate(engine: DirectEngine, cases: readonly SyntheticCase[]): Promise<Outcome[]> {
  const requests = cases.map(({ adapter, prompt_ids, expected_ids }) =>
    engine.request(adapter, prompt_ids, expected_ids.length),
  );
  return engine.run(requests, { logits: true });
}

async function runModel(name: string, precision: Precision): Promise<CaseResult[]> {
  const engine = await openSynthetic(name, { precision, threads: 1 });
  const { sites } = engine.model.manifest;
  const quantised = sites.some(({ modules }) => modules.some(({ weight }) => weight.format.startsWith(precision)));
  const variants = VARIANT_ADAPTERS.filter(({ model }) => model === name);
  const refusals = new Map<string, string>();
  for (const { name: adapter } of variants) {
    const code = await refusalCode(engine, adapter);
    if (code !== null) refusals.set(adapter, code);
  }
  const all = [...casesOf(name), ...variants.flatMap(({ cases }) => cases)];
  const served = all.filter(({ adapter }) => !refusals.has(adapter));

  const alone: Outcome[] = [];
  for (const one of served) alone.push(...(await generate(engine, [one])));
  const order = shuffled([...served.keys()], 4);
  const mixed = await generate(
    engine,
    order.map((i) => served[i] as SyntheticCase),
  );
  const scripts = served.map(({ adapter, prompt_ids, expected_ids }) => ({
    adapter,
    promptIds: prompt_ids,
    tokens: expected_ids,
  }));
  const forced = await forcedSteps(engine, scripts);
  await engine.close();

  const results = served.map((one, i): CaseResult => {
    const [expected, logits] = [oracleLogits(one), alone[i]?.logits[0] as Float32Array];
    const steps = [...one.gaps.keys()].filter((step) => (one.gaps[step] as number) >= TIE);
    return {
      model: name,
      adapter: one.adapter,
      quantised,
      outcome: {
        kind: 'served',
        logits,
        expected,
        close: worstError(logits, expected, ATOL, RTOL) <= 1,
        sameMixed: sameOutcome(alone[i] as Outcome, mixed[order.indexOf(i)] as Outcome),
        choices: steps.map((step) => [forced[i]?.choices[step] as number, one.expected_ids[step] as number]),
      },
    };
  });
  const refused = all.flatMap(({ adapter }): CaseResult[] => {
    const code = refusals.get(adapter);
    return code === undefined ? [] : [{ model: name, adapter, quantised, outcome: { kind: 'refused', code } }];
  });
  return [...results, ...refused];
}

/** Every case of the synthetic models and their variants in one precision. */
export async function runSynthetic(precision: Precision): Promise<CaseResult[]> {
  const results: CaseResult[] = [];
  for (const name of SYNTHETIC_MODELS.keys()) results.push(...(await runModel(name, precision)));
  return results;
}
