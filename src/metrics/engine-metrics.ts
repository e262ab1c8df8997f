import type { Telemetry } from '../core/telemetry.js';
import type { Instruments } from './families.js';

const DISK = 'disk';

const LOAD_RESULTS: Readonly<Record<string, string>> = {
  ERR_ADAPTER_NOT_FOUND: 'not_found',
  ERR_ADAPTER_FORBIDDEN: 'auth',
  ERR_ADAPTER_INVALID: 'invalid',
  ERR_ADAPTER_TOO_LARGE: 'too_large',
  ERR_ADAPTER_NO_SPACE: 'too_large',
  ERR_ADAPTER_SOURCE_TIMEOUT: 'timeout',
  ERR_ABORTED: 'cancelled',
};

/** The contract's word for how a load or fetch ended; null = well. */
function resultOf(code: string | null): string {
  return code === null ? 'ok' : (LOAD_RESULTS[code] ?? 'io');
}

type Step = Extract<Telemetry, { kind: 'step' }>;

function phaseOf({ prefillRows, decodeRows }: Step): string {
  if (prefillRows === 0) return 'decode';
  return decodeRows === 0 ? 'prefill' : 'mixed';
}

/** LoRAX's word for a step. */
function methodOf({ prefillRows }: Pick<Step, 'prefillRows'>): string {
  return prefillRows > 0 ? 'prefill' : 'decode';
}

function recordStep(of: Instruments, step: Step): void {
  const phase = phaseOf(step);
  of.steps.inc({ phase, path: step.loraRows > 0 ? 'lora' : 'base', base_rows: step.baseRows > 0 ? 'yes' : 'no' });
  of.stepSeconds.observe({ phase }, step.stepSeconds);
  if (step.maskSeconds !== null) of.maskSeconds.observe(step.maskSeconds);
  const method = methodOf(step);
  if (step.admitted > 0) of.loraxBatchNextSize.observe(step.admitted);
  of.loraxBatchCount.inc({ method });
  of.loraxBatchSuccess.inc({ method });
  of.loraxBatchDuration.observe({ method }, step.stepSeconds);
  of.stepRows.observe(step.prefillRows + step.decodeRows);
  of.stepSegments.observe(step.segments);
  of.stepDistinctAdapters.observe(step.distinctAdapters);
  of.prefixCacheTokens.inc({ result: 'hit' }, step.cachedTokens);
  of.prefixCacheTokens.inc({ result: 'miss' }, step.lookedUpTokens - step.cachedTokens);
  of.draftTokens.inc({ result: 'accepted' }, step.acceptedTokens);
  of.draftTokens.inc({ result: 'rejected' }, step.draftedTokens - step.acceptedTokens);
  of.loraRows.inc(step.loraRows);
  of.baseRows.inc(step.baseRows);
}

/** Counts one fact that the engine worker reported. */
export function recordTelemetry(of: Instruments, fact: Telemetry): void {
  switch (fact.kind) {
    case 'step':
      recordStep(of, fact);
      return;
    case 'step-failed':
      of.loraxBatchCount.inc({ method: methodOf(fact) });
      of.loraxBatchFailure.inc({ method: methodOf(fact) });
      return;
    case 'adapter-load': {
      of.adapterLoads.inc({ source: fact.source, result: resultOf(fact.code) });
      of.adapterLoadSeconds.observe({ phase: 'total', source: fact.source }, fact.seconds);
      if (fact.fromHost) of.adapterLoadSeconds.observe({ phase: 'device', source: fact.source }, fact.seconds);
      return;
    }
    case 'adapter-evict':
      of.adapterEvictions.inc({ tier: fact.tier, reason: fact.reason });
      return;
    case 'adapter-lookup':
      of.adapterCacheRequests.inc({ tier: fact.tier, result: fact.result });
      return;
    case 'adapter-wait':
      of.adapterWaitSeconds.observe({ tier: fact.tierAtArrival }, fact.seconds);
      return;
    case 'adapter-fetch': {
      const { source, code, seconds, bytes } = fact;
      of.adapterFetches.inc({ source, result: resultOf(code) });
      of.adapterFetchBytes.inc({ source }, bytes);
      of.adapterLoadSeconds.observe({ phase: 'fetch', source }, seconds);
      return;
    }
    case 'disk-lookup':
      of.adapterCacheRequests.inc({ tier: DISK, result: fact.result });
      return;
    case 'disk-evict':
      of.adapterEvictions.inc({ tier: DISK, reason: fact.reason });
      return;
    case 'preemption':
      of.preemptions.inc();
      return;
  }
}
