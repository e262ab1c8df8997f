/**
 * The benchmark: throughput beside peers, and the server under load. Writes one JSON object a line.
 *
 *   npm run bench [-- --quick] [-- --only GROUPS] [-- --skip GROUPS] [-- --contenders NAMES] [-- --no-peers]
 *                 [-- --rounds 3] [-- --threads 2] [-- --out FILE] [-- --page]
 *
 * GROUPS are names of bench/scenarios/, NAMES beginnings of names of bench/contenders/contenders.ts; both are separated by
 * commas. `--page` renders docs/benchmarks.md from the results. What is measured how stands in docs/benchmarks.md.
 */
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import type { PreparedModel } from '../src/core/model-manifest.js';
import { loadBinding, packageRoot } from '../src/engine/addon.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { ContenderProcess } from './contenders/contender-process.js';
import { type BenchSetup, CONTENDERS, type Contender } from './contenders/contenders.js';
import { describeRun } from './machine.js';
import { findGguf, writeAdapters } from './prepare.js';
import type { BenchRecord } from './report/records.js';
import { writePage } from './report/write-page.js';
import { runThroughput, type Started } from './run-throughput.js';
import { QUICK_SERVING, SERVING_SCENARIOS, type ServingScenario } from './scenarios/serving.js';
import { CELLS, GROUPS } from './scenarios/throughput.js';
import { measureArrivals } from './serving/arrivals.js';
import { measureChunked } from './serving/chunked.js';
import { measureOverhead } from './serving/overhead.js';
import type { ServingRun } from './serving/serving-run.js';
import { measureSpeculation } from './serving/speculation.js';
import { measureStartup } from './serving/startup.js';

const SERVING: Readonly<Record<ServingScenario, (run: ServingRun) => Promise<void>>> = {
  startup: measureStartup,
  overhead: measureOverhead,
  chunked: measureChunked,
  speculation: measureSpeculation,
  arrivals: measureArrivals,
};

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    skip: { type: 'string', default: '' },
    contenders: { type: 'string', default: '' },
    'no-peers': { type: 'boolean', default: false },
    rounds: { type: 'string' },
    threads: { type: 'string', default: String(cpus().length) },
    out: { type: 'string' },
    page: { type: 'boolean', default: false },
    python: { type: 'string', default: 'python3' },
    'genai-python': { type: 'string', default: 'python3' },
  },
});
const listed = (text: string): string[] => text.split(',').filter((name) => name !== '');
const [only, skip, names] = [listed(options.only), listed(options.skip), listed(options.contenders)];
const threads = Number(options.threads);
const rounds = Number(options.rounds ?? (options.quick ? 1 : 3));

const cacheDir = join(packageRoot(), '.cache');
const adapterRoot = join(cacheDir, 'bench-adapters');
const out = options.out ?? join(packageRoot(), 'bench', 'results', `bench-${Date.now()}.jsonl`);
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, '');
const record = (line: BenchRecord): void => appendFileSync(out, `${JSON.stringify(line)}\n`);
const progress = (text: string): void => console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);

function chosen(name: string, quick: boolean): boolean {
  return only.length > 0 ? only.includes(name) : !skip.includes(name) && (quick || !options.quick);
}

async function openModel(): Promise<PreparedModel> {
  const binding = loadBinding();
  return prepareModel({
    model: 'demo',
    precision: 'f32',
    cacheDir,
    checksumFile: (path) => binding.crc32File(path),
    onProgress: () => undefined,
    memoryBytes: totalmem(),
  });
}

/** Starts the contenders one after another; one that cannot start is recorded as absent. */
async function startContenders(contenders: readonly Contender[], setup: BenchSetup): Promise<Started[]> {
  const started: Started[] = [];
  for (const contender of contenders) {
    progress(`starting ${contender.name}`);
    try {
      const process = await ContenderProcess.start(contender.command(setup));
      started.push({ contender, process });
      record({ kind: 'contender', contender: contender.name, peer: contender.kind === 'peer', ...process.greeting });
    } catch (error) {
      progress(`${contender.name} is absent: ${(error as Error).message}`);
      record({ kind: 'absent', contender: contender.name, reason: (error as Error).message });
    }
  }
  return started;
}

async function runPeers(model: PreparedModel): Promise<void> {
  const groups = GROUPS.filter(({ name, quick }) => chosen(name, quick));
  if (groups.length === 0) return;
  const contenders = CONTENDERS.filter(
    ({ name, kind }) =>
      (names.length === 0 || names.some((start) => name.startsWith(start))) &&
      !(kind === 'peer' && options['no-peers']),
  );
  progress('writing adapters');
  const cells = groups.flatMap((group) => group.cells);
  writeAdapters(
    adapterRoot,
    cells,
    model,
    contenders.some(({ needs }) => needs === 'gguf-adapters'),
  );
  const setup = {
    cacheDir,
    adapterRoot,
    gguf: findGguf(cacheDir),
    threads,
    python: options.python,
    genaiPython: options['genai-python'],
  };
  const started = await startContenders(contenders, setup);
  await runThroughput(groups, started, { rounds, stepScale: options.quick ? 0.5 : 1, record, progress });
  for (const { process } of started) await process.close();
}

async function runServing(model: PreparedModel): Promise<void> {
  const scenarios = SERVING_SCENARIOS.filter((name) => chosen(name, QUICK_SERVING.includes(name)));
  if (scenarios.length === 0) return;
  writeAdapters(
    adapterRoot,
    CELLS.filter(({ id }) => id === 'decode/16/distinct/16'),
    model,
    false,
  );
  const run = { model, cacheDir, adapterRoot, threads, rounds, quick: options.quick, record, progress };
  for (const name of scenarios) {
    progress(name);
    try {
      await SERVING[name](run);
    } catch (error) {
      // What the others measured is worth keeping.
      progress(`${name} failed: ${(error as Error).stack}`);
      record({ kind: 'failure', contender: 'loramux server', cell: name, reason: (error as Error).message });
      process.exitCode = 1;
    }
  }
}

record(await describeRun(threads));
const model = await openModel();
await runPeers(model);
await runServing(model);
if (options.page) writePage([out]);
console.log(`written to ${out}`);
