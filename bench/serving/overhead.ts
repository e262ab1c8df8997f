import { BASE_NAME } from '../../src/core/names.js';
import { ServerProcess } from '../../tests/helpers/server-process.js';
import { ContenderProcess } from '../contenders/contender-process.js';
import { CONTENDERS } from '../contenders/contenders.js';
import { promptOf } from '../contenders/protocol.js';
import { adaptersOf } from '../scenarios/adapter-mix.js';
import { OVERHEAD } from '../scenarios/serving.js';
import { BASE_MODEL, type ServingRun, serverFlags } from './serving-run.js';
import { streamCompletion } from './stream-client.js';
import { threadTimes } from './thread-times.js';

/** Repeats of each side within a round. */
const REPEATS = 2;
/** Passes of each mix before the first that counts: V8 compiles what they run again and again for about as many. */
const WARM_UPS = 6;

/** Tokens per second of all streams together while all of them decode. */
async function throughServer(url: string, adapters: readonly string[]): Promise<number> {
  const streams = await Promise.all(
    adapters.map((adapter, row) => {
      const prompt = promptOf(row, OVERHEAD.promptTokens);
      const model = adapter === BASE_NAME ? BASE_MODEL : adapter;
      return streamCompletion(url, { model, prompt, maxTokens: OVERHEAD.newTokens });
    }),
  );
  const began = Math.max(...streams.map(({ tokenMs }) => tokenMs[1] as number));
  const ended = Math.min(...streams.map(({ tokenMs }) => tokenMs.at(-1) as number));
  const tokens = streams.flatMap(({ tokenMs }) => tokenMs).filter((at) => at > began && at <= ended).length;
  return tokens / ((ended - began) / 1_000);
}

/**
 * As `throughServer`, with the processor time that each token takes of the client and of the server's threads but those
 * of the engine, in microseconds, prompts and connections included.
 */
async function measureServer(server: ServerProcess, adapters: readonly string[]): Promise<Record<string, number>> {
  const [clientBefore, before] = [process.cpuUsage(), threadTimes(server.pid)];
  const speed = await throughServer(server.url, adapters);
  const [client, after] = [process.cpuUsage(clientBefore), threadTimes(server.pid)];
  const tokens = adapters.length * OVERHEAD.newTokens;
  const clientMicros = (client.user + client.system) / tokens;
  if (before === null || after === null) return { server: speed, clientMicros };
  const [mainMicros, otherMicros] = [(after.main - before.main) / tokens, (after.others - before.others) / tokens];
  return { server: speed, clientMicros, mainMicros, otherMicros };
}

/** The same streams through HTTP, scheduler and worker, and as steps of the engine alone, in turn. */
export async function measureOverhead(run: ServingRun): Promise<void> {
  const contender = CONTENDERS.find(({ name }) => name === 'loramux f32');
  if (contender === undefined) throw new Error('no contender is called loramux f32');
  const { cacheDir, adapterRoot, threads } = run;
  const setup = { cacheDir, adapterRoot, threads, gguf: '', python: '', genaiPython: '' };
  const engine = await ContenderProcess.start(contender.command(setup));
  const server = await ServerProcess.start(serverFlags(run, adapterRoot));
  const { streams, promptTokens, newTokens } = OVERHEAD;
  const prompts = Array.from({ length: streams }, (_, row) => promptOf(row, promptTokens));
  try {
    for (const mix of OVERHEAD.mixes) {
      const adapters = adaptersOf(mix, 16, streams);
      for (let pass = 0; pass < WARM_UPS; pass += 1) await throughServer(server.url, adapters);
      for (let round = 0; round < run.rounds * REPEATS; round += 1) {
        const job = { phase: 'decode', adapters, prompts, steps: newTokens, withoutOperators: false } as const;
        const alone = async (): Promise<Record<string, number>> => {
          const { tokens, seconds } = await engine.run(job);
          return { engine: tokens / seconds };
        };
        const sides = [alone, () => measureServer(server, adapters)];
        const values: Record<string, number> = { warmUps: WARM_UPS };
        for (const measure of round % 2 === 0 ? sides : sides.reverse()) Object.assign(values, await measure());
        run.record({ kind: 'serving', scenario: 'overhead', variant: mix, round, values });
      }
    }
  } finally {
    await engine.close();
    await server.kill();
  }
}
