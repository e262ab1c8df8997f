import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ServerProcess } from '../../tests/helpers/server-process.js';
import { promptOf } from '../contenders/protocol.js';
import { writeRandomAdapter } from '../random-adapter.js';
import { median, quantile } from '../report/statistics.js';
import { ARRIVALS, type ArrivalWindow, FEW, LENGTHS, MANY, REGISTERED_ADAPTER } from '../scenarios/serving.js';
import { type ServingRun, serverFlags } from './serving-run.js';
import { type StreamTimes, streamCompletion } from './stream-client.js';
import { type Arrival, makeTrace } from './trace.js';

/** In flight while the saturation rate is measured: more than the server runs at once costs only waiting. */
const SATURATING = 48;
const ADAPTER_MEMORY = '6GiB';
/** Loads at once before a window. */
const LOADS = 4;

/** Requests that were sent by now: a prompt is made from its number, and none is sent twice while it could be cached. */
let sent = 0;

const nameOf = (adapter: number): string => `registered-${adapter}`;

/** First-token and inter-token times while requests arrive by themselves, whatever the server is doing. */
export async function measureArrivals(run: ServingRun): Promise<void> {
  const counts = { few: FEW, many: run.quick ? MANY.quick : MANY.full };
  const seconds = run.quick ? 6 : 20;
  const servers = new Map<string, ServerProcess>();
  try {
    for (const { adapters, loaded } of ARRIVALS) {
      const key = `${adapters} ${loaded}`;
      if (servers.has(key)) continue;
      run.progress(`arrivals: a server with ${counts[adapters]} adapters${loaded ? ', loaded' : ''}`);
      const root = registeredRoot(run, counts[adapters]);
      const server = await ServerProcess.start([...serverFlags(run, root), '--adapter-memory', ADAPTER_MEMORY]);
      servers.set(key, server);
      if (!loaded) continue;
      await loadAll(server, counts[adapters]);
      // The first seconds of a process are slower: what is compared has them behind it.
      await saturate(server, counts[adapters], seconds / 4);
    }
    const serverOf = ({ adapters, loaded }: ArrivalWindow): ServerProcess =>
      servers.get(`${adapters} ${loaded}`) as ServerProcess;

    run.progress('arrivals: saturation');
    const few = serverOf(ARRIVALS[0] as ArrivalWindow);
    const saturation = await saturate(few, FEW, seconds);
    const windows = ARRIVALS.filter(({ load }) => !run.quick || load === 0.8);
    for (let round = 0; round < Math.ceil(run.rounds / 2); round += 1) {
      for (const window of round % 2 === 0 ? windows : [...windows].reverse()) {
        run.progress(`arrivals, round ${round + 1}: ${window.variant}`);
        const { load, cv, alpha, variant } = window;
        const adapters = counts[window.adapters];
        const rate = saturation * load;
        const trace = makeTrace({ rate, cv, alpha, adapters, seconds, ...LENGTHS, seed: 1_000 + round });
        const values = summarise(await play(serverOf(window).url, trace), seconds);
        run.record({
          kind: 'serving',
          scenario: 'arrivals',
          variant,
          round,
          values: { ...values, rate, saturation, adapters },
        });
      }
    }
  } finally {
    for (const server of servers.values()) await server.kill();
  }
}

/** A directory of `count` adapters, each with weights of its own; written once. */
function registeredRoot({ cacheDir, model }: ServingRun, count: number): string {
  const root = join(cacheDir, `bench-registered-${count}`);
  if (existsSync(join(root, nameOf(count - 1), 'adapter_model.safetensors'))) return root;
  for (let adapter = 0; adapter < count; adapter += 1) {
    const { rank, targets } = REGISTERED_ADAPTER;
    writeRandomAdapter(root, { name: nameOf(adapter), rank, targets, seed: adapter + 1 }, model.manifest.sites);
  }
  return root;
}

/** One token from each adapter: after it all are in memory. */
async function loadAll(server: ServerProcess, count: number): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let adapter = next++; adapter < count; adapter = next++) {
      await streamCompletion(server.url, { model: nameOf(adapter), prompt: promptOf(adapter, 2), maxTokens: 1 });
    }
  };
  await Promise.all(Array.from({ length: LOADS }, lane));
}

function send(url: string, arrival: Arrival, onToken = (): void => undefined): Promise<StreamTimes> {
  const { adapter, promptTokens, newTokens } = arrival;
  // Prompts differ, from window to window too, so the prefix cache has nothing to share.
  const prompt = promptOf(sent++ * 13 + 5, promptTokens);
  return streamCompletion(url, { model: nameOf(adapter), prompt, maxTokens: newTokens }, onToken);
}

/** Requests per second that are answered while many wait. */
async function saturate(server: ServerProcess, adapters: number, seconds: number): Promise<number> {
  const endless = makeTrace({ rate: 1_000, cv: 1, alpha: 1, adapters, seconds, ...LENGTHS, seed: 7 });
  const startedMs = performance.now();
  const over = (): boolean => performance.now() - startedMs > seconds * 1_000;
  let [next, tokens] = [0, 0];
  const lane = async (): Promise<void> => {
    while (!over()) {
      await send(server.url, endless[next++ % endless.length] as Arrival, () => {
        if (!over()) tokens += 1;
      });
    }
  };
  await Promise.all(Array.from({ length: SATURATING }, lane));
  // By tokens: requests that have not ended count for what they have got.
  return tokens / seconds / ((LENGTHS.shortest + LENGTHS.longest) / 2);
}

/** Sends each request when it is due, and awaits all answers. */
async function play(url: string, trace: readonly Arrival[]): Promise<StreamTimes[]> {
  const startedMs = performance.now();
  const answers: Promise<StreamTimes>[] = [];
  for (const arrival of trace) {
    await sleep(Math.max(0, startedMs + arrival.at * 1_000 - performance.now()));
    answers.push(send(url, arrival));
  }
  return Promise.all(answers);
}

function summarise(answers: readonly StreamTimes[], seconds: number): Record<string, number> {
  const first = answers.map(({ sentMs, tokenMs }) => (tokenMs[0] as number) - sentMs);
  const gaps = answers.flatMap(({ tokenMs }) => tokenMs.slice(1).map((at, i) => at - (tokenMs[i] as number)));
  return {
    requests: answers.length,
    seconds,
    firstTokenP50Ms: median(first),
    firstTokenP90Ms: quantile(first, 0.9),
    firstTokenP99Ms: quantile(first, 0.99),
    gapP50Ms: median(gaps),
    gapP90Ms: quantile(gaps, 0.9),
    gapP99Ms: quantile(gaps, 0.99),
  };
}
