import { setTimeout as sleep } from 'node:timers/promises';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import type { WorkerEngineClient } from '../../src/engine/worker-client.js';

/** Prompt, and answer. */
const TOKENS = 16;

/** One request of a trace. */
export interface Arrival {
  /** Index of its adapter. */
  readonly adapter: number;
  /** Milliseconds after the trace began; of no account where a fixed number is kept in flight. */
  readonly atMs: number;
}

export interface Answer {
  /** Its adapter was resident when it came. */
  readonly hit: boolean;
  /** Milliseconds from submission to the first step, and to the end. */
  readonly queuedMs: number;
  readonly wholeMs: number;
}

/** What came of a trace. */
export interface Served {
  readonly answers: readonly Answer[];
  readonly seconds: number;
}

/** Uniform in [0, 1), the same numbers for the same seed. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Adapters by Zipf's law, arrivals by Poisson's at `perSecond`. */
export function drawTrace(
  requests: number,
  adapters: number,
  exponent: number,
  perSecond: number,
  seed: number,
): Arrival[] {
  const weights = Array.from({ length: adapters }, (_, rank) => (rank + 1) ** -exponent);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const random = uniform(seed);
  let atMs = 0;
  return Array.from({ length: requests }, () => {
    let left = random() * total;
    const adapter = weights.findIndex((weight) => {
      left -= weight;
      return left < 0;
    });
    atMs += (-Math.log(1 - random()) / perSecond) * 1_000;
    return { adapter: Math.max(0, adapter), atMs };
  });
}

let nextId = 1;

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
  const clock = (): number => performance.timeOrigin + performance.now();
  const submittedMs = clock();
  return new Promise((resolve, reject) => {
    let hit = false;
    let queuedMs = 0;
    engine.submit(request, (event) => {
      if (event.kind === 'admitted') {
        hit = event.servedBy.tierAtArrival === 'host';
        queuedMs = event.atMs - submittedMs;
      } else if (event.kind === 'error') {
        reject(new Error(`${adapter}: ${event.error.message}`));
      } else if (event.kind === 'finish') {
        resolve({ hit, queuedMs, wholeMs: clock() - submittedMs });
      }
    });
  });
}

/** Keeps `inFlight` requests of the trace in flight until it is over. */
export async function saturate(
  engine: WorkerEngineClient,
  trace: readonly Arrival[],
  nameOf: (adapter: number) => string,
  inFlight: number,
): Promise<Served> {
  const startedMs = performance.now();
  const answers: Answer[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let arrival = trace[next++]; arrival !== undefined; arrival = trace[next++])
      answers.push(await ask(engine, nameOf(arrival.adapter)));
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return { answers, seconds: (performance.now() - startedMs) / 1_000 };
}

/** Sends each request of the trace at its time, whatever has become of those before. */
export async function replay(
  engine: WorkerEngineClient,
  trace: readonly Arrival[],
  nameOf: (adapter: number) => string,
): Promise<Served> {
  const startedMs = performance.now();
  const answers: Promise<Answer>[] = [];
  for (const { adapter, atMs } of trace) {
    await sleep(Math.max(0, startedMs + atMs - performance.now()));
    answers.push(ask(engine, nameOf(adapter)));
  }
  const all = await Promise.all(answers);
  return { answers: all, seconds: (performance.now() - startedMs) / 1_000 };
}
