import { setTimeout as sleep } from 'node:timers/promises';
import { ServerProcess } from '../../tests/helpers/server-process.js';
import { promptOf } from '../contenders/protocol.js';
import { median, quantile } from '../report/statistics.js';
import { CHUNKED } from '../scenarios/serving.js';
import { BASE_MODEL, type ServingRun, serverFlags } from './serving-run.js';
import { streamCompletion } from './stream-client.js';

const STREAM_PROMPT = 16;
const STREAM_TOKENS = 1_000;

/** Gaps between tokens of running streams while long prompts are read, against the same streams left alone. */
export async function measureChunked(run: ServingRun): Promise<void> {
  const server = await ServerProcess.start([...serverFlags(run, run.adapterRoot), '--prefix-cache', 'off']);
  let gaps: number[] | null = null;
  let stopped = false;
  const keepDecoding = async (row: number): Promise<void> => {
    for (let turn = 0; !stopped; turn += 1) {
      let lastMs = Number.NaN;
      const prompt = promptOf(row * 100 + turn, STREAM_PROMPT);
      await streamCompletion(server.url, { model: BASE_MODEL, prompt, maxTokens: STREAM_TOKENS }, (nowMs) => {
        if (!Number.isNaN(lastMs)) gaps?.push(nowMs - lastMs);
        lastMs = nowMs;
      }).catch((error: unknown) => {
        // The server is ended beneath them.
        if (!stopped) throw error;
      });
    }
  };
  const streams = Promise.all(Array.from({ length: CHUNKED.streams }, (_, row) => keepDecoding(row)));
  // Awaited below, after the windows.
  streams.catch(() => undefined);
  try {
    await sleep(2_000);
    for (let round = 0; round < run.rounds; round += 1) {
      gaps = [];
      await sleep(CHUNKED.seconds * 1_000);
      const alone = gaps;
      gaps = [];
      const prompts: Promise<number>[] = [];
      for (let sent = 0; sent * CHUNKED.everyMs < CHUNKED.seconds * 1_000; sent += 1) {
        prompts.push(readPrompt(server.url, round * 1_000 + sent));
        await sleep(CHUNKED.everyMs);
      }
      const during = gaps;
      gaps = null;
      const firstTokens = await Promise.all(prompts);
      const values = {
        aloneP50Ms: median(alone),
        aloneP99Ms: quantile(alone, 0.99),
        duringP50Ms: median(during),
        duringP99Ms: quantile(during, 0.99),
        duringMaxMs: Math.max(...during),
        promptFirstTokenMs: median(firstTokens),
      };
      run.record({ kind: 'serving', scenario: 'chunked', variant: 'base', round, values });
    }
  } finally {
    stopped = true;
    await server.kill();
    await streams;
  }
}

/** Milliseconds to the first token of a long prompt that no other shares. */
async function readPrompt(url: string, number: number): Promise<number> {
  const prompt = promptOf(number * 7 + 3, CHUNKED.promptTokens);
  const { sentMs, tokenMs } = await streamCompletion(url, { model: BASE_MODEL, prompt, maxTokens: 1 });
  return (tokenMs[0] as number) - sentMs;
}
