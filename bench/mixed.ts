/**
 * Decode speed of base-only, one-adapter and all-distinct batches, interleaved with PEFT in the same run.
 *
 *   npm run bench [-- --rounds 5 --steps 16 --threads 2 --rank 16 --precision f32 --no-peer]
 *
 * Each adapter is rank 16 on all linear modules with weights of its own for every module, so nothing stays in cache by
 * accident. What is timed is whole decode steps: plan, native run, sampling, commit. Quoted are medians over all steps.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { BASE_NAME } from '../src/core/names.js';
import { loadBinding, packageRoot } from '../src/engine/binding.js';
import { prepareModel } from '../src/model/prepare-model.js';
import { DecodeSession } from './decode-session.js';
import { PeerProcess } from './peer-process.js';
import { writeRandomAdapter } from './random-adapter.js';

const BATCHES = [1, 4, 16];
const SCENARIOS = ['base', 'one', 'distinct'] as const;
type Scenario = (typeof SCENARIOS)[number];

interface Cell {
  readonly scenario: Scenario;
  readonly batch: number;
  /** Tokens per second of each timed step / of each of the peer's rounds. */
  readonly ours: number[];
  readonly peer: number[];
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

function adaptersOf(scenario: Scenario, batch: number, names: readonly string[]): string[] {
  const rows = Array.from({ length: batch }, (_, row) => row);
  if (scenario === 'base') return rows.map(() => BASE_NAME);
  return rows.map((row) => (scenario === 'one' ? names[0] : names[row]) ?? BASE_NAME);
}

function machineFacts(isa: string, threads: number): Record<string, unknown> {
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: packageRoot(), encoding: 'utf8' }).trim();
  return {
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    isa,
    threads,
    node: process.version,
    commit: git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+changes'),
  };
}

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    steps: { type: 'string', default: '16' },
    threads: { type: 'string', default: String(cpus().length) },
    rank: { type: 'string', default: '16' },
    precision: { type: 'string', default: 'f32' },
    peer: { type: 'string', default: '' },
    'no-peer': { type: 'boolean', default: false },
  },
});
const [rounds, steps, threads, rank] = [options.rounds, options.steps, options.threads, options.rank].map(Number) as [
  number,
  number,
  number,
  number,
];
const precision = options.precision as 'f32' | 'w8' | 'w4';

const binding = loadBinding();
const cacheDir = join(packageRoot(), '.cache');
const model = await prepareModel({
  model: 'demo',
  precision,
  cacheDir,
  checksumFile: (path) => binding.crc32File(path),
  onProgress: () => undefined,
  memoryBytes: totalmem(),
});
const adapterRoot = join(cacheDir, 'bench-adapters');
const names = Array.from({ length: Math.max(...BATCHES) }, (_, i) => `rank${rank}-${i}`);
for (const [i, name] of names.entries()) {
  writeRandomAdapter(adapterRoot, { name, rank, seed: i + 1 }, model.manifest.sites);
}

let peer: PeerProcess | null = null;
if (!options['no-peer']) {
  const downloads = join(cacheDir, 'downloads');
  const gguf = readdirSync(downloads, { recursive: true, encoding: 'utf8' }).find((name) => name.endsWith('.gguf'));
  if (gguf === undefined) throw new Error(`expected the demo's .gguf below ${downloads}: start the demo once`);
  const script = join(packageRoot(), 'bench', 'peers', 'peft_mixed.py');
  const args = [script, join(downloads, gguf), '--serve', '--threads', String(threads), '--rank', String(rank)];
  peer = await PeerProcess.start(options.peer, args);
}
const session = await DecodeSession.open(model, adapterRoot, threads);

const cells: Cell[] = BATCHES.flatMap((batch) =>
  SCENARIOS.map((scenario) => ({ scenario, batch, ours: [], peer: [] })),
);
for (let round = 0; round < rounds; round += 1) {
  console.error(`round ${round + 1} of ${rounds}`);
  for (const cell of cells) {
    const times = await session.decode(adaptersOf(cell.scenario, cell.batch, names), steps);
    cell.ours.push(...times.map((seconds) => cell.batch / seconds));
    if (peer !== null) {
      const { tokensPerSecond } = await peer.measure(cell.scenario, cell.batch, Math.max(3, steps >> 2));
      cell.peer.push(tokensPerSecond);
    }
  }
}
await session.close();
await peer?.close();

const facts = machineFacts(binding.instructionSet(), threads);
const results = join(packageRoot(), 'bench', 'results');
mkdirSync(results, { recursive: true });
const lines: string[] = [];
console.log(
  `${facts.cpu}, ${facts.cores} cores, ${facts.isa}; ${precision} base, rank ${rank}, ${rounds} rounds of ${steps} steps`,
);
console.log('| batch | scenario | loramux tok/s | × base | PEFT tok/s | × PEFT |\n|---|---|---|---|---|---|');
for (const { scenario, batch, ours, peer: theirs } of cells) {
  const base = cells.find((cell) => cell.batch === batch && cell.scenario === 'base');
  const [speed, reference] = [median(ours), median(base?.ours ?? [])];
  const peerSpeed = theirs.length > 0 ? median(theirs) : null;
  const against = peerSpeed === null ? ['–', '–'] : [peerSpeed.toFixed(1), (speed / peerSpeed).toFixed(1)];
  console.log(
    `| ${batch} | ${scenario} | ${speed.toFixed(1)} | ${(speed / reference).toFixed(3)} | ${against.join(' | ')} |`,
  );
  const record = {
    scenario,
    batch,
    rank,
    precision,
    tokensPerSecond: speed,
    ofBase: speed / reference,
    peft: peerSpeed,
  };
  lines.push(JSON.stringify({ ...record, ...facts }));
}
const file = join(results, `mixed-${Date.now()}.jsonl`);
writeFileSync(file, `${lines.join('\n')}\n`);
console.log(`written to ${file}`);
