/**
 * What adapter loads cost the requests that do not wait for them: 16 base requests decode while cold adapters are loaded
 * at a steady rate, right after a window of the same requests without loads; rates interleaved in one run.
 *
 *   npm run bench:loads [-- --seconds 4 --rounds 3 --threads 2]
 *
 * A gap is the time between two tokens of one request, a step the median gap without loads. Every load is cold: read,
 * hashed, checked, converted, proven, and unloaded again; only the page cache keeps its file. `cores` are those that
 * the whole process kept busy.
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
const TOKENS = 800;
/** Between two windows: what one caused must not reach the other. */
const SETTLE_MS = 200;

/** Gaps between tokens, and what was loaded meanwhile. */
interface Window {
  readonly gapsMs: number[];
  loads: number;
  bytes: number;
  seconds: number;
  /** Processor time of the whole process. */
  cpuSeconds: number;
}

interface Phase {
  readonly label: string;
  readonly rank: number;
  readonly perSecond: number;
  readonly without: Window;
  readonly during: Window;
}

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '4' },
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
    maxPrefillRows: 512,
    maxSequences: 64,
    maxQueue: 64,
    prefixCache: false,
    speculation: false,
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

let loadNumber = 0;
/** One cold load, under a name of its own: an earlier one may still be leaving. */
async function load({ rank }: Phase, onLoaded: (bytes: number) => void): Promise<void> {
  const number = loadNumber++;
  const name = `load-${number}`;
  const location = join(root, `rank${rank}-${number % POOL}`);
  const source = { type: 'dir', location } as const;
  const reply = await engine.admin<'load'>({ op: 'load', name, source, pin: false, wait: true, replace: true });
  onLoaded(reply.adapter.bytes);
  await engine.admin<'unload'>({ op: 'unload', name, force: true });
}

let measured: Window | null = null;

/** Measures for a while, with loads at the rate of `phase` or without; ends once all its loads have. */
async function measure(window: Window, phase: Phase, perSecond: number): Promise<void> {
  const [startedMs, cpu] = [performance.now(), process.cpuUsage()];
  measured = window;
  const loads: Promise<void>[] = [];
  const onLoaded = (bytes: number): void => {
    if (measured !== window) return;
    window.loads += 1;
    window.bytes += bytes;
  };
  for (let n = 0; n < perSecond * seconds; n += 1) {
    await sleep(Math.max(0, startedMs + (n * 1_000) / perSecond - performance.now()));
    loads.push(load(phase, onLoaded));
  }
  await sleep(Math.max(0, startedMs + seconds * 1_000 - performance.now()));
  measured = null;
  const { user, system } = process.cpuUsage(cpu);
  window.cpuSeconds += (user + system) / 1e6;
  window.seconds += (performance.now() - startedMs) / 1_000;
  await Promise.all(loads);
  await sleep(SETTLE_MS);
}

/** Both windows of a phase in turn, beside the same requests. */
async function run(phase: Phase): Promise<void> {
  let stopped = false;
  const onGap = (ms: number): void => void measured?.gapsMs.push(ms);
  const requests = Array.from({ length: REQUESTS }, () => decode(() => stopped, onGap));
  // Prefill and ramp-up are not what is measured.
  await sleep(1_000);
  await measure(phase.without, phase, 0);
  await measure(phase.during, phase, phase.perSecond);
  stopped = true;
  await Promise.all(requests);
}

const empty = (): Window => ({ gapsMs: [], loads: 0, bytes: 0, seconds: 0, cpuSeconds: 0 });
const asked: readonly (readonly [rank: number, perSecond: number])[] = [
  [16, 1],
  [16, 5],
  [16, 20],
  [64, 1],
  [64, 5],
];
const phases: Phase[] = asked.map(([rank, perSecond]) => {
  return { label: `rank ${rank}, ${perSecond}/s`, rank, perSecond, without: empty(), during: empty() };
});
for (let round = 0; round < rounds; round += 1) {
  console.error(`round ${round + 1} of ${rounds}`);
  for (const phase of phases) await run(phase);
}
await engine.close();

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}
const columns = ['loads', 'done/s', 'MB/s', 'cores', 'p50 ms', 'p99 ms', 'max ms', 'p50 ×', 'p99 ×', 'max in steps'];
console.log(`| ${columns.join(' | ')} |`);
console.log(`|${columns.map(() => '---').join('|')}|`);
for (const { label, without, during } of phases) {
  const [baseP50, baseP99] = [quantile(without.gapsMs, 0.5), quantile(without.gapsMs, 0.99)];
  for (const [name, window] of [
    ['none', without],
    [label, during],
  ] as const) {
    const [p50, p99, max] = [0.5, 0.99, 1].map((q) => quantile(window.gapsMs, q)) as [number, number, number];
    const rates = [window.loads / window.seconds, window.bytes / 1e6 / window.seconds];
    const cells = [...rates, window.cpuSeconds / window.seconds, p50, p99, max].map((value) => value.toFixed(1));
    const ratios = [p50 / baseP50, p99 / baseP99].map((value) => value.toFixed(2));
    console.log(`| ${[name, ...cells, ...ratios, (max / baseP50).toFixed(1)].join(' | ')} |`);
  }
}
