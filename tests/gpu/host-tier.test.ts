import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { elementBytes } from '../../src/core/model-manifest.js';
import { GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import type { Telemetry } from '../../src/core/telemetry.js';
import { deviceBlockBytes } from '../../src/engine/engine-sizing.js';
import type { WorkerStart } from '../../src/messages/worker-messages.js';
import { GPU, GPU_NAME, NO_GPU } from '../helpers/gpu.js';
import { LoopEngine } from '../helpers/loop-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const ADAPTERS = join(SYNTHETIC, 'adapters', BASE);
const NAMES = ['plain', 'dora', 'rslora', 'rank-17'] as const;
/** Of the longest sequence: adapters get the others. */
const SEQUENCE_PAGES = 4;
const PROMPT = [3, 1, 4, 1, 5, 9, 2, 6];

type Load = Extract<Telemetry, { kind: 'adapter-load' }>;

function loads({ facts }: LoopEngine): Load[] {
  return facts.filter((fact) => fact.kind === 'adapter-load');
}

/** Of a GPU's memory for KV blocks and adapters, and of the host's for copies. */
async function open(pages: number, adapterHostMemoryBytes: number): Promise<LoopEngine> {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32', 'cuda');
  const memoryBytes = pages * deviceBlockBytes(model.manifest.config, elementBytes(model.manifest));
  const start: WorkerStart = {
    model,
    tokenCount: SYNTHETIC_TOKENS,
    adapterRoots: [ADAPTERS],
    cuda: { ...GPU, name: GPU_NAME, capability: 80, graphs: true },
    threads: 1,
    adapterMemoryBytes: memoryBytes,
    adapterHostMemoryBytes,
    kvMemoryBytes: memoryBytes,
    maxModelLen: SEQUENCE_PAGES * 16,
    maxBatchTokens: 32,
    maxPrefillRows: 32,
    maxSequences: 4,
    maxQueue: 8,
    prefixCache: false,
    speculation: false,
    launchAhead: true,
  };
  return LoopEngine.open(start);
}

let nextId = 1;

async function answer(engine: LoopEngine, adapter: string): Promise<readonly number[]> {
  const id = nextId++;
  const promptIds = Uint32Array.from(PROMPT);
  engine.submit({ id, adapter, promptIds, maxNewTokens: 8, stopIds: [], sampling: GREEDY_SAMPLING, ...PLAIN_REQUEST });
  const { tokens, error } = await engine.outcome(id);
  assert.equal(error, null);
  return tokens;
}

test('adapters that left the GPU come back from the host and answer as before', { skip: NO_GPU }, async () => {
  const roomy = await open(1_000, 0);
  const wanted = new Map<string, readonly number[]>();
  for (const name of NAMES) wanted.set(name, await answer(roomy, name));
  assert.deepEqual(
    roomy.loop.state().tiers.map(({ tier }) => tier),
    ['device'],
  );
  const [all] = roomy.loop.state().tiers;
  assert.ok(all !== undefined && all.bytes > 0);
  const page = all.capacity / (1_000 - SEQUENCE_PAGES);
  const largest = Math.max(...loads(roomy).map(({ bytes }) => bytes));
  await roomy.stop();

  const narrow = await open(SEQUENCE_PAGES + largest / page, 2 ** 26);
  for (let round = 0; round < 3; round += 1)
    for (const name of NAMES) assert.deepEqual(await answer(narrow, name), wanted.get(name), `${name}, round ${round}`);
  const from = loads(narrow).map(({ fromHost, result }) => `${fromHost ? 'host' : 'files'} ${result}`);
  assert.deepEqual(from.slice(0, NAMES.length), Array(NAMES.length).fill('files ok'));
  assert.ok(from.length > 2 * NAMES.length, from.join());
  assert.deepEqual(new Set(from.slice(NAMES.length)), new Set(['host ok']));
  const [host, device] = narrow.loop.state().tiers;
  assert.deepEqual([host?.tier, device?.tier], ['host', 'device']);
  assert.equal(device?.capacity, largest);
  await narrow.stop();
});
