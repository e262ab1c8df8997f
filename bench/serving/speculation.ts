import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../src/engine/addon.js';
import { ServerProcess } from '../../tests/helpers/server-process.js';
import { SPECULATION } from '../scenarios/serving.js';
import { BASE_MODEL, type ServingRun, serverFlags } from './serving-run.js';
import { streamCompletion } from './stream-client.js';

/** Tokens per second of the trained base with and without guesses, over text that repeats itself and text that does not. */
export async function measureSpeculation(run: ServingRun): Promise<void> {
  const start = (speculation: 'on' | 'off'): Promise<ServerProcess> =>
    ServerProcess.start([...serverFlags(run, run.adapterRoot, speculation), '--prefix-cache', 'off']);
  const on = await start('on');
  const off = await start('off');
  try {
    for (const { text, prompt } of prompts()) {
      for (const streams of SPECULATION.streams) {
        for (let round = 0; round < run.rounds; round += 1) {
          const sides: (readonly [string, ServerProcess])[] = [
            ['on', on],
            ['off', off],
          ];
          const values: Record<string, number> = {};
          for (const [side, server] of round % 2 === 0 ? sides : sides.reverse()) {
            values[side] = await speed(server.url, prompt, streams);
          }
          run.record({ kind: 'serving', scenario: 'speculation', variant: `${text}/${streams}`, round, values });
        }
      }
    }
  } finally {
    await on.kill();
    await off.kill();
  }
}

/** What a model copies from, cut off within the copy; and the same text as it is, to go on with. */
function prompts(): { text: string; prompt: string }[] {
  const story = readFileSync(join(packageRoot(), 'bench', 'precision', 'texts', 'story.txt'), 'utf8').slice(0, 900);
  const start = story.slice(0, 120);
  return [
    { text: 'copied', prompt: `${story}\n\n${story}\n\n${start}` },
    { text: 'new', prompt: story },
  ];
}

/** Tokens per second of `streams` equal requests, from the first token that came to the last. */
async function speed(url: string, prompt: string, streams: number): Promise<number> {
  const { newTokens } = SPECULATION;
  const all = await Promise.all(
    Array.from({ length: streams }, () => streamCompletion(url, { model: BASE_MODEL, prompt, maxTokens: newTokens })),
  );
  const times = all.flatMap(({ tokenMs }) => tokenMs);
  const began = Math.max(...all.map(({ tokenMs }) => tokenMs[0] as number));
  const after = times.filter((at) => at > began);
  return after.length / ((Math.max(...after) - began) / 1_000);
}
