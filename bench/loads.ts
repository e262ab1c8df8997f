/**
 * What adapter loads cost the requests that do not wait for them: 16 base requests decode while cold adapters are loaded
 * at a steady rate, against the same requests without loads, phases interleaved in one run.
 *
 *   npm run bench:loads [-- --seconds 6 --rounds 3 --threads 2]
 *
 * A gap is the time between two tokens of one request. Every load is cold: read, hashed, checked, converted, and
 * unloaded again; only the page cache keeps its file.
 */
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { BASE_NAME } from '../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../src/core/request.js';
import { loadBinding, packageRoot } from '../src/engine/binding.js';
import { WorkerEngineClient } from '../src/engine/worker-client.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { writeRandomAdapter } from './random-adapter.js';

const REQUESTS = 16;
const POOL = 16;
/** Tokens of one request: long enough that none ends within a phase's first seconds. */
const TOKENS = 400;

interface Phase {
  readonly label: string;
  readonly rank: number;
  readonly perSecond: number;
  readonly gapsMs: number[];
  loads: number;
  bytes: number;
  seconds: number;
}

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '6' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(cpus().length) },
  },
});
const seconds = Number(options.seconds);
const rounds = Number(options.rounds);

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
    kvMemoryBytes: 2 ** 29,
    maxModelLen: null,
    maxBatchTokens: 512,
    maxSequences: 64,
    maxQueue: 64,
    prefixCache: false,
  },
  log: (_level, event, text) => console.error(event, text),
});

let nextId = 1;
/** Keeps one request decoding until `stopped`, a new one after each that ends; reports each gap. */
async function decode(stopped: () => boolean, onGap: (ms: number) => void): Promise<void> {
  while (!stopped()) {
    const promptIds = Uint32Array.from({ length: 16 }, (_, i) => 200 + ((nextId * 31 + i * 7) % 4000));
    const sampling = GREEDY_SAMPLING;
    const request: GenerateRequest = {
      id: nextId++,
      adapter: BASE_NAME,
      promptIds,
      maxNewTokens: TOKENS,
      stopIds: [],
      sampling,
      ...PLAIN_REQUEST,
    };
    await new Promise<void>((resolve) => {
      let last: number | null = null;
      const submission = engine.submit(request, (event) => {
        if (event.kind === 'token') {
          const now = performance.now();
          if (last !== null) onGap(now - last);
          last = now;
          if (!stopped()) return;
          submission.abort();
          resolve();
        } else if (event.kind === 'finish' || event.kind === 'error') {
          resolve();
        }
      });
    });
  }
}

async function load(phase: Phase, n: number): Promise<void> {
  const name = `rank${phase.rank}-${n % POOL}`;
  const reply = await engine.admin<'load'>({
    op: 'load',
    name,
    source: { type: 'dir', location: join(root, name) },
    pin: false,
    wait: true,
    replace: true,
  });
  phase.loads += 1;
  phase.bytes += reply.adapter.bytes;
  await engine.admin<'unload'>({ op: 'unload', name, force: true });
}

async function run(phase: Phase): Promise<void> {
  let stopped = false;
  let measuring = false;
  const requests = Array.from({ length: REQUESTS }, () =>
    decode(
      () => stopped,
      (ms) => {
        if (measuring) phase.gapsMs.push(ms);
      },
    ),
  );
  // Prefill and ramp-up are not what is measured.
  await sleep(1_000);
  measuring = true;
  const startedMs = performance.now();
  const loads: Promise<void>[] = [];
  for (let n = 0; n < phase.perSecond * seconds; n += 1) {
    const dueMs = startedMs + (n * 1_000) / phase.perSecond;
    await sleep(Math.max(0, dueMs - performance.now()));
    // A name that is still loading is left for its next turn.
    loads.push(load(phase, n).catch((error: unknown) => console.error(String(error))));
  }
  await sleep(Math.max(0, startedMs + seconds * 1_000 - performance.now()));
  phase.seconds += (performance.now() - startedMs) / 1_000;
  measuring = false;
  stopped = true;
  await Promise.all([...requests, ...loads]);
}

const phases: Phase[] = [
  ['none', 16, 0],
  ['rank 16, 1/s', 16, 1],
  ['rank 16, 5/s', 16, 5],
  ['rank 16, 20/s', 16, 20],
  ['rank 64, 1/s', 64, 1],
  ['rank 64, 5/s', 64, 5],
].map(([label, rank, perSecond]) => ({
  label: label as string,
  rank: rank as number,
  perSecond: perSecond as number,
  gapsMs: [],
  loads: 0,
  bytes: 0,
  seconds: 0,
}));
for (let round = 0; round < rounds; round += 1) {
  console.error(`round ${round + 1} of ${rounds}`);
  for (const phase of phases) await run(phase);
}
await engine.close();

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}
const baseline = phases[0] as Phase;
const baseP99 = quantile(baseline.gapsMs, 0.99);
console.log('| loads | done/s | MB/s | p50 ms | p99 ms | max ms | p99 × none | longest gap in median steps |');
console.log('|---|---|---|---|---|---|---|---|');
for (const { label, gapsMs, loads, bytes, seconds: spent } of phases) {
  const [p50, p99, max] = [quantile(gapsMs, 0.5), quantile(gapsMs, 0.99), quantile(gapsMs, 1)];
  const cells = [loads / spent, bytes / 1e6 / spent, p50, p99, max].map((value) => value.toFixed(1));
  console.log(`| ${label} | ${cells.join(' | ')} | ${(p99 / baseP99).toFixed(2)} | ${(max / p50).toFixed(1)} |`);
}
