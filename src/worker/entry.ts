import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { AdapterRegistry } from '../adapters/registry.js';
import type { EngineLimits } from '../core/engine-client.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { StepBatch } from '../core/step.js';
import { loadBinding, type NativeEngine } from '../engine/binding.js';
import { sizeEngine } from '../engine/engine-sizing.js';
import type { FromWorker, ToWorker, WorkerStart } from '../messages/worker-messages.js';
import { Scheduler } from '../scheduler/scheduler.js';
import { EngineLoop } from './engine-loop.js';

/** The engine worker: opens the engine, proves that it generates, then runs the loop until told to stop. */
async function main(port: MessagePort, start: WorkerStart): Promise<void> {
  const post = (message: FromWorker): void => port.postMessage(message);
  try {
    const loop = await open(start, post);
    port.on('message', (message: ToWorker) => loop.handle(message));
  } catch (error) {
    post({ type: 'fatal', error: toLoramuxError(error).toRecord() });
  }
}

async function open(start: WorkerStart, post: (message: FromWorker) => void): Promise<EngineLoop> {
  const binding = loadBinding();
  const { manifest, directory } = start.model;
  const { kvBlocks, maxModelLen } = sizeEngine(manifest.config, start.kvMemoryBytes, start.maxModelLen);
  const { threads, maxSequences, maxBatchTokens, maxQueue, tokenCount } = start;
  const engine = await binding.Engine.open(JSON.stringify(manifest), {
    directory,
    threads,
    maxModelLen,
    maxSequences,
    maxBatchTokens,
    kvBlocks,
    tokenCount,
  });
  await warmUp(engine);

  const now = (): number => performance.timeOrigin + performance.now();
  const scheduler = new Scheduler({
    maxSequences,
    maxBatchTokens,
    maxQueue,
    kvBlocks,
    blockSize: engine.blockSize,
    maxModelLen,
  });
  // Facts of the registry go through the loop, which needs the registry: the first is bound before any can come.
  let loop: EngineLoop | null = null;
  const registry = new AdapterRegistry({
    backend: {
      openAdapterFile: (path, maxBytes) => binding.openAdapterFile(path, maxBytes),
      firstMatches: (patterns, names) => binding.firstMatches(patterns, names),
      compileAdapter: (file, modules, extras) => engine.compileAdapter(file, modules, extras),
      releaseAdapter: (handle) => engine.releaseAdapter(handle),
    },
    base: manifest,
    roots: start.adapterRoots,
    capacityBytes: start.adapterMemoryBytes,
    emit: (fact) => loop?.report(fact),
    warn: (name, warning) =>
      post({ type: 'log', level: 'warn', event: 'adapter.warning', text: `${name}: ${warning}` }),
    now,
  });
  loop = new EngineLoop({ engine, scheduler, registry, post, now });
  const limits: EngineLimits = {
    modelId: manifest.modelId,
    precision: manifest.precision,
    device: `cpu (${binding.instructionSet()})`,
    vocabSize: manifest.config.vocabSize,
    maxModelLen,
    maxSequences,
    maxBatchTokens,
    maxQueue,
    eosTokenIds: manifest.eosTokenIds,
    chatTemplate: manifest.chatTemplate,
  };
  post({ type: 'ready', limits, state: loop.state() });
  return loop;
}

/** One token through the whole graph: after this the engine is known to work, and its first pages are mapped. */
async function warmUp(engine: NativeEngine): Promise<void> {
  const one = Int32Array.of(0, 1);
  const batch: StepBatch = {
    tokens: Int32Array.of(0),
    cuSeqlens: one,
    contextLens: Int32Array.of(1),
    blockTables: Int32Array.of(0),
    maxBlocks: 1,
    slotMapping: Int32Array.of(0),
    segmentIndptr: one,
    segmentAdapters: Int32Array.of(-1),
    adapterTable: [],
    logitsRows: Int32Array.of(0),
    sampling: [
      {
        greedy: true,
        temperature: 1,
        topK: 0,
        topP: 1,
        repetitionPenalty: 1,
        seed: 0n,
        choice: 0,
        position: 1,
        logprob: false,
        slot: -1,
        history: new Uint32Array(0),
      },
    ],
    returnLogits: false,
  };
  await engine.step(batch);
}

if (parentPort === null) throw new LoramuxError('ERR_NATIVE', 'expected to be started as a worker thread');
await main(parentPort, workerData as WorkerStart);
