/**
 * What `--max-prefill-rows` does, without noise: the real scheduler, played against steps that take as long as a formula
 * says. Prints one JSON line per number of rows: first tokens and gaps between tokens (p50, p90, p99, ms) of the
 * arrivals of bench/serving at 80 % of saturation, and of 8 streams beside which a prompt of 768 tokens is read, or three.
 * Run: node dist/bench/prefill-rows.js [rows ...]
 */
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../src/core/request.js';
import type { StepOutput } from '../src/core/step.js';
import { BASE_ROWS, oneAdapter, type RowAdapters } from '../src/scheduler/row-adapters.js';
import { Scheduler } from '../src/scheduler/scheduler.js';
import type { StepPlan } from '../src/scheduler/step-plan.js';
import { quantile } from './report/statistics.js';
import { CHUNKED, FEW, LENGTHS, MANY } from './scenarios/serving.js';
import { makeTrace } from './serving/trace.js';

const SEEDS = [1_000, 1_001, 1_002, 1_003];
const SATURATING = 48;

/** Milliseconds of a step: fitted to docs/benchmarks.md (float32, 2 cores, rank 8 on query and value). */
function stepMs({ decodeRows, prefillRows, sampledRows, distinctAdapters, entries }: StepPlan): number {
  const cached = entries.reduce((sum, { phase, start }) => sum + (phase === 'decode' ? start : 0), 0);
  const rows = Math.max(13, 4.5 + 0.8 * decodeRows + 0.57 * prefillRows);
  return rows + 0.12 * sampledRows + 0.15 * distinctAdapters + 0.0012 * cached;
}

interface Sent {
  readonly atMs: number;
  readonly adapter: number | null;
  readonly prompt: number;
  readonly newTokens: number;
}

/** One scheduler on a clock that steps move. */
class Simulation {
  readonly firstMs: number[] = [];
  readonly gapsMs: number[] = [];
  /** First tokens of long prompts. */
  readonly longMs: number[] = [];
  tokens = 0;
  nowMs = 0;
  readonly #scheduler: Scheduler;
  readonly #sent: Sent[] = [];
  readonly #lastMs: number[] = [];

  constructor(maxPrefillRows: number) {
    this.#scheduler = new Scheduler({
      maxSequences: 64,
      maxBatchTokens: 512,
      maxPrefillRows,
      maxQueue: 4_096,
      kvBlocks: 4_096,
      blockSize: 16,
      maxModelLen: 2_048,
      vocabSize: 49_152,
      prefixCache: false,
      speculation: false,
    });
  }

  send(sent: Sent): void {
    const id = this.#sent.push(sent) - 1;
    const [adapter, rows]: [string, RowAdapters] =
      sent.adapter === null ? ['__base__', BASE_ROWS] : [`${sent.adapter}`, oneAdapter(sent.adapter)];
    const request: GenerateRequest = {
      id,
      adapter,
      promptIds: new Uint32Array(sent.prompt),
      maxNewTokens: sent.newTokens,
      stopIds: [],
      sampling: GREEDY_SAMPLING,
      ...PLAIN_REQUEST,
    };
    this.#scheduler.enqueue(request, rows, this.nowMs, { adapter, digest: null, tierAtArrival: null });
  }

  /** Runs one step; false when nothing can run. */
  step(onEnd: () => void = () => undefined): boolean {
    const plan = this.#scheduler.plan(this.nowMs);
    if (plan === null) return false;
    this.nowMs += stepMs(plan);
    for (const event of this.#scheduler.commit(plan, outputOf(plan), this.nowMs)) {
      if (event.kind === 'token') this.#token(event.id);
      if (event.kind === 'finish') onEnd();
    }
    return true;
  }

  /** Sends each request when it is due; ends when all are answered, or at `untilMs`. */
  play(requests: readonly Sent[], untilMs = Number.POSITIVE_INFINITY): this {
    for (let next = 0; this.nowMs < untilMs; ) {
      for (; next < requests.length && (requests[next] as Sent).atMs <= this.nowMs; next += 1) {
        this.send(requests[next] as Sent);
      }
      if (this.step()) continue;
      if (next === requests.length) break;
      this.nowMs = (requests[next] as Sent).atMs;
    }
    return this;
  }

  #token(id: number): void {
    this.tokens += 1;
    const { atMs, prompt } = this.#sent[id] as Sent;
    const lastMs = this.#lastMs[id];
    if (lastMs !== undefined) this.gapsMs.push(this.nowMs - lastMs);
    else (prompt === CHUNKED.promptTokens ? this.longMs : this.firstMs).push(this.nowMs - atMs);
    this.#lastMs[id] = this.nowMs;
  }
}

function outputOf({ sampledRows }: StepPlan): StepOutput {
  const top = { indptr: new Int32Array(sampledRows + 1), ids: new Uint32Array(0), logprobs: new Float32Array(0) };
  const [tokens, logprobs] = [new Uint32Array(sampledRows), new Float32Array(sampledRows)];
  return { tokens, logprobs, top, logits: null, failures: [], maskSeconds: 0, runSeconds: 0, sampleSeconds: 0 };
}

function trace(rate: number, adapters: number, seed: number): Sent[] {
  const arrivals = makeTrace({ rate, cv: 1, alpha: 1, adapters, seconds: 20, ...LENGTHS, seed });
  return arrivals.map(({ at, adapter, promptTokens, newTokens }) => ({
    atMs: at * 1_000,
    adapter,
    prompt: promptTokens,
    newTokens,
  }));
}

/** Requests per second while many wait. */
function saturation(rows: number): number {
  const simulation = new Simulation(rows);
  const endless = trace(1_000, FEW, 7);
  let next = 0;
  const send = (): void => simulation.send(endless[next++ % endless.length] as Sent);
  for (let lane = 0; lane < SATURATING; lane += 1) send();
  while (simulation.nowMs < 5_000) simulation.step(send);
  const [tokens, startedMs] = [simulation.tokens, simulation.nowMs];
  while (simulation.nowMs < 25_000) simulation.step(send);
  const perSecond = ((simulation.tokens - tokens) / (simulation.nowMs - startedMs)) * 1_000;
  return perSecond / ((LENGTHS.shortest + LENGTHS.longest) / 2);
}

function arrivals(rows: number, rate: number, adapters: number) {
  const windows = SEEDS.map((seed) => new Simulation(rows).play(trace(rate, adapters, seed)));
  const firstMs = windows.flatMap((window) => window.firstMs);
  return { firstMs: quantiles(firstMs), gapsMs: quantiles(windows.flatMap(({ gapsMs }) => gapsMs)) };
}

/** Streams that decode while `prompts` long prompts at once arrive every few seconds. */
function chunked(rows: number, prompts: number) {
  const streams = { atMs: 0, adapter: null, prompt: 16, newTokens: 1_000 };
  const long = { adapter: null, prompt: CHUNKED.promptTokens, newTokens: 1 };
  const sent: Sent[] = Array.from({ length: CHUNKED.streams }, () => streams);
  for (let atMs = CHUNKED.everyMs; atMs < 12_000; atMs += CHUNKED.everyMs) {
    for (let prompt = 0; prompt < prompts; prompt += 1) sent.push({ ...long, atMs });
  }
  const { gapsMs, longMs } = new Simulation(rows).play(sent, 12_000);
  return { gapsMs: quantiles(gapsMs), longFirstMs: quantiles(longMs) };
}

function quantiles(values: readonly number[]): number[] {
  return [0.5, 0.9, 0.99].map((share) => Math.round(quantile(values, share)));
}

const asked = process.argv.slice(2).map(Number);
for (const rows of asked.length > 0 ? asked : [16, 32, 48, 64, 96, 128]) {
  const perSecond = saturation(rows);
  const [few, many] = [FEW, MANY.full].map((adapters) => arrivals(rows, perSecond * 0.8, adapters));
  const record = {
    rows,
    saturation: perSecond,
    few,
    many,
    onePrompt: chunked(rows, 1),
    threePrompts: chunked(rows, 3),
  };
  console.log(JSON.stringify({ bench: 'prefill-rows', ...record }));
}
