import { join } from 'node:path';
import { AdapterProver } from '../adapters/proof.js';
import { AdapterRegistry } from '../adapters/registry.js';
import { TextCache } from '../adapters/text/text-cache.js';
import type { EngineLimits } from '../core/engine-client.js';
import { elementBytes } from '../core/model-manifest.js';
import { PagePool } from '../core/page-pool.js';
import { GREEDY_ROW, type StepBatch } from '../core/step.js';
import type { Telemetry } from '../core/telemetry.js';
import { loadBinding } from '../engine/addon.js';
import type { NativeEngine } from '../engine/binding.js';
import { deviceBlockBytes, hostBlockBytes, sizeEngine as sizeBlocks, sizePages } from '../engine/engine-sizing.js';
import type { FromWorker, WorkerStart } from '../messages/worker-messages.js';
import { blocksFor } from '../scheduler/policy.js';
import { Scheduler } from '../scheduler/scheduler.js';
import { adapterBackend, hostTierBackend } from './adapter-backend.js';
import { EngineLoop, type EngineLoopDeps } from './engine-loop.js';
import { openSources } from './open-sources.js';
import { TextWorkerClient } from './text-client.js';

/** What checks of the engine may look at or put in its way. */
export interface EngineHooks {
  readonly onLogits?: EngineLoopDeps['onLogits'];
  /** Stands between the loop and the native engine. */
  readonly wrap?: (engine: NativeEngine) => NativeEngine;
}

/**
 * Opens an engine in this thread, proves that it generates, and starts its loop: the first message is `ready`. Errors:
 * ERR_CONFIG, and those of the native side.
 */
export async function openEngine(
  start: WorkerStart,
  post: (message: FromWorker) => void,
  { onLogits, wrap = (engine) => engine }: EngineHooks = {},
): Promise<EngineLoop> {
  const binding = loadBinding();
  const sizeEngine = start.cuda === undefined ? sizeBlocks : sizePages;
  const { manifest, directory } = start.model;
  const { cuda } = start;
  const { config } = manifest;
  const { adapterDtype = 'file', kvDtype = 'f32', adapterHostMemoryBytes: hostBytes = 0 } = start;
  const blockBytes =
    cuda === undefined ? hostBlockBytes(config, kvDtype) : deviceBlockBytes(config, elementBytes(manifest));
  const { kvBlocks, maxModelLen } = sizeEngine(config, blockBytes, start.kvMemoryBytes, start.maxModelLen);
  const { threads, maxSequences, maxBatchTokens, maxPrefillRows, maxQueue, prefixCache, speculation, tokenCount } =
    start;
  const native = await binding.Engine.open(JSON.stringify(manifest), {
    directory,
    threads,
    maxModelLen,
    maxSequences,
    maxBatchTokens,
    kvBlocks,
    tokenCount,
    adapterDtype,
    ...(cuda === undefined ? { kvDtype } : { cuda: { device: cuda.device, graphs: cuda.graphs, hostBytes } }),
  });
  await warmUp(native);
  const engine = wrap(native);

  const now = (): number => performance.timeOrigin + performance.now();
  const limits = {
    maxSequences,
    maxBatchTokens,
    maxPrefillRows,
    maxQueue,
    kvBlocks,
    blockSize: engine.blockSize,
    maxModelLen,
    vocabSize: manifest.config.vocabSize,
    prefixCache,
    speculation,
  };
  const pool = new PagePool(kvBlocks);
  const scheduler = new Scheduler(limits, pool);
  // Adapters never take what the longest request needs.
  const shared = {
    capacityBytes: (kvBlocks - blocksFor(maxModelLen, engine.blockSize)) * blockBytes,
    device: {
      pages: { pool, pageBytes: blockBytes },
      host: hostBytes === 0 ? null : { backend: hostTierBackend(engine), capacityBytes: hostBytes },
    },
  };
  const probe = (promptIds: Uint32Array, handle: number | null): Promise<Float32Array> => loop.probe(promptIds, handle);
  const texts = new TextWorkerClient({
    tokenizerPath: join(directory, manifest.tokenizer.file),
    template: manifest.chatTemplate,
    specialTokens: manifest.specialTokens,
    eosTokenIds: manifest.eosTokenIds,
    vocabSize: manifest.config.vocabSize,
    tokenCount,
  });
  // What the disk tier drops to fit when it opens comes before there is a loop to tell it to.
  const early: Telemetry[] = [];
  let report = (fact: Telemetry): void => void early.push(fact);
  const emit = (fact: Telemetry): void => report(fact);
  const registry = new AdapterRegistry({
    backend: adapterBackend(binding, engine),
    base: { ...manifest, adapterDtype },
    roots: start.adapterRoots,
    sources: start.sources === undefined ? null : await openSources(start.sources, emit),
    ...(cuda === undefined ? { capacityBytes: start.adapterMemoryBytes } : shared),
    ...(start.maxAdapterBytes === undefined ? {} : { maxFileBytes: start.maxAdapterBytes }),
    prover: new AdapterProver({ run: probe, tokenCount, maxModelLen }),
    texts: new TextCache(texts),
    emit,
    warn: (name, warning) =>
      post({ type: 'log', level: 'warn', event: 'adapter.warning', text: `${name}: ${warning}` }),
    now,
  });
  // The registry calls the loop and the loop the registry: neither does before both are there.
  const loop: EngineLoop = new EngineLoop({
    engine,
    scheduler,
    registry,
    post,
    now,
    onLogits,
    launchAhead: start.launchAhead,
  });
  report = (fact) => loop.report(fact);
  for (const fact of early) report(fact);
  const engineLimits: EngineLimits = {
    modelId: manifest.modelId,
    precision: manifest.precision,
    precisionReason: start.model.precisionReason,
    device: cuda === undefined ? `cpu (${binding.instructionSet()})` : `cuda (${cuda.name}, sm_${cuda.capability})`,
    vocabSize: manifest.config.vocabSize,
    maxModelLen,
    maxSequences,
    maxBatchTokens,
    maxQueue,
    eosTokenIds: manifest.eosTokenIds,
    chatTemplate: manifest.chatTemplate,
    specialTokens: manifest.specialTokens,
  };
  post({ type: 'ready', limits: engineLimits, state: loop.state() });
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
    sampling: [GREEDY_ROW],
    scoredTokens: Int32Array.of(-1),
    scoredTops: Int32Array.of(0),
    returnLogits: new Int32Array(0),
  };
  await engine.step(batch);
}
