/** Tables of the page: each a list of Markdown lines. Cells that were not measured show a dash. */
import type { Results, Side, Spread } from './results.js';
import { reached, TARGETS } from './targets.js';

const NOTHING = '–';

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.map(cellText).join(' | ')} |`);
}

/** A bar of its own would end the cell. */
function cellText(text: string): string {
  return text.replaceAll('|', '\\|');
}

/** Three significant digits, without exponents. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return NOTHING;
  return String(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
}

function spread(found: Spread | null, unit = ''): string {
  if (found === null) return NOTHING;
  const { value, low, high, count } = found;
  return count === 1 ? `${digits(value)}${unit}` : `${digits(value)}${unit} (${digits(low)}–${digits(high)})`;
}

/** Every target with what was measured, and the sentences about those that were missed. */
export function targetTable(results: Results): string[] {
  const misses: string[] = [];
  const rows = TARGETS.map((target) => {
    const { bound, unit, measure } = target;
    const wanted = 'atLeast' in bound ? `≥ ${bound.atLeast}${unit}` : `≤ ${bound.atMost}${unit}`;
    const found = target.measured(results);
    if (found === null) return [measure, wanted, 'not measured', ''];
    const shown = spread(found.value, unit) + (found.note === '' ? '' : `, ${found.note}`);
    if (results.noisy) return [measure, wanted, shown, 'not judged: noisy'];
    if (reached(target, found.value.value)) return [measure, wanted, shown, 'reached'];
    const goal = 'atLeast' in bound ? bound.atLeast : bound.atMost;
    const by = `${Math.abs((found.value.value / goal - 1) * 100).toFixed(0)} %`;
    misses.push(`- **${measure}**: missed by ${by}. ${target.limit(results)}`.trimEnd());
    return [measure, wanted, shown, `missed by ${by}`];
  });
  const lines = table(['measure', 'target', 'measured: median (least–greatest)', ''], rows);
  return misses.length === 0 ? lines : [...lines, '', 'What bounds those that were missed:', '', ...misses];
}

const BATCHES = [1, 4, 8, 16, 32];

/** Tokens per second of every contender, by batch, and the share of base speed that one kind of batch keeps. */
export function batchTable(results: Results, mix: 'base' | 'distinct'): string[] {
  const contenders = [...results.contenders(false), ...results.contenders(true)];
  const cell = (batch: number, kind: string): string =>
    // One row of its own adapter is one row of the same adapter.
    `decode/${batch}/${kind === 'distinct' && batch === 1 ? 'identical' : kind}/16`;
  const rows = contenders.map((contender) => [
    contender,
    ...BATCHES.map((batch) => {
      const side = { contender, cell: cell(batch, mix) };
      const shown = spread(results.rate(side));
      if (mix === 'base') return shown;
      const kept = results.ratio(side, { contender, cell: cell(batch, 'base') });
      return kept === null ? shown : `${shown}, ${kept.value.toFixed(2)} ×`;
    }),
  ]);
  return table(['', ...BATCHES.map((batch) => `${batch} row${batch === 1 ? '' : 's'}`)], rows);
}

const MIXES: readonly (readonly [label: string, cell: string])[] = [
  ['base', 'decode/16/base/16'],
  ['base, graph without our operators', 'operators/16/without'],
  ['16 identical, rank 16', 'decode/16/identical/16'],
  ['2 distinct, rank 16', 'decode/16/distinct:2/16'],
  ['4 distinct, rank 16', 'decode/16/distinct:4/16'],
  ['8 distinct, rank 16', 'decode/16/distinct:8/16'],
  ['16 distinct, rank 16', 'decode/16/distinct/16'],
  ['drawn evenly from 16, rank 16', 'decode/16/uniform/16'],
  ['drawn by Zipf’s law (1.5) from 16, rank 16', 'decode/16/zipf:1.5/16'],
  ['16 distinct, rank 8', 'decode/16/distinct/8'],
  ['16 distinct, ranks 8, 16 and 64', 'decode/16/distinct/mixed'],
  ['16 identical, rank 64', 'decode/16/identical/64'],
  ['16 distinct, rank 64', 'decode/16/distinct/64'],
];

const PREFILLS: readonly (readonly [label: string, cell: string])[] = [
  ['one prompt of 512, base', 'prefill/1x512/base/16'],
  ['one prompt of 512, one adapter', 'prefill/1x512/identical/16'],
  ['16 prompts of 32, base', 'prefill/16x32/base/16'],
  ['16 prompts of 32, 16 distinct, rank 16', 'prefill/16x32/distinct/16'],
  ['16 prompts of 32, 16 distinct, rank 64', 'prefill/16x32/distinct/64'],
];

function cellTable(results: Results, cells: readonly (readonly [string, string])[]): string[] {
  const contenders = [...results.contenders(false), ...results.contenders(true)];
  const rows = cells.map(([label, cell]) => {
    const distinct = contenders.flatMap((contender) => results.timings({ contender, cell }))[0]?.distinct;
    const rates = contenders.map((contender) => spread(results.rate({ contender, cell })));
    return [label, distinct === undefined ? NOTHING : String(distinct), ...rates];
  });
  return table(['', 'adapters', ...contenders], rows);
}

export const mixTable = (results: Results): string[] => cellTable(results, MIXES);
export const prefillTable = (results: Results): string[] => cellTable(results, PREFILLS);

const ARRIVAL_LABELS: readonly (readonly [label: string, variant: string])[] = [
  ['few adapters', 'few'],
  ['many, in memory', 'many'],
  ['many, on disk', 'many-on-disk'],
  ['many, half the load', 'half-load'],
  ['many, half the load in bursts (cv 2)', 'bursts'],
  ['many, some preferred (alpha 0.2)', 'skewed'],
];

/** First-token and inter-token times of each window of arrivals. */
export function arrivalTable(results: Results): string[] {
  const rows = ARRIVAL_LABELS.map(([label, variant]) => {
    const value = (name: string): string => {
      const found = results.serving('arrivals', variant, name);
      return found === null ? NOTHING : digits(found.value);
    };
    const times = (start: string): string => ['P50', 'P90', 'P99'].map((at) => value(`${start}${at}Ms`)).join(' / ');
    return [label, value('adapters'), value('rate'), value('requests'), times('firstToken'), times('gap')];
  });
  const head = [
    'requests',
    'adapters',
    'per second',
    'in a window',
    'first token ms, p50 / p90 / p99',
    'between tokens ms',
  ];
  return table(head, rows);
}

const SPECULATED: readonly (readonly [label: string, variant: string])[] = [
  ['one stream that copies a text', 'copied/1'],
  ['8 streams that copy it', 'copied/8'],
  ['one stream that goes on with a story', 'new/1'],
  ['8 such streams', 'new/8'],
];

const PROCESSOR_TIMES: readonly (readonly [label: string, value: string])[] = [
  ["the server's main thread", 'mainMicros'],
  ['the engine’s worker and helpers of the runtime', 'otherMicros'],
  ['the client', 'clientMicros'],
];

/** What the server's other scenarios found. */
export function serverTable(results: Results): string[] {
  const show = (scenario: string, variant: string, value: string, unit: string): string =>
    spread(results.serving(scenario, variant, value), unit);
  const processorTimes = PROCESSOR_TIMES.filter(([, value]) => results.serving('overhead', 'base', value) !== null);
  return table(
    ['', 'median (least–greatest)'],
    [
      ['16 base streams, engine alone', show('overhead', 'base', 'engine', ' tokens/s')],
      ['16 base streams, through the server', show('overhead', 'base', 'server', ' tokens/s')],
      ['16 streams with distinct adapters, engine alone', show('overhead', 'distinct', 'engine', ' tokens/s')],
      ['16 streams with distinct adapters, through the server', show('overhead', 'distinct', 'server', ' tokens/s')],
      ...processorTimes.map(([label, value]) => [
        `16 base streams, processor time of each token: ${label}`,
        show('overhead', 'base', value, ' µs'),
      ]),
      ['8 streams alone: time between tokens, p50', show('chunked', 'base', 'aloneP50Ms', ' ms')],
      ['the same, p99', show('chunked', 'base', 'aloneP99Ms', ' ms')],
      ['while a prompt of 768 arrives every three seconds, p50', show('chunked', 'base', 'duringP50Ms', ' ms')],
      ['the same, p99', show('chunked', 'base', 'duringP99Ms', ' ms')],
      ['first token of those prompts', show('chunked', 'base', 'promptFirstTokenMs', ' ms')],
      ...SPECULATED.flatMap(([label, variant]) => [
        [`${label}, without guesses`, show('speculation', variant, 'off', ' tokens/s')],
        [`${label}, with guesses (speculation by prompt lookup)`, show('speculation', variant, 'on', ' tokens/s')],
      ]),
      ['start of the process to the ready line', show('startup', 'warm', 'readyMs', ' ms')],
      ['start of the process to the first token', show('startup', 'warm', 'firstTokenMs', ' ms')],
    ],
  );
}

/** Who took part, made of what; who did not, and why; and whether all compute the same. */
export function contenderTable(results: Results, reference: string): string[] {
  const seen = new Map(results.of('contender').map((record) => [record.contender, record]));
  const rows = [...seen.values()].map(({ contender, versions, settings }) => {
    const { same, rows: compared } = results.agreement(contender, reference);
    const made = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
    const agreed = contender === reference || compared === 0 ? NOTHING : `${same} of ${compared}`;
    return [contender, made.join(', '), settings, agreed];
  });
  const lines = table(['contender', 'made of', 'settings', 'first tokens as in float32'], rows);
  const absent = results
    .of('absent')
    .map(({ contender, reason }) => `- ${contender} did not start: ${firstLine(reason)}`);
  const failed = results
    .of('failure')
    .map(({ contender, cell, reason }) => `- ${contender}, ${cell}: ${firstLine(reason)}`);
  return absent.length + failed.length === 0 ? lines : [...lines, '', ...absent, ...failed];
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}

/** Points of the chart of speed against distinct adapters in a batch of 16. */
export function distinctPoints(results: Results, contender: string): [x: number, y: number][] {
  const cells = ['base', 'identical', 'distinct:2', 'distinct:4', 'distinct:8', 'distinct'];
  return cells.flatMap((mix) => {
    const side: Side = { contender, cell: `decode/16/${mix}/16` };
    const [rate, distinct] = [results.rate(side), results.timings(side)[0]?.distinct];
    return rate === null || distinct === undefined ? [] : [[distinct, rate.value] as [number, number]];
  });
}

/** Points of the chart of speed against the batch, every row its own adapter. */
export function batchPoints(results: Results, contender: string): [x: number, y: number][] {
  return BATCHES.flatMap((batch) => {
    const rate = results.rate({ contender, cell: `decode/${batch}/${batch === 1 ? 'identical' : 'distinct'}/16` });
    return rate === null ? [] : [[batch, rate.value] as [number, number]];
  });
}
