import type { AdapterDtype } from '../../src/core/adapter.js';
import type { KvDtype, Precision } from '../../src/core/model-manifest.js';
import type { AdapterScore } from './adapters.js';
import { LONG, type LongDecodeProbe } from './long-decode.js';
import { type TextScore, WINDOW } from './score.js';
import { SPEEDS, type SpeedProbe } from './speed.js';

export interface PrecisionFindings {
  readonly machine: string;
  readonly texts: readonly string[];
  /** By precision, one score a text; float32 among them. */
  readonly scores: ReadonlyMap<Precision, readonly TextScore[]>;
  readonly adapters: readonly AdapterScore[];
  /** The section on speed, as `renderSpeed` made it now or before. */
  readonly speed: string;
  /** By type of keys and values beside float32 weights, one score a text; float32 among them. */
  readonly kvScores: ReadonlyMap<KvDtype, readonly TextScore[]>;
  readonly kvSpeeds: ReadonlyMap<KvDtype, LongDecodeProbe> | null;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

/** Perplexity of a text in one precision, as a change against float32 in percent. */
export function perplexityChange(score: TextScore, float32: TextScore): number {
  return (Math.exp(score.loss - float32.loss) - 1) * 100;
}

function qualityTable<T extends string>(
  what: string,
  texts: readonly string[],
  scores: ReadonlyMap<T | 'f32', readonly TextScore[]>,
): string {
  const reference = scores.get('f32') as readonly TextScore[];
  const rows = [...scores].flatMap(([precision, found]) =>
    found.map((score, i) => {
      const float32 = reference[i] as TextScore;
      const same = score.choices.filter((choice, at) => choice === float32.choices[at]).length;
      return [
        precision,
        texts[i] as string,
        `${score.count}`,
        Math.exp(score.loss).toFixed(3),
        precision === 'f32' ? '–' : percent(perplexityChange(score, float32)),
        `${((100 * same) / score.count).toFixed(1)} %`,
      ];
    }),
  );
  return table([what, 'text', 'tokens', 'perplexity', 'against f32', 'same greedy choice'], rows);
}

function percent(change: number): string {
  return `${change < 0 ? '−' : '+'}${Math.abs(change).toFixed(2)} %`;
}

function adapterTable(adapters: readonly AdapterScore[]): string {
  const rows = adapters.map((score) => [
    score.base,
    score.dtype,
    score.adapter,
    score.perplexity.toFixed(3),
    score.base === 'f32' && score.dtype === 'file' ? '–' : percent(score.change),
    ...(score.dtype === 'file'
      ? ['–', '–', '–']
      : [percent(score.changeOverBase), `${(100 * score.sameChoice).toFixed(1)} %`, score.ofEffect.toFixed(3)]),
  ]);
  const head = ['base', 'adapters', 'adapter', 'perplexity', 'against f32, file', 'against file'];
  return table([...head, 'same greedy choice', 'of its effect'], rows);
}

/** How many adapters' perplexity changes by no more than a hundredth. */
function within(adapters: readonly AdapterScore[], base: Precision, dtype: AdapterDtype): string {
  const all = adapters.filter((one) => one.base === base && one.dtype === dtype);
  return `${all.filter(({ change }) => Math.abs(change) <= 1).length} of ${all.length}`;
}

/** Largest change of any adapter, in percent. */
function largest(adapters: readonly AdapterScore[], base: Precision, dtype: AdapterDtype): string {
  const changes = adapters.filter((one) => one.base === base && one.dtype === dtype).map(({ change }) => change);
  return percent(changes.reduce((most, change) => (Math.abs(change) > Math.abs(most) ? change : most), 0));
}

function speedTable(speeds: ReadonlyMap<Precision, SpeedProbe>): string {
  const of = (precision: Precision) =>
    SPEEDS.map((speed) => median(speeds.get(precision)?.samples.get(speed) as number[]));
  const float32 = of('f32');
  const rows = [...speeds.keys()].map((precision) => [
    precision,
    ...of(precision).map((rate, i) => `${rate.toFixed(0)} (${(rate / (float32[i] as number)).toFixed(2)}×)`),
  ]);
  return table(['precision', ...SPEEDS.map((speed) => `${speed}, tok/s`)], rows);
}

const SPEED = /^## Speed\n.*?(?=^## )/ms;

/** The section on speed. */
export function renderSpeed(speeds: ReadonlyMap<Precision, SpeedProbe>): string {
  return `## Speed

Base only, medians, precisions in turn; in brackets against float32 in the same run. \`decode n\`: n sequences together.

${speedTable(speeds)}

`;
}

/** The section on speed of an earlier page; empty where it has none. */
export function speedSection(page: string): string {
  return SPEED.exec(page)?.[0] ?? '';
}

function longTable(speeds: ReadonlyMap<KvDtype, LongDecodeProbe>): string {
  const of = (dtype: KvDtype): number => median(speeds.get(dtype)?.samples ?? []);
  const rows = [...speeds.keys()].map((dtype) => [
    dtype,
    `${of(dtype).toFixed(0)} (${(of(dtype) / of('f32')).toFixed(2)}×)`,
  ]);
  return table(['keys and values', `decode ${LONG.batch} behind ${LONG.context} tokens each, tok/s`], rows);
}

/** The page `docs/precision.md`. */
export function renderPrecision(findings: PrecisionFindings): string {
  const { machine, texts, scores, kvScores, kvSpeeds } = findings;
  return `# Precision

Made by \`npm run precision\`; do not edit. Measured with the demo model (SmolLM2-135M-Instruct, GGUF Q4_1) on ${machine}.

| precision | base weights | activations of the base's matmuls |
| --- | --- | --- |
| f32 | float32 | float32 |
| w8 | 8 bits in blocks of 32, float16 scales: 8.5 bits a weight | 8 bits, each row by itself in blocks of 32 |
| w4 | 4 bits in blocks of 32, float16 scales and minima: 5 bits a weight; the head 8 bits, unless the file holds it in 4 | as w8 |

These are the precisions of a CPU; a GPU's ([GPU](gpu.md)) nothing here measures. In all three adapters, attention, norms and
(unless \`--kv-dtype\` says otherwise) the KV cache compute in float32, and a row's answer is the same bits alone and in any batch: a row is
rounded by itself, never together with others. Quants that a GGUF file holds are kept as they are
(Q4_0, Q4_1 in w4; Q8_0, Q4_0 in w8); other weights are fitted.

## Quality

Texts of \`bench/precision/texts/\` in windows of ${WINDOW} tokens, each token predicted from those before it in its window.

${qualityTable('precision', texts, scores)}

The file of this model holds blocks of 4 bits, which \`w4\` keeps: its change is that of rounded activations alone. \`w8\` fits
each block once more. Weights that come in float lose much more in 4 bits than these figures say, which is why \`auto\` takes
\`w4\` for 4-bit files only.

## Adapters

\`--adapter-dtype\` says how the factors of linear modules are kept; all else that an adapter brings stays as it is. With int4
what factors multiply is rounded to 8 bits, each row by itself: 160 inputs at most with one scale, and 16 numbers of the
shrunk row.

| adapters | A | B |
| --- | --- | --- |
| file | as its file has it, exactly | as its file has it, exactly |
| int8 | 8 bits, one float32 scale a row | 8 bits, a bfloat16 scale for each row of 32 outputs: 8.5 bits a number |
| int4 | 4 bits, a bfloat16 scale for 40 inputs at most: 4.4 to 4.5 bits a number | 4 bits, a float32 scale a row and a bfloat16 scale for two outputs of 16 rows: 4.5 bits a number, 5 at rank 8 |

Scales of int4 are searched for the least squared error. The same texts with each demo adapter, all tokens together. Against
\`file\`: the same adapter over the same base. Of its effect: the root mean square of what ln p of the tokens moves by, in parts
of what the adapter itself moves it by.

${adapterTable(findings.adapters)}

The largest change of perplexity against the reference (f32, file): ${largest(findings.adapters, 'f32', 'int8')} with int8 and
${largest(findings.adapters, 'f32', 'int4')} with int4 over f32; ${largest(findings.adapters, 'w4', 'file')} with the files' dtype, ${largest(findings.adapters, 'w4', 'int8')} with int8 and
${largest(findings.adapters, 'w4', 'int4')} with int4 over w4. Within 1 % of it stay, with int4, ${within(findings.adapters, 'f32', 'int4')} adapters over f32 and
${within(findings.adapters, 'w4', 'int4')} over w4. The texts are not what the adapters were trained on: where rounding weakens an adapter, their perplexity
falls. What a factor loses is \`native/tests/adapters.rs\`' to measure: the products
B·A of these adapters are off by 0.6 % of their norm in int8 and by 7.9 % in int4, in the median of their modules.

${findings.speed}## Keys and values of 16 bits

\`--kv-dtype f16\` and \`bf16\` keep keys and values in half of the memory: the same \`--kv-memory\` holds twice the tokens, and
a step reads half the bytes of what was said before. Numbers are rounded to nearest once, when they are written; scores,
weights and sums stay float32, and a row's answer stays the same bits alone and in any batch. float16 is the closer of the two, and
holds numbers up to 65,504: where a model's keys or values exceed that, its answers fail by name, and \`bf16\` has float32's range.
Beside float32 weights:

${qualityTable('keys and values', texts, kvScores)}
${kvSpeeds === null ? '' : `\nAll in turn, base only, medians; in brackets against float32:\n\n${longTable(kvSpeeds)}\n`}
## What \`--precision auto\` takes

- \`w4\` where the file holds its matrices in 4-bit blocks (Q4_0, Q4_1), else \`w8\`: both stay within 1 % of float32's perplexity.
- \`f32\` where the CPU runs the portable kernels, whose integer products are slower than those of float32, if the weights
  then take no more than half of the memory.

One process holds one copy of the weights, so a choice per batch size would cost both: on the machine above the
quantised precisions are faster at every batch size, and there is nothing to choose.
`;
}
