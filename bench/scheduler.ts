/**
 * How long one step costs the scheduler: plan + buildBatch + commit with 64 decode rows over 16 adapters and the base,
 * and the same with a penalty, whose history travels along. Prints one JSON line per scenario.
 * Run: node dist/bench/scheduler.js
 */
import { cpus } from 'node:os';
import { performance } from 'node:perf_hooks';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../src/core/request.js';
import { BASE_ROWS, oneAdapter } from '../src/scheduler/row-adapters.js';
import { Scheduler } from '../src/scheduler/scheduler.js';

const SEQUENCES = 64;
const ADAPTERS = 16;
const PROMPT = 512;
const WARM_UP = 500;
const STEPS = 2_000;
const MODEL_LENGTH = PROMPT + WARM_UP + STEPS + 1;
const BLOCK_SIZE = 16;

function request(id: number, repetitionPenalty: number): GenerateRequest {
  return {
    id,
    adapter: '__base__',
    promptIds: new Uint32Array(PROMPT).fill(id),
    maxNewTokens: MODEL_LENGTH - PROMPT,
    stopIds: [0],
    sampling: { ...GREEDY_SAMPLING, repetitionPenalty },
    ...PLAIN_REQUEST,
  };
}

/** Microseconds of each measured step; every step has one decode row per sequence. */
function measure(repetitionPenalty: number): Float64Array {
  const scheduler = new Scheduler({
    maxSequences: SEQUENCES,
    maxBatchTokens: SEQUENCES * PROMPT,
    maxPrefillRows: SEQUENCES * PROMPT,
    maxQueue: SEQUENCES,
    kvBlocks: SEQUENCES * Math.ceil(MODEL_LENGTH / BLOCK_SIZE),
    blockSize: BLOCK_SIZE,
    maxModelLen: MODEL_LENGTH,
    vocabSize: 49_152,
    prefixCache: true,
    speculation: false,
  });
  for (let id = 0; id < SEQUENCES; id += 1) {
    const servedBy = { adapter: '__base__', digest: null, tierAtArrival: null };
    const handle = (id % (ADAPTERS + 1)) - 1;
    const adapters = handle < 0 ? BASE_ROWS : oneAdapter(handle);
    scheduler.enqueue(request(id, repetitionPenalty), adapters, 0, servedBy);
  }
  const output = {
    tokens: new Uint32Array(SEQUENCES).fill(7),
    logprobs: new Float32Array(SEQUENCES).fill(Number.NaN),
    top: { indptr: new Int32Array(SEQUENCES + 1), ids: new Uint32Array(0), logprobs: new Float32Array(0) },
    logits: null,
    failures: [],
    maskSeconds: 0,
    runSeconds: 0,
    sampleSeconds: 0,
  };
  const times = new Float64Array(STEPS);
  for (let step = -WARM_UP; step < STEPS; step += 1) {
    const start = performance.now();
    const plan = scheduler.plan(start);
    if (plan === null) throw new Error('expected every sequence to run to the end of the bench');
    scheduler.buildBatch(plan);
    scheduler.commit(plan, output, start);
    if (step >= 0) times[step] = (performance.now() - start) * 1000;
  }
  return times.sort();
}

for (const repetitionPenalty of [1, 1.1]) {
  const times = measure(repetitionPenalty);
  const record = {
    bench: 'scheduler',
    rows: SEQUENCES,
    adapters: ADAPTERS,
    repetitionPenalty,
    warmUp: WARM_UP,
    steps: STEPS,
    medianMicroseconds: Number(times[STEPS >> 1]?.toFixed(1)),
    p95Microseconds: Number(times[Math.floor(STEPS * 0.95)]?.toFixed(1)),
    cpu: cpus()[0]?.model ?? 'unknown',
    node: process.version,
  };
  console.log(JSON.stringify(record));
}
