import { elementBytes, type PreparedModel } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import { bareModel } from '../contenders/bare-graph.js';
import { LoramuxSession, type SessionDevice } from '../contenders/loramux-session.js';
import { type Job, promptOf, type Timing } from '../contenders/protocol.js';
import type { Recorder } from './records.js';

export interface ThroughputOptions {
  readonly batch: number;
  readonly context: number;
  readonly steps: number;
  readonly rounds: number;
  readonly threads: number;
  readonly device: SessionDevice;
  /** Folder with adapters named `rank16-0` and on, one a row. */
  readonly adapterRoot: string;
  /** Where the graph without operators for adapters may lie: on the disk of the model. */
  readonly bareRoot: string;
  /** Bytes a second; null = not measured. */
  readonly memoryBandwidth: number | null;
}

/** The mixes of a batch, by the row's adapter. */
const MIXES: Readonly<Record<string, (row: number) => string>> = {
  free: () => BASE_NAME,
  base: () => BASE_NAME,
  one: () => 'rank16-0',
  distinct: (row) => `rank16-${row}`,
};

/** Decode and prefill of the base, of one adapter and of as many as there are rows; mixes in turn. */
export async function measureThroughput(
  model: PreparedModel,
  recorder: Recorder,
  options: ThroughputOptions,
): Promise<void> {
  const { batch, context, steps, rounds, threads, device, adapterRoot } = options;
  const open = (of: PreparedModel) => LoramuxSession.open(of, adapterRoot, threads, 'file', device);
  const session = await open(model);
  const free = await open(bareModel(model, options.bareRoot));
  const job = (mix: string, phase: Job['phase']): Job => ({
    phase,
    adapters: Array.from({ length: batch }, (_, row) => MIXES[mix]?.(row) ?? BASE_NAME),
    prompts: Array.from({ length: batch }, (_, row) => promptOf(row, context)),
    steps: phase === 'decode' ? steps : 0,
    withoutOperators: mix === 'free',
  });
  const timings = new Map<string, Timing[]>();
  const run = async (mix: string, phase: Job['phase'], keep: boolean): Promise<void> => {
    const timing = await (mix === 'free' ? free : session).run(job(mix, phase));
    const key = `${phase} ${mix}`;
    if (keep) timings.set(key, [...(timings.get(key) ?? []), timing]);
  };
  // The first run of a mix loads its adapters and, on a GPU, captures its graphs.
  for (let round = -1; round < rounds; round += 1) {
    for (const mix of Object.keys(MIXES)) {
      await run(mix, 'decode', round >= 0);
      await run(mix, 'prefill', round >= 0);
    }
  }
  await free.close();
  await session.close();

  const rates = (key: string): number[] => (timings.get(key) ?? []).map(({ tokens, seconds }) => tokens / seconds);
  const shares = (key: string, of: string): number[] => rates(key).map((rate, round) => rate / (rates(of)[round] ?? 0));
  for (const mix of Object.keys(MIXES)) {
    recorder.measure(`decode ${mix}, batch ${batch}, context ${context}`, 'tokens/s', rates(`decode ${mix}`));
    recorder.measure(`prefill ${mix}, ${batch} × ${context}`, 'tokens/s', rates(`prefill ${mix}`));
  }
  recorder.measure('base rows against the graph without LoRA', 'share', shares('decode base', 'decode free'), {
    atLeast: 0.99,
  });
  recorder.measure('one rank-16 adapter against base', 'share', shares('decode one', 'decode base'), { atLeast: 0.96 });
  recorder.measure(
    `${batch} distinct rank-16 adapters against base`,
    'share',
    shares('decode distinct', 'decode base'),
    { atLeast: 0.85 },
  );
  recorder.measure(
    'prefill loss of one rank-16 adapter',
    'share',
    shares('prefill one', 'prefill base').map((share) => 1 - share),
    { atMost: 0.03 },
  );
  const host = (timings.get('decode distinct') ?? []).map(({ hostSeconds = Number.NaN }) => hostSeconds * 1e3);
  recorder.measure('TypeScript time of a step, launches not included', 'ms', host, { atMost: 0.2 });
  if (options.memoryBandwidth !== null) {
    const bytes = (timings.get('decode base')?.[0]?.stepBytes ?? 0) + kvBytes(model, batch, context + steps / 2);
    const achieved = rates('decode base').map((rate) => ((rate / batch) * bytes) / (options.memoryBandwidth as number));
    recorder.measure("base decode, share of the memory's bandwidth", 'share', achieved, { atLeast: 0.6 });
  }
}

/** Bytes of keys and values that one decode step reads. */
function kvBytes({ manifest }: PreparedModel, batch: number, context: number): number {
  const { layers, kvHeads, headDim } = manifest.config;
  return batch * context * layers * kvHeads * headDim * 2 * elementBytes(manifest);
}
