/**
 * Many more adapters than fit: the same requests, whose adapters follow Zipf's law, against room for some of the
 * adapters and room for all of them, in turn.
 *
 *   npm run bench:zipf [-- --adapters 1000 --resident 64 --requests 200 --rounds 2 --threads 2]
 *
 * The adapters are rank 2 on the demo model's q_proj and v_proj, weights from a seed. 16 requests of 16 + 16 tokens are
 * in flight at a time. A wait is the time from submission to the first step; it is split by whether the adapter was
 * resident when the request came. With room for all, each adapter is loaded once before anything is timed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../src/core/request.js';
import { loadBinding, packageRoot } from '../src/engine/binding.js';
import { WorkerEngineClient } from '../src/engine/worker-client.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { writeRandomAdapter } from './random-adapter.js';

const IN_FLIGHT = 16;
const TOKENS = 16;
const EXPONENTS = [1, 1.5] as const;

const { values: options } = parseArgs({
  options: {
    adapters: { type: 'string', default: '1000' },
    resident: { type: 'string', default: '64' },
    requests: { type: 'string', default: '200' },
    rounds: { type: 'string', default: '2' },
    threads: { type: 'string', default: String(cpus().length) },
  },
});
const [adapters, resident, requests, rounds, threads] = [
  options.adapters,
  options.resident,
  options.requests,
  options.rounds,
  options.threads,
].map(Number) as [number, number, number, number, number];

const binding = loadBinding();
const model = await prepareModel({
  model: 'demo',
  precision: 'f32',
  cacheDir: join(packageRoot(), '.cache'),
  checksumFile: (path) => binding.crc32File(path),
  onProgress: () => undefined,
  memoryBytes: totalmem(),
});
const root = mkdtempSync(join(tmpdir(), 'loramux-zipf-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));
const nameOf = (adapter: number): string => `a${adapter}`;
for (let i = 0; i < adapters; i += 1) {
  const adapter = { name: nameOf(i), rank: 2, seed: i + 1, targets: ['q_proj', 'v_proj'] };
  writeRandomAdapter(root, adapter, model.manifest.sites);
}
const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));

function start(adapterMemoryBytes: number): Promise<WorkerEngineClient> {
  return WorkerEngineClient.start({
    start: {
      model,
      tokenCount: tokenizer.vocabSize(),
      adapterRoots: [root],
      threads,
      adapterMemoryBytes,
      kvMemoryBytes: 2 ** 27,
      prefixCache: false,
      speculation: false,
      maxPrefillRows: 512,
      maxModelLen: null,
      maxBatchTokens: 512,
      maxSequences: 64,
      maxQueue: 64,
    },
    log: (_level, event, text) => console.error(event, text),
  });
}

let nextId = 1;
interface Answer {
  readonly hit: boolean;
  readonly waitMs: number;
}

function ask(engine: WorkerEngineClient, adapter: string): Promise<Answer> {
  const id = nextId++;
  const request: GenerateRequest = {
    id,
    adapter,
    promptIds: Uint32Array.from({ length: TOKENS }, (_, i) => 200 + ((id * 31 + i * 7) % 4000)),
    maxNewTokens: TOKENS,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
    ...PLAIN_REQUEST,
  };
  const submittedMs = performance.timeOrigin + performance.now();
  return new Promise((resolve, reject) => {
    let answer: Answer | null = null;
    engine.submit(request, (event) => {
      if (event.kind === 'admitted')
        answer = { hit: event.servedBy.tierAtArrival === 'host', waitMs: event.atMs - submittedMs };
      else if (event.kind === 'error') reject(new Error(`${adapter}: ${event.error.message}`));
      else if (event.kind === 'finish' && answer !== null) resolve(answer);
    });
  });
}

/** Adapters of one round's requests by Zipf's law, the same for both engines. */
function draw(exponent: number, seed: number): number[] {
  const weights = Array.from({ length: adapters }, (_, rank) => (rank + 1) ** -exponent);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let state = seed;
  return Array.from({ length: requests }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    let left = (state / 2 ** 32) * total;
    const at = weights.findIndex((weight) => {
      left -= weight;
      return left < 0;
    });
    return Math.max(0, at);
  });
}

interface Run {
  seconds: number;
  readonly answers: Answer[];
}

async function serve(engine: WorkerEngineClient, order: readonly number[], run: Run): Promise<void> {
  const startedMs = performance.now();
  let next = 0;
  const lanes = Array.from({ length: IN_FLIGHT }, async () => {
    for (let at = next++; at < order.length; at = next++)
      run.answers.push(await ask(engine, nameOf(order[at] as number)));
  });
  await Promise.all(lanes);
  run.seconds += (performance.now() - startedMs) / 1_000;
}

function quantile(values: readonly number[], q: number): string {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  return value === undefined ? '–' : value.toFixed(0);
}

const large = await start(2 ** 30);
for (let i = 0; i < adapters; i += 1) {
  await large.admin({
    op: 'load',
    name: nameOf(i),
    source: { type: 'dir', location: join(root, nameOf(i)) },
    pin: false,
    wait: true,
    replace: true,
  });
}
const bytes = (await large.admin<'get'>({ op: 'get', name: nameOf(0) })).bytes;
const small = await start(resident * bytes);

console.log(`${adapters} adapters of ${bytes} bytes, room for ${resident} or for all`);
console.log('| Zipf | room for | requests/s | × all | hits | wait of hits, p50 / p99 ms | of misses |');
console.log('|---|---|---|---|---|---|---|');
for (const exponent of EXPONENTS) {
  const runs: Record<'some' | 'all', Run> = { some: { seconds: 0, answers: [] }, all: { seconds: 0, answers: [] } };
  // What the law prefers is resident before the first round.
  await serve(small, draw(exponent, 7), { seconds: 0, answers: [] });
  for (let round = 1; round <= rounds; round += 1) {
    const order = draw(exponent, 100 * round);
    await serve(small, order, runs.some);
    await serve(large, order, runs.all);
  }
  const rate = ({ answers, seconds }: Run): number => answers.length / seconds;
  for (const [room, run] of Object.entries(runs)) {
    const waits = (hit: boolean): number[] =>
      run.answers.filter((answer) => answer.hit === hit).map(({ waitMs }) => waitMs);
    const shown = [true, false].map((hit) => `${quantile(waits(hit), 0.5)} / ${quantile(waits(hit), 0.99)}`);
    const share = waits(true).length / run.answers.length;
    const cells = [exponent, room, rate(run).toFixed(1), (rate(run) / rate(runs.all)).toFixed(3), share.toFixed(3)];
    console.log(`| ${[...cells, ...shown].join(' | ')} |`);
  }
}
await Promise.all([small.close(), large.close()]);
