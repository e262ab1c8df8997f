import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import type { AdapterInfo } from '../core/adapter.js';
import type { EngineState } from '../core/adapter-admin.js';
import type { Instruments } from './families.js';

/** Sets what the engine's latest state says. */
export function recordState(of: Instruments, state: EngineState): void {
  of.requestsRunning.set(state.running);
  of.requestsWaiting.set({ reason: 'queue' }, state.waiting - state.waitingForAdapter);
  of.requestsWaiting.set({ reason: 'adapter' }, state.waitingForAdapter);
  of.engineHeartbeat.set(state.running === 0 ? 0 : (state.lastStepAgeMs ?? 0) / 1_000);
  of.loraxQueueLength.set(state.waiting);
  of.loraxBatchSize.set(state.running);
  const { total, used, cached, adapters } = state.kvBlocks;
  of.kvUsage.set(total === 0 ? 0 : used / total);
  of.loraxBatchTokens.set(used * state.kvBlocks.blockSize);
  of.kvBlocks.set({ state: 'used' }, used);
  of.kvBlocks.set({ state: 'cached' }, cached);
  of.kvBlocks.set({ state: 'adapters' }, adapters);
  of.kvBlocks.set({ state: 'free' }, total - used - cached - adapters);
  for (const { tier, bytes, capacity } of state.tiers) {
    of.adapterBytes.set({ tier }, bytes);
    of.adapterBytesLimit.set({ tier }, capacity);
  }
}

/** The contract's words for an adapter's state. */
function stateLabel({ state }: AdapterInfo): string {
  return state === 'queued' || state === 'fetching' || state === 'validating' ? 'loading' : state;
}

/** Sets how many adapters there are in each tier and state, and how many rows hold one. */
export function recordAdapters(of: Instruments, adapters: readonly AdapterInfo[]): void {
  of.adapters.reset();
  for (const adapter of adapters) of.adapters.inc({ tier: adapter.tier, state: stateLabel(adapter) });
  of.adapterPins.set(adapters.reduce((total, { pins }) => total + pins.rows, 0));
}

/** How often the main thread's delay is sampled. */
const SAMPLE_MS = 10;

/** Watches the main thread and the process's memory. */
export class ProcessGauges {
  readonly #delay = monitorEventLoopDelay({ resolution: SAMPLE_MS });
  #utilization = performance.eventLoopUtilization();

  start(): void {
    this.#delay.enable();
  }

  stop(): void {
    this.#delay.disable();
  }

  /** Sets the gauges; delays and utilization cover the time since the last call. */
  record(of: Instruments): void {
    // Node records the time between two samples: what is beyond the interval is the delay.
    const seconds = (nanoseconds: number): number =>
      Number.isFinite(nanoseconds) ? Math.max(0, nanoseconds / 1e9 - SAMPLE_MS / 1e3) : 0;
    of.eventLoopDelay.set({ stat: 'mean' }, seconds(this.#delay.mean));
    of.eventLoopDelay.set({ stat: 'p50' }, seconds(this.#delay.percentile(50)));
    of.eventLoopDelay.set({ stat: 'p99' }, seconds(this.#delay.percentile(99)));
    of.eventLoopDelay.set({ stat: 'max' }, seconds(this.#delay.max));
    this.#delay.reset();
    const now = performance.eventLoopUtilization();
    of.eventLoopUtilization.set(performance.eventLoopUtilization(now, this.#utilization).utilization);
    this.#utilization = now;
    const { rss, heapUsed, external } = process.memoryUsage();
    of.processMemory.set({ kind: 'resident' }, rss);
    of.processMemory.set({ kind: 'heap' }, heapUsed);
    of.processMemory.set({ kind: 'external' }, external);
  }
}
