import { drawChart } from './plot.js';
import type { BenchRecord, RunRecord } from './records.js';
import { isNoisy, Results } from './results.js';
import {
  arrivalTable,
  batchPoints,
  batchTable,
  contenderTable,
  distinctPoints,
  mixTable,
  prefillTable,
  serverTable,
  targetTable,
} from './tables.js';

const REFERENCE = 'loramux f32';
const DISTINCT_PLOT = 'benchmarks-distinct.svg';
const BATCH_PLOT = 'benchmarks-batch.svg';

/** File names and their text, for one folder. */
export type Page = ReadonlyMap<string, string>;

/** docs/benchmarks.md and its charts, from records alone: the same records make the same bytes. */
export function renderPage(records: readonly BenchRecord[]): Page {
  const results = new Results(records);
  const contenders = [...results.contenders(false), ...results.contenders(true)];
  const chart = (title: string, xLabel: string, pointsOf: typeof distinctPoints): string => {
    const lines = contenders.map((name) => ({ name, points: pointsOf(results, name) }));
    return drawChart({ title, xLabel, yLabel: 'tokens/s', lines: lines.filter(({ points }) => points.length > 0) });
  };
  return new Map([
    ['benchmarks.md', `${document(results).join('\n')}\n`],
    [DISTINCT_PLOT, chart('Decode, 16 rows, rank 16', 'distinct adapters in the batch (0: base only)', distinctPoints)],
    [BATCH_PLOT, chart('Decode, every row its own adapter, rank 16', 'rows', batchPoints)],
  ]);
}

function document(results: Results): string[] {
  const rounds = new Set(results.of('throughput').map(({ round }) => round)).size;
  return [
    '# Benchmarks',
    '',
    'Made by `npm run bench -- --page`; do not edit. The numbers are those of `docs/benchmarks.jsonl`, one line each timed',
    'run, from which `npm run bench:page` makes this page again without measuring.',
    '',
    ...machine(results.runs),
    '',
    '## Targets',
    '',
    ...targetTable(results),
    '',
    '## How it was measured',
    '',
    '- The model is SmolLM2-135M-Instruct from the GGUF file (Q4_1) that `--model demo` fetches. The float32 contenders',
    '  compute with its weights made float32; `w8` and `w4` and llama.cpp with quantised ones. The adapters are random, on all linear',
    '  modules but the head, with weights of their own for every module, so that nothing stays in a cache by accident; all',
    '  contenders read the same ones, and the same token ids.',
    `- Contenders are processes that take turns, ${rounds} round${rounds === 1 ? '' : 's'}, in an order that turns round each time; a tenth of a second lies`,
    '  between two turns. Within its turn a contender runs all cells of a group, so those that are compared lie close in time.',
    '- Speeds are tokens over the time of whole steps, sampling included: for a decode the steps after the prompt and one',
    '  more (a cache of 32 tokens a row); for a prefill the whole prompt to its first token. Ratios are taken within a round',
    '  and shown as median (least–greatest); so are speeds.',
    '- PEFT runs each job the fastest way that it has: the plain model for the base, the active adapter for one, a mixed',
    '  batch (`adapter_names`) for several. It was not compiled; an adapter could also be merged into the base, which then',
    '  serves no other.',
    '- llama.cpp has its adapters as GGUF files (the same factors) and decodes rows of one adapter in one batch; rows of',
    '  another adapter need a context of their own, and contexts run one after another with all threads.',
    '- onnxruntime-genai takes part without adapters: a generator has one active adapter, so a batch of several would run as',
    '  many batches, as llama.cpp’s does. Its models are made by its own builder from the same weights.',
    '- "First tokens as in float32" counts rows whose greedy token after the prompt is that of loramux f32, over all cells',
    '  that both ran: a check that all compute the same model and the same adapters.',
    '',
    ...contenderTable(results, REFERENCE),
    '',
    '## Decode',
    '',
    'Tokens per second, base only:',
    '',
    ...batchTable(results, 'base'),
    '',
    'Every row its own rank-16 adapter, and how much of base speed that is:',
    '',
    ...batchTable(results, 'distinct'),
    '',
    `![tokens per second against rows](${BATCH_PLOT})`,
    '',
    'A batch of 16 with different adapters:',
    '',
    ...mixTable(results),
    '',
    `![tokens per second against distinct adapters](${DISTINCT_PLOT})`,
    '',
    '## Prefill',
    '',
    'Prompt tokens per second:',
    '',
    ...prefillTable(results),
    '',
    '## The server',
    '',
    'Arrivals as in S-LoRA’s synthetic traces: gaps between requests are gamma distributed (cv 1 is Poisson), the adapter of a',
    'request is ⌊power(alpha) · n⌋, prompts and answers have U{8 … 64} tokens each. The adapters are rank 8 on query and',
    'value. The rate is a share of that at which the server with few adapters saturates (80 % where nothing else is said).',
    'Speculation is off wherever nothing else is said: random adapters repeat themselves more than trained ones, which it',
    'would gain from.',
    '',
    ...arrivalTable(results),
    '',
    'The client runs on the same cores as the server.',
    ...warmUps(results),
    '',
    ...serverTable(results),
  ];
}

function machine(runs: readonly RunRecord[]): string[] {
  return runs.flatMap((run, index) => {
    const { one, all } = run.readBandwidth;
    const load = run.loadAverage[0] ?? 0;
    const noise = isNoisy(run)
      ? `**Noisy**: other programs kept the machine busy (load average ${load} on ${run.cores} cores when it began), so speeds are too low, ratios uncertain, and no target is judged.`
      : `The machine was quiet: load average ${load} on ${run.cores} cores when it began.`;
    return [
      ...(index === 0 ? [] : ['']),
      `Measured ${run.date.slice(0, 10)} at commit ${run.commit} on ${run.cpu}, ${run.cores} cores (${run.cpuFlags.join(', ')}), ` +
        `${run.memoryGiB} GiB, ${run.kernel}, ${run.threads} threads; memory read at ${(one / 1e9).toFixed(1)} GB/s by one thread, ` +
        `${(all / 1e9).toFixed(1)} GB/s by all. ${Object.entries(run.versions)
          .map(([name, version]) => `${name} ${version}`)
          .join(', ')}. ${noise}`,
    ];
  });
}

function warmUps(results: Results): string[] {
  const found = results.serving('overhead', 'base', 'warmUps');
  if (found === null) return [];
  return [`The 16 streams have run ${found.value} times before the first that counts: V8 compiles for about as long.`];
}
