import type { Precision } from '../../src/core/model-manifest.js';
import { Agreement } from './agreement.js';
import { DEMO_TIE, type DemoResult } from './demo-cases.js';
import { ELSEWHERE, MATRIX, REFUSED } from './matrix.js';
import type { CaseResult } from './synthetic-cases.js';

/** Everything that the report is made of. */
export interface Findings {
  /** Name and version of each part that has a say in the numbers. */
  readonly versions: readonly (readonly [part: string, version: string])[];
  readonly synthetic: ReadonlyMap<Precision, readonly CaseResult[]>;
  readonly refused: ReadonlyMap<string, string | null>;
  readonly demo: readonly DemoResult[];
}

type Served = CaseResult['outcome'] & { readonly kind: 'served' };

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Two significant digits; never 0 for what is not. */
function short(value: number): string {
  if (value === 0) return '0';
  return value >= 0.01 && value < 1000 ? value.toPrecision(2) : value.toExponential(1);
}

function share({ agreed, compared }: { readonly agreed: number; readonly compared: number }): string {
  return compared === 0 ? '–' : `${agreed} / ${compared}`;
}

function codesOf(results: readonly CaseResult[]): string[] {
  return [...new Set(results.flatMap(({ outcome }) => (outcome.kind === 'refused' ? [outcome.code] : [])))];
}

function agreementOf(served: readonly Served[]): Agreement {
  const sum = new Agreement();
  for (const { logits, expected, choices } of served) {
    sum.addLogits(logits, expected);
    for (const [ours, peft] of choices) sum.addChoice(ours, peft);
  }
  return sum;
}

/** `equal` is for float32: within the tolerances, all choices the same, the same bits in any batch. */
function verdictOf(served: readonly Served[], codes: readonly string[], precision: Precision): string {
  const words: string[] = codes.length > 0 ? [`refused: \`${codes.join('`, `')}\``] : [];
  if (served.length > 0) {
    const same = served.every(({ sameMixed }) => sameMixed);
    const exact = served.every(({ close, choices }) => close && choices.every(([ours, peft]) => ours === peft));
    if (!same) words.push('**batch changes it**');
    else if (exact) words.push('equal');
    else words.push(precision === 'f32' ? '**differs**' : 'near');
  }
  return words.join('; ');
}

function syntheticTable(results: readonly CaseResult[], precision: Precision): string {
  const rows = MATRIX.flatMap(({ id, what, takes }) => {
    const mine = results.filter(({ adapter, model }) => takes(adapter, model));
    const served = mine.flatMap(({ outcome }) => (outcome.kind === 'served' ? [outcome] : []));
    const adapters = new Set(mine.map(({ model, adapter }) => `${model}/${adapter}`)).size;
    const verdict = verdictOf(served, codesOf(mine), precision);
    if (mine.length === 0) return [];
    if (served.length === 0) return [[id, what, `${adapters}`, verdict, '–', '–', '–', '–']];
    const { worst, mean, relative, ...choices } = agreementOf(served).figures;
    return [[id, what, `${adapters}`, verdict, short(worst), short(mean), short(relative), share(choices)]];
  });
  const head = ['row', 'what', 'adapters', 'verdict', 'max error', 'mean error', 'relative', 'greedy'];
  return table(head, rows);
}

function refusedTable(codes: ReadonlyMap<string, string | null>): string {
  const left = new Set(codes.keys());
  const rows = REFUSED.map(({ id, what, takes }) => {
    const mine = [...left].filter(takes);
    for (const directory of mine) left.delete(directory);
    const counts = new Map<string, number>();
    for (const directory of mine) {
      const code = codes.get(directory) ?? null;
      const verdict = code === null ? `**served: ${directory}**` : `\`${code}\``;
      counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
    }
    const verdicts = [...counts].map(([verdict, count]) => `${verdict} × ${count}`).join(', ');
    return [id, what, `${mine.length}`, verdicts];
  });
  return table(['row', 'what', 'adapters', 'refused with'], rows);
}

function demoTable(results: readonly DemoResult[]): string {
  const rows = results.map(({ precision, cases, all, decided, wholeCases, divergence }) => {
    const { worst, mean, relative, ...choices } = all.figures;
    const errors = precision === 'f32' ? ['–', '–', '–', '–'] : [worst, mean, relative, divergence].map(short);
    return [precision, share(decided.figures), share(choices), `${wholeCases} / ${cases}`, ...errors];
  });
  const head = [
    'precision',
    'greedy, decided',
    'greedy, all',
    'whole cases',
    'max error',
    'mean error',
    'relative',
    'KL',
  ];
  return table(head, rows);
}

/** True when everything is as it must be: float32 equal or refused by code, no batch changes anything. */
export function allAsPromised({ synthetic, refused, demo }: Findings): boolean {
  const rows = [...synthetic].flatMap(([precision, results]) =>
    results.map(({ outcome }) => (outcome.kind === 'served' ? verdictOf([outcome], [], precision) : 'refused')),
  );
  const float32 = demo.find(({ precision }) => precision === 'f32')?.decided.figures;
  return (
    rows.every((verdict) => !verdict.includes('**')) &&
    [...refused.values()].every((code) => code !== null) &&
    float32?.agreed === float32?.compared
  );
}

/** The whole document. */
export function renderReport(findings: Findings): string {
  const { versions, synthetic, refused, demo } = findings;
  const sections = [...synthetic].map(([precision, results]) => {
    // What a quantised mode leaves in float32, and what it refuses, float32's table has already.
    const shown =
      precision === 'f32' ? results : results.filter((one) => one.quantised && one.outcome.kind === 'served');
    return `### ${precision}\n\n${syntheticTable(shown, precision)}`;
  });
  return `# Parity with PEFT

Made by \`npm run parity\`; do not edit. What PEFT computes is in the committed fixtures (\`tests/fixtures/\`), so the report
needs no Python; \`npm run parity -- --remake\` computes them again first.

${table(['part', 'version'], versions)}

## How to read it

- **error** is |ours − PEFT's| of the logits of the last prompt token, in units of the logits: the largest, the mean, and
  **relative** ‖ours − PEFT's‖ / ‖PEFT's‖. PEFT ran in float32, alone, from the weights as stored.
- **greedy** is at how many steps our choice is PEFT's, given PEFT's tokens before it (32 steps a case). Left out are near
  ties: steps where PEFT's two best logits are closer than 0.001, on the demo model ${DEMO_TIE}.
- **equal**: every logit within 1e-4 + 1e-4·|PEFT's|, every choice the same, and at every step the same bits alone as in one
  batch with all other cases of the model: plain, DoRA, other variants, base. **near**: the same bits alone and mixed, but
  not PEFT's numbers, because the weights were rounded.
- **refused**: the load ends in that code, and names what is not served.

## The demo model

SmolLM2-135M-Instruct and the adapters of \`examples/adapters/\`: ${demo[0]?.cases ?? 0} cases of PEFT. Errors and the
Kullback-Leibler divergence of the next token (nats) are against our own float32 at every step, **greedy** against PEFT:
where PEFT's two best logits are ${DEMO_TIE} apart or more, and everywhere.

The file of this model (GGUF Q4_1) holds blocks of 4 bits. \`w4\` takes them over as they are and rounds activations only;
\`w8\` rounds each block once more. What 4 bits cost a model that comes in float, these figures do not say; the tiny models
below, most of them stored in float, show that it is more.

${demoTable(demo)}

## Tiny random models

Fifteen decoders of two to four layers and their adapters (\`tests/fixtures/synthetic/README.md\`), three prompts each. Their
weights are noise, so nothing averages rounding out: errors of \`w8\` and \`w4\` are far above those of trained models. Only
models with widths that blocks of 32 divide are quantised at all; the tables of \`w8\` and \`w4\` leave the others out, and
what is refused.

${sections.join('\n\n')}

## Adapters that must be refused

${refusedTable(refused)}

## Rows without cases here

${table(['row', 'what', 'where'], ELSEWHERE)}
`;
}
