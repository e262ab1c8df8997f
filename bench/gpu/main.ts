/**
 * What the engine does on an NVIDIA GPU, over random weights of real shapes that are made on the spot:
 *
 *   npm run bench:gpu [-- --shape llama-2-7b,llama-3.1-8b --precision w4 --batch 32 --context 512 --steps 64 --rounds 3 --keep]
 *
 * `--device cpu --shape tiny` tries the benchmark itself without a GPU. Every figure is a median over rounds in which the
 * mixes took turns. Disk: twice a model's weights while it is converted (27 GB for 7 billion).
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { device as parseDevice } from '../../src/config/values.js';
import type { Precision } from '../../src/core/model-manifest.js';
import { type StartedDevice, startDevice } from '../../src/device-start.js';
import { loadBinding, packageRoot } from '../../src/engine/addon.js';
import { prepareModel } from '../../src/model/prepare-model.js';
import { commit } from '../machine.js';
import { writeRandomAdapter } from '../random-adapter.js';
import { writeRandomModel } from './random-model.js';
import { type DeviceRecord, Recorder } from './records.js';
import { SHAPES } from './shapes.js';
import { measureStalls } from './stalls.js';
import { measureThroughput } from './throughput.js';

const { values: options } = parseArgs({
  options: {
    shape: { type: 'string', default: 'llama-2-7b,llama-3.1-8b' },
    precision: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    batch: { type: 'string', default: '32' },
    context: { type: 'string', default: '512' },
    steps: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(cpus().length) },
    out: { type: 'string', default: 'gpu.jsonl' },
    keep: { type: 'boolean', default: false },
  },
});
const out = resolve(options.out);
const [batch, context, steps, rounds, threads] = [
  Number(options.batch),
  Number(options.context),
  Number(options.steps),
  Number(options.rounds),
  Number(options.threads),
];

const device = startDevice(
  {
    device: parseDevice(options.device, '--device'),
    deviceFallback: 'refuse',
    cudaRuntime: null,
    cudaGraphs: true,
    adapterDtype: 'file',
    kvDtype: null,
    adapterHostMemoryBytes: null,
  },
  (text) => console.error(text),
);
const binding = loadBinding();
const facts = describe(device);
appendFileSync(out, `${JSON.stringify(facts)}\n`);
if (!facts.isGpu) console.log(`${facts.device}: this tries the benchmark, its figures say nothing about a GPU`);
for (const shape of options.shape.split(',')) await measureShape(shape);

async function measureShape(name: string): Promise<void> {
  const shape = SHAPES[name];
  if (shape === undefined) throw new RangeError(`--shape: expected ${Object.keys(SHAPES).join(', ')}, got ${name}`);
  const cacheDir = join(packageRoot(), '.cache');
  const source = join(cacheDir, 'bench-gpu', name);
  if (!existsSync(join(source, 'model.safetensors'))) {
    console.log(`writing random weights: ${name}`);
    writeRandomModel(source, shape);
  }
  const model = await prepareModel({
    model: source,
    precision: (options.precision as Precision | undefined) ?? device.precision({ precision: null }),
    device: device.kind,
    cacheDir,
    checksumFile: (path) => binding.crc32File(path),
    onProgress: () => undefined,
    memoryBytes: totalmem(),
  });
  if (!options.keep) rmSync(source, { recursive: true });
  const adapterRoot = join(cacheDir, 'bench-gpu', `${name}-adapters`);
  mkdirSync(adapterRoot, { recursive: true });
  for (let i = 0; i < batch; i += 1)
    writeRandomAdapter(adapterRoot, { name: `rank16-${i}`, rank: 16, seed: i + 1 }, model.manifest.sites);

  const bareRoot = join(cacheDir, 'bench-gpu', `${name}-bare`);
  const recorder = new Recorder(out, name, model.manifest.precision);
  const { cuda } = device.start;
  const session = { ...(cuda === undefined ? {} : { cuda: { device: cuda.device } }), maxBatchTokens: batch * context };
  const sizes = { batch, context, steps, rounds, threads, adapterRoot, bareRoot };
  await measureThroughput(model, recorder, { ...sizes, device: session, memoryBandwidth: facts.memoryBandwidth });
  const tokenCount = shape.vocab_size;
  await measureStalls(model, recorder, { tokens: 400, rounds, threads, cuda, adapterRoot, tokenCount });
  if (options.keep) return;
  for (const path of [model.directory, bareRoot, adapterRoot]) rmSync(path, { recursive: true, force: true });
}

function describe({ kind, start }: StartedDevice): DeviceRecord {
  const gpu = kind === 'cuda' ? binding.cudaDevices?.()[start.cuda?.device ?? 0] : undefined;
  return {
    kind: 'device',
    date: new Date().toISOString(),
    commit: commit(),
    isGpu: gpu !== undefined && !gpu.emulated,
    device: gpu?.name ?? `cpu (${binding.instructionSet()})`,
    capability: gpu?.capability ?? null,
    totalBytes: gpu?.totalBytes ?? null,
    driver: gpu?.driver ?? null,
    node: process.versions.node,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    memoryBandwidth: measuredBandwidth(),
  };
}

/** What the kernels' bench `memory` wrote into the same file before. */
function measuredBandwidth(): number | null {
  if (!existsSync(out)) return null;
  for (const line of readFileSync(out, 'utf8')
    .split('\n')
    .filter((text) => text !== '')) {
    const record = JSON.parse(line) as { readonly bench?: string; readonly bytes_per_second?: number };
    if (record.bench === 'memory') return record.bytes_per_second ?? null;
  }
  return null;
}
