/**
 * Many more adapters than fit: the same requests, whose adapters follow Zipf's law, against room for some of the
 * adapters and room for all of them, in turn.
 *
 *   npm run bench:zipf [-- --adapters 1000 --resident 64 --requests 160 --rounds 2 --threads 2]
 *
 * The adapters are rank 4 on the demo model's q_proj and v_proj, weights from a seed; requests are 16 + 16 tokens. First
 * 16 of them are in flight at a time: `requests/s` is what the engine carries. Then the same number arrives at random
 * times, 0.6 of what room for all carried, at the same times for both. `queued` is from submission to the first step, by
 * whether the adapter was resident when the request came; `waited` is the longest that a request waited for an adapter
 * that was resident. With room for all, each adapter is loaded once before anything is timed; with room for some, what
 * the law prefers is.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadBinding, packageRoot } from '../src/engine/addon.js';
import { WorkerEngineClient } from '../src/engine/worker-client.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { writeRandomAdapter } from './random-adapter.js';
import { drawTrace, replay, type Served, saturate } from './zipf/traffic.js';

const IN_FLIGHT = 16;
const EXPONENTS = [1, 1.5] as const;
const LOAD_FACTOR = 0.6;

const { values: options } = parseArgs({
  options: {
    adapters: { type: 'string', default: '1000' },
    resident: { type: 'string', default: '64' },
    requests: { type: 'string', default: '160' },
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
console.error(`writing ${adapters} adapters`);
for (let i = 0; i < adapters; i += 1) {
  const adapter = { name: nameOf(i), rank: 4, seed: i + 1, targets: ['q_proj', 'v_proj'] };
  writeRandomAdapter(root, adapter, model.manifest.sites);
}
const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));

/** An engine with room for some of the adapters or all, and what it reports while a trace runs. */
class Room {
  /** Seconds that requests waited for adapters which were resident when they came. */
  needless: number[] = [];
  loads = 0;

  private constructor(
    readonly label: string,
    readonly engine: WorkerEngineClient,
  ) {
    engine.onTelemetry((fact) => {
      if (fact.kind === 'adapter-wait' && fact.tierAtArrival === 'host') this.needless.push(fact.seconds);
      if (fact.kind === 'adapter-load') this.loads += 1;
    });
  }

  static async open(label: string, adapterMemoryBytes: number): Promise<Room> {
    const engine = await WorkerEngineClient.start({
      start: {
        model,
        tokenCount: tokenizer.vocabSize(),
        adapterRoots: [root],
        threads,
        adapterMemoryBytes,
        kvMemoryBytes: 2 ** 27,
        prefixCache: false,
        speculation: false,
        launchAhead: false,
        maxPrefillRows: 512,
        maxModelLen: null,
        maxBatchTokens: 512,
        maxSequences: 64,
        maxQueue: 1_000,
      },
      log: (_level, event, text) => console.error(event, text),
    });
    return new Room(label, engine);
  }

  async load(adapter: number): Promise<number> {
    const name = nameOf(adapter);
    const source = { type: 'dir', location: join(root, name) } as const;
    const call = { op: 'load', name, source, pin: false, wait: true, replace: true } as const;
    return (await this.engine.admin<'load'>(call)).adapter.bytes;
  }
}

interface Tally {
  readonly served: Served[];
  needless: number[];
  loads: number;
}

/** Runs a trace against both, which comes first alternating. */
async function both(round: number, tallies: Map<Room, Tally>, run: (room: Room) => Promise<Served>): Promise<void> {
  const rooms = [...tallies.keys()];
  for (const room of round % 2 === 0 ? rooms : rooms.reverse()) {
    room.needless = [];
    room.loads = 0;
    const tally = tallies.get(room) as Tally;
    tally.served.push(await run(room));
    tally.needless.push(...room.needless);
    tally.loads += room.loads;
  }
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

function rate(served: readonly Served[]): number {
  const seconds = served.reduce((sum, run) => sum + run.seconds, 0);
  return served.reduce((sum, { answers }) => sum + answers.length, 0) / seconds;
}

function report(kind: string, exponent: number, tallies: Map<Room, Tally>): void {
  const [ofAll] = [...tallies.values()];
  for (const [{ label }, { served, needless, loads }] of tallies) {
    const answers = served.flatMap((run) => run.answers);
    const hits = answers.filter(({ hit }) => hit);
    const misses = answers.filter(({ hit }) => !hit);
    const halves = (values: number[]): string =>
      values.length === 0 ? '–' : `${quantile(values, 0.5).toFixed(0)} / ${quantile(values, 0.99).toFixed(0)}`;
    const cells = [
      kind,
      exponent,
      label,
      rate(served).toFixed(2),
      (rate(served) / rate(ofAll?.served ?? [])).toFixed(3),
      (hits.length / answers.length).toFixed(3),
      loads,
      halves(hits.map(({ queuedMs }) => queuedMs)),
      halves(misses.map(({ queuedMs }) => queuedMs)),
      (1_000 * Math.max(0, ...needless)).toFixed(1),
      halves(answers.map(({ wholeMs }) => wholeMs)),
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
}

const large = await Room.open('all', 2 ** 30);
console.error('loading all of them');
let bytes = 0;
const queue = Array.from({ length: adapters }, (_, adapter) => adapter);
const lane = async (): Promise<void> => {
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) bytes = await large.load(next);
};
await Promise.all([lane(), lane(), lane(), lane()]);
const small = await Room.open(`${resident}`, resident * bytes);
for (let adapter = resident - 1; adapter >= 0; adapter -= 1) await small.load(adapter);

console.log(`${adapters} adapters of ${bytes} bytes, room for ${resident} or for all; times in ms, p50 / p99`);
const columns = ['traffic', 'Zipf', 'room for', 'requests/s', '× all', 'hits', 'loads'];
columns.push('hits queued', 'misses queued', 'hits waited, longest', 'whole request');
console.log(`| ${columns.join(' | ')} |`);
console.log(`|${columns.map(() => '---').join('|')}|`);
for (const [nth, exponent] of EXPONENTS.entries()) {
  const tallies = (): Map<Room, Tally> =>
    new Map([large, small].map((room) => [room, { served: [], needless: [], loads: 0 }]));
  const full = tallies();
  for (let round = 0; round < rounds; round += 1) {
    console.error(`Zipf ${exponent}, 16 in flight, round ${round + 1} of ${rounds}`);
    const trace = drawTrace(requests, adapters, exponent, 1, 1_000 * nth + round);
    await both(round, full, (room) => saturate(room.engine, trace, nameOf, IN_FLIGHT));
  }
  report('16 in flight', exponent, full);
  const perSecond = LOAD_FACTOR * rate(full.get(large)?.served ?? []);
  const random = tallies();
  for (let round = 0; round < rounds; round += 1) {
    console.error(`Zipf ${exponent}, ${perSecond.toFixed(1)} arrivals a second, round ${round + 1} of ${rounds}`);
    const trace = drawTrace(requests, adapters, exponent, perSecond, 1_000 * nth + 500 + round);
    await both(round, random, (room) => replay(room.engine, trace, nameOf));
  }
  report(`${perSecond.toFixed(1)} a second`, exponent, random);
}
await Promise.all([large.engine.close(), small.engine.close()]);
