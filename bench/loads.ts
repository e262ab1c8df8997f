/**
 * What adapter loads cost the requests that do not wait for them: 16 base requests decode while cold adapters are loaded
 * at a steady rate, and the same requests without loads, in turn; rates interleaved in one run.
 *
 *   npm run bench:loads [-- --tokens 80 --rounds 4 --threads 2]
 *
 * A gap is the time between two tokens of one request. Windows with and without loads cover the same positions of the
 * same prompts, and which of a pair comes first alternates. Ratios are to the pair's window without loads: of p50 the
 * median over the rounds, of p99 over the gaps of all rounds, each in medians of its pair; the longest gap is in those
 * too. Every load is cold: read, hashed, checked, converted, proven, and unloaded again; only the page cache keeps its
 * file. `cores` are those that the whole process kept busy. First come loads that nobody decodes beside.
 */
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { loadBinding, packageRoot } from '../src/engine/addon.js';
import { WorkerEngineClient } from '../src/engine/worker-client.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { ColdLoads, type Loaded, POOL } from './loads/cold-loads.js';
import { measureWindow, type Window } from './loads/window.js';
import { writeRandomAdapter } from './random-adapter.js';

const ASKED: readonly (readonly [rank: number, perSecond: number])[] = [
  [16, 1],
  [16, 5],
  [16, 20],
  [64, 1],
  [64, 5],
];
const IDLE_LOADS = 8;
/** Between two windows: what one caused must not reach the other. */
const SETTLE_MS = 100;

const { values: options } = parseArgs({
  options: {
    tokens: { type: 'string', default: '80' },
    rounds: { type: 'string', default: '4' },
    threads: { type: 'string', default: String(cpus().length) },
  },
});
const [tokens, rounds] = [Number(options.tokens), Number(options.rounds)];

const binding = loadBinding();
const cacheDir = join(packageRoot(), '.cache');
const model = await prepareModel({
  model: 'demo',
  precision: 'f32',
  cacheDir,
  checksumFile: (path) => binding.crc32File(path),
  onProgress: () => undefined,
  memoryBytes: totalmem(),
});
const root = join(cacheDir, 'bench-adapters');
for (const rank of [16, 64]) {
  for (let i = 0; i < POOL; i += 1) {
    writeRandomAdapter(root, { name: `rank${rank}-${i}`, rank, seed: i + 1 }, model.manifest.sites);
  }
}
const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));
const engine = await WorkerEngineClient.start({
  start: {
    model,
    tokenCount: tokenizer.vocabSize(),
    adapterRoots: [root],
    threads: Number(options.threads),
    adapterMemoryBytes: 2 ** 30,
    kvMemoryBytes: 2 ** 28,
    maxModelLen: null,
    maxBatchTokens: 512,
    maxPrefillRows: 512,
    maxSequences: 64,
    maxQueue: 64,
    prefixCache: false,
    speculation: false,
    launchAhead: false,
  },
  log: (_level, event, text) => console.error(event, text),
});
const cold = new ColdLoads(engine, root);

interface Pair {
  readonly without: Window;
  readonly during: Window;
  readonly loaded: Loaded;
}

const nothing = (): Loaded => ({ count: 0, bytes: 0, latenciesMs: [] });

/** One window, with loads or without. */
async function run(rank: number, perSecond: number, loaded: Loaded | null): Promise<Window> {
  let ended = false;
  let loads: Promise<void> | null = null;
  const open = (): void => {
    if (loaded !== null) loads = cold.steadily(rank, perSecond, () => ended, loaded);
  };
  const window = await measureWindow(engine, tokens, open, () => {
    ended = true;
  });
  await loads;
  await sleep(SETTLE_MS);
  return window;
}

const idle = new Map<number, Loaded>();
for (const rank of [16, 64]) {
  const loaded = nothing();
  for (let n = 0; n < IDLE_LOADS; n += 1) {
    await cold.one(rank, (bytes, latencyMs) => {
      loaded.count += 1;
      loaded.bytes += bytes;
      loaded.latenciesMs.push(latencyMs);
    });
  }
  idle.set(rank, loaded);
}
const pairs = ASKED.map((): Pair[] => []);
for (let round = 0; round < rounds; round += 1) {
  console.error(`round ${round + 1} of ${rounds}`);
  for (const [at, [rank, perSecond]] of ASKED.entries()) {
    const loaded = nothing();
    const early = round % 2 === 0 ? await run(rank, perSecond, null) : null;
    const during = await run(rank, perSecond, loaded);
    pairs[at]?.push({ without: early ?? (await run(rank, perSecond, null)), during, loaded });
  }
}
await engine.close();

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

const median = (values: readonly number[]): number => quantile(values, 0.5);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** One line of the table: windows of one kind, gaps also in medians of the window beside each. */
function row(label: string, windows: readonly Window[], beside: readonly Window[], loaded: readonly Loaded[]): string {
  const inSteps = windows.flatMap(({ gapsMs }, round) => {
    const step = median(beside[round]?.gapsMs ?? []);
    return gapsMs.map((gap) => gap / step);
  });
  const besideInSteps = beside.flatMap(({ gapsMs }) => gapsMs.map((gap) => gap / median(gapsMs)));
  const halves = windows.map(({ gapsMs }, round) => median(gapsMs) / median(beside[round]?.gapsMs ?? []));
  const seconds = sum(windows.map((window) => window.seconds));
  const gaps = windows.flatMap(({ gapsMs }) => gapsMs);
  const cells = [
    label,
    (sum(loaded.map(({ count }) => count)) / seconds).toFixed(1),
    (sum(loaded.map(({ bytes }) => bytes)) / 1e6 / seconds).toFixed(1),
    (sum(windows.map(({ cpuSeconds }) => cpuSeconds)) / seconds).toFixed(2),
    ...[0.5, 0.99, 1].map((q) => quantile(gaps, q).toFixed(1)),
    median(halves).toFixed(2),
    (quantile(inSteps, 0.99) / quantile(besideInSteps, 0.99)).toFixed(2),
    quantile(inSteps, 1).toFixed(1),
    loaded.length === 0 ? '–' : median(loaded.flatMap(({ latenciesMs }) => latenciesMs)).toFixed(0),
  ];
  return `| ${cells.join(' | ')} |`;
}

for (const [rank, { bytes, latenciesMs }] of idle) {
  const ms = median(latenciesMs);
  console.log(
    `rank ${rank}, nothing else running: ${ms.toFixed(0)} ms a load, ${(bytes / sum(latenciesMs) / 1e3).toFixed(0)} MB/s`,
  );
}
const columns = [
  'loads',
  'done/s',
  'MB/s',
  'cores',
  'p50 ms',
  'p99 ms',
  'max ms',
  'p50 ×',
  'p99 ×',
  'max in steps',
  'load ms',
];
console.log(`\n| ${columns.join(' | ')} |`);
console.log(`|${columns.map(() => '---').join('|')}|`);
for (const [at, [rank, perSecond]] of ASKED.entries()) {
  const of = pairs[at] ?? [];
  const without = of.map((pair) => pair.without);
  console.log(row('none', without, without, []));
  const during = of.map((pair) => pair.during);
  console.log(
    row(
      `rank ${rank}, ${perSecond}/s`,
      during,
      without,
      of.map(({ loaded }) => loaded),
    ),
  );
}
