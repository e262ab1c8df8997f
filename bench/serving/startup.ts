import { ServerProcess } from '../../tests/helpers/server-process.js';
import { promptOf } from '../contenders/protocol.js';
import { BASE_MODEL, type ServingRun, serverFlags } from './serving-run.js';
import { streamCompletion } from './stream-client.js';

const PROMPT_TOKENS = 16;

/** From the start of the process to the first token of the first request; the model was converted before. */
export async function measureStartup(run: ServingRun): Promise<void> {
  // Its files come into the page cache, as after any earlier run.
  await oneStart(run);
  for (let round = 0; round < run.rounds; round += 1) {
    run.record({ kind: 'serving', scenario: 'startup', variant: 'warm', round, values: await oneStart(run) });
  }
}

async function oneStart(run: ServingRun): Promise<{ readyMs: number; firstTokenMs: number }> {
  const startedMs = performance.now();
  const server = await ServerProcess.start(serverFlags(run, run.adapterRoot));
  try {
    const readyMs = performance.now() - startedMs;
    const completion = { model: BASE_MODEL, prompt: promptOf(0, PROMPT_TOKENS), maxTokens: 1 };
    const { tokenMs } = await streamCompletion(server.url, completion);
    return { readyMs, firstTokenMs: (tokenMs[0] as number) - startedMs };
  } finally {
    await server.kill();
  }
}
