/** What the project set out to reach, as data: each measure, its target, and what is said where it is missed. */
import { type Results, type Side, type Spread, spreadOf } from './results.js';

export interface Target {
  readonly measure: string;
  readonly bound: { readonly atLeast: number } | { readonly atMost: number };
  /** Behind the numbers. */
  readonly unit: string;
  readonly measured: (results: Results) => { readonly value: Spread; readonly note: string } | null;
  /** What keeps it from more; shown where the target is missed. */
  readonly limit: (results: Results) => string;
}

const F32 = 'loramux f32';
const F32_INT8 = 'loramux f32 + int8 adapters';
const F32_INT4 = 'loramux f32 + int4 adapters';
const BASE_1 = 'decode/1/base/16';
const BASE_16 = 'decode/16/base/16';
const IDENTICAL = 'decode/16/identical/16';
const DISTINCT = 'decode/16/distinct/16';
const DISTINCT_64 = 'decode/16/distinct/64';
const PREFILL = 'prefill/1x512/base/16';

type Measured = ReturnType<Target['measured']>;

function withNote(value: Spread | null, note = ''): Measured {
  return value === null ? null : { value, note };
}

/** Our own two cells, in the reference mode where nothing else is said. */
function within(over: string, under: string, contender = F32) {
  return (results: Results): Measured => withNote(results.ratio({ contender, cell: over }, { contender, cell: under }));
}

/** Our fastest precision at a cell, or the reference mode, over the fastest of the peers whose names begin so. */
function against(ours: 'f32' | 'fastest', peer: string, cell: string) {
  return (results: Results): Measured => {
    const own = ours === 'f32' ? F32 : results.fastest(results.contenders(false), cell);
    const peers = results.contenders(true).filter((name) => name.startsWith(peer));
    const other = results.fastest(peers, cell);
    if (own === null || other === null) return null;
    return withNote(results.ratio({ contender: own, cell }, { contender: other, cell }), `${own} / ${other}`);
  };
}

const MB = 1e6;
const GB = 1e9;

/** How a step's reading of weights compares with what memory gives. */
function reading(cell: string, base: string, contender = F32) {
  return (results: Results): string => {
    const steps = results.timings({ contender, cell });
    const [bytes, baseBytes] = [steps[0]?.stepBytes, results.timings({ contender, cell: base })[0]?.stepBytes];
    const rate = results.rate({ contender, cell });
    const bandwidth = results.runs[0]?.readBandwidth.all;
    const batch = steps[0]?.batch;
    if (!bytes || !baseBytes || rate === null || bandwidth === undefined || batch === undefined) return '';
    const perSecond = (bytes * rate.value) / batch;
    return (
      `A step reads ${Math.round((bytes - baseBytes) / MB)} MB of adapters beside ${Math.round(baseBytes / MB)} MB of ` +
      `base weights: were it memory alone, ${(baseBytes / bytes).toFixed(2)} of base speed would be left. It read ` +
      `${(perSecond / GB).toFixed(1)} GB/s; comparing memory with all threads reads ${(bandwidth / GB).toFixed(1)} GB/s.`
    );
  };
}

/** The kernels by themselves (`native/benches/kernels`), factors of each segment elsewhere in memory as in a step. */
const KERNELS =
  'By itself one thread takes float16 and int8 factors at 29 to 32 GB/s where each segment’s lie elsewhere (37 to 40 where ' +
  'all lie in a row), and int4, multiplied as bytes, in 0.63 to 0.81 of the time that widening them took.';

/** The two together. */
function readingAlone(cell: string, base: string, contender = F32) {
  const read = reading(cell, base, contender);
  return (results: Results): string => `${read(results)} ${KERNELS}`.trimStart();
}

const none = (): string => '';

export const TARGETS: readonly Target[] = [
  {
    measure: 'LoRA compiled in, all rows base, against the graph without our operators; batch 16',
    bound: { atLeast: 0.99 },
    unit: '×',
    measured: within('operators/16/with', 'operators/16/without'),
    limit: () =>
      'A step without adapter rows calls one operator that finds none, and every matmul looks whether there are segments.',
  },
  {
    measure: 'LoRA compiled in, all rows base, against that graph; batch 1',
    bound: { atLeast: 0.99 },
    unit: '×',
    measured: within('operators/1/with', 'operators/1/without'),
    limit: () => 'The same calls over steps that are shorter.',
  },
  {
    measure: 'one rank-8 adapter, batch 1, against base',
    bound: { atLeast: 0.92 },
    unit: '×',
    measured: within('decode/1/identical/8', BASE_1),
    limit: reading('decode/1/identical/8', BASE_1),
  },
  {
    measure: '16 distinct rank-16 adapters, batch 16, against base; float32',
    bound: { atLeast: 0.9 },
    unit: '×',
    measured: within(DISTINCT, BASE_16),
    limit: readingAlone(DISTINCT, BASE_16),
  },
  {
    measure: 'the same with the adapters kept as int8 (`--adapter-dtype int8`)',
    bound: { atLeast: 0.9 },
    unit: '×',
    measured: within(DISTINCT, BASE_16, F32_INT8),
    limit: readingAlone(DISTINCT, BASE_16, F32_INT8),
  },
  {
    measure: 'the same with the adapters kept as int4 (`--adapter-dtype int4`)',
    bound: { atLeast: 0.9 },
    unit: '×',
    measured: within(DISTINCT, BASE_16, F32_INT4),
    limit: readingAlone(DISTINCT, BASE_16, F32_INT4),
  },
  {
    measure: '16 distinct rank-16 adapters, batch 16, against base; fastest mode',
    bound: { atLeast: 0.8 },
    unit: '×',
    measured: (results) => {
      const contender = results.fastest(results.contenders(false), DISTINCT);
      if (contender === null) return null;
      return withNote(results.ratio({ contender, cell: DISTINCT }, { contender, cell: BASE_16 }), contender);
    },
    limit: (results) => {
      const contender = results.fastest(results.contenders(false), DISTINCT);
      const cost = 'The adapters cost what they cost in float32, beside a base that is read faster.';
      return contender === null ? cost : `${cost} ${reading(DISTINCT, BASE_16, contender)(results)}`;
    },
  },
  {
    measure: '16 distinct rank-64 adapters, batch 16, against base; float32',
    bound: { atLeast: 0.7 },
    unit: '×',
    measured: within(DISTINCT_64, BASE_16),
    limit: reading(DISTINCT_64, BASE_16),
  },
  {
    measure: 'the same with the adapters kept as int8',
    bound: { atLeast: 0.7 },
    unit: '×',
    measured: within(DISTINCT_64, BASE_16, F32_INT8),
    limit: reading(DISTINCT_64, BASE_16, F32_INT8),
  },
  {
    measure: 'the same with the adapters kept as int4',
    bound: { atLeast: 0.7 },
    unit: '×',
    measured: within(DISTINCT_64, BASE_16, F32_INT4),
    limit: reading(DISTINCT_64, BASE_16, F32_INT4),
  },
  {
    measure: '16 distinct against 16 identical, rank 16; float32',
    bound: { atLeast: 0.92 },
    unit: '×',
    measured: within(DISTINCT, IDENTICAL),
    limit: reading(DISTINCT, IDENTICAL),
  },
  {
    measure: 'the same with the adapters kept as int4',
    bound: { atLeast: 0.92 },
    unit: '×',
    measured: within(DISTINCT, IDENTICAL, F32_INT4),
    limit: reading(DISTINCT, IDENTICAL, F32_INT4),
  },
  {
    measure: 'against PEFT, 16 distinct in one batch; float32 on both sides',
    bound: { atLeast: 12 },
    unit: '×',
    measured: against('f32', 'PEFT float32', DISTINCT),
    limit: reading(DISTINCT, BASE_16),
  },
  {
    measure: 'the same with our adapters kept as int8',
    bound: { atLeast: 12 },
    unit: '×',
    measured: (results) => {
      const side = (contender: string): Side => ({ contender, cell: DISTINCT });
      return withNote(results.ratio(side(F32_INT8), side('PEFT float32')));
    },
    limit: none,
  },
  {
    measure: 'against PEFT, 16 distinct in one batch; both in their fastest mode',
    bound: { atLeast: 20 },
    unit: '×',
    measured: against('fastest', 'PEFT', DISTINCT),
    limit: none,
  },
  {
    measure: 'against llama.cpp, 16 requests with 16 distinct adapters',
    bound: { atLeast: 6 },
    unit: '×',
    measured: against('fastest', 'llama.cpp', DISTINCT),
    limit: none,
  },
  {
    measure: 'base-only decode, batch 1, against llama.cpp on the same file',
    bound: { atLeast: 1.2 },
    unit: '×',
    measured: against('fastest', 'llama.cpp', BASE_1),
    limit: (results) => {
      const bandwidth = results.runs[0]?.readBandwidth.all;
      const contender = results.fastest(results.contenders(false), BASE_1);
      if (contender === null || bandwidth === undefined) return '';
      const bytes = results.timings({ contender, cell: BASE_1 })[0]?.stepBytes;
      if (!bytes) return '';
      return (
        `One row reads all weights: ${Math.round(bytes / MB)} MB in ${contender}, which is at most ` +
        `${Math.round(bandwidth / bytes)} tokens/s at the rate at which all threads compare memory.`
      );
    },
  },
  {
    measure: 'base-only prefill of 512 tokens against the best peer; float32',
    bound: { atLeast: 1 },
    unit: '×',
    measured: against('f32', '', PREFILL),
    limit: () =>
      'float32 products of 512 rows are bounded by arithmetic; the best peer may compute in a narrower type.',
  },
  {
    measure: 'base-only prefill of 512 tokens against the best peer; fastest mode',
    bound: { atLeast: 1.5 },
    unit: '×',
    measured: against('fastest', '', PREFILL),
    limit: () => 'Many rows at once are bounded by arithmetic, not by memory: narrower weights alone do not help them.',
  },
  {
    measure: '5 → 2,000 registered adapters, all in memory, same arrivals at 80 % of saturation: median first token',
    bound: { atMost: 1.15 },
    unit: '×',
    measured: (results) => arrivals(results, 'many'),
    limit: () =>
      'Rows of many adapters seldom share one, so steps read more factors and take longer (see distinct against identical), ' +
      'and near saturation a queue multiplies that.',
  },
  {
    measure: '5 → 2,000 registered adapters, each read from disk at its first request: median first token',
    bound: { atMost: 1.15 },
    unit: '×',
    measured: (results) => arrivals(results, 'many-on-disk'),
    limit: () =>
      'Nearly every request is the first of its adapter and waits for its load: read, hash, check, convert, prove.',
  },
  {
    measure: 'through HTTP, scheduler and worker against the engine alone, 16 base streams: speed',
    bound: { atLeast: 0.95 },
    unit: '×',
    measured: (results) => overhead(results, 'base'),
    limit: overheadLimit,
  },
  {
    measure: 'through HTTP, scheduler and worker against the engine alone, 16 streams of distinct adapters: speed',
    bound: { atLeast: 0.95 },
    unit: '×',
    measured: (results) => overhead(results, 'distinct'),
    limit: overheadLimit,
  },
  {
    measure: 'start of the process to the first token, model converted before',
    bound: { atMost: 2 },
    unit: ' s',
    measured: (results) => {
      const found = results.serving('startup', 'warm', 'firstTokenMs');
      if (found === null) return null;
      const { value, low, high, count } = found;
      return withNote({ value: value / 1_000, low: low / 1_000, high: high / 1_000, count });
    },
    limit: (results) => {
      const ready = results.serving('startup', 'warm', 'readyMs')?.value ?? Number.NaN;
      return `The server is ready after ${(ready / 1_000).toFixed(2)} s: checksums, the session, one step to warm up.`;
    },
  },
  {
    measure: 'p99 of the time between tokens while prompts of 768 are read, in decode steps of the same streams alone',
    bound: { atMost: 2 },
    unit: '×',
    measured: (results) => {
      const windows = results.windows('chunked', 'base').map(({ values }) => {
        return (values.duringP99Ms ?? Number.NaN) / (values.aloneP50Ms ?? Number.NaN);
      });
      return withNote(spreadOf(windows));
    },
    limit: () =>
      'A step computes up to 16 rows of a long prompt beside the running ones (a quarter of `--max-prefill-rows`).',
  },
];

function arrivals(results: Results, variant: string): Measured {
  const adapters = results.serving('arrivals', variant, 'adapters')?.value;
  const ratio = results.servingRatio('arrivals', variant, 'few', 'firstTokenP50Ms');
  return withNote(ratio, adapters === 2_000 ? '' : `${adapters} adapters`);
}

function overhead(results: Results, variant: string): Measured {
  const ratios = results.windows('overhead', variant).map(({ values }) => {
    return (values.server ?? Number.NaN) / (values.engine ?? Number.NaN);
  });
  return withNote(spreadOf(ratios));
}

function overheadLimit(): string {
  return (
    'Server and client share the cores with the engine: text, HTTP and the client itself take processor time from the ' +
    'threads that compute.'
  );
}

/** Whether a measured value reaches its target. */
export function reached({ bound }: Target, value: number): boolean {
  return 'atLeast' in bound ? value >= bound.atLeast : value <= bound.atMost;
}
