import type { AdapterTier } from '../core/adapter.js';
import type { ErrorCode } from '../core/errors.js';
import type { GenerationSummary } from '../generation/observer.js';
import type { Instruments } from './families.js';

const REJECTIONS: Partial<Record<ErrorCode, string>> = {
  ERR_QUEUE_FULL: 'queue_full',
  ERR_DRAINING: 'draining',
  ERR_PROMPT_TOO_LONG: 'context',
  ERR_DEADLINE: 'deadline',
};

/** Counts a request that was refused before it ran; other codes are failures, not refusals. */
export function recordRejection(of: Instruments, code: ErrorCode): void {
  const reason = REJECTIONS[code];
  if (reason !== undefined) of.rejections.inc({ reason });
}

function phaseOf({ times }: GenerationSummary): string {
  if (times.admittedMs === null) return 'queue';
  return times.firstTokenMs === null ? 'prefill' : 'decode';
}

/** The contract's word for where a request found its adapter. */
function startOf(tier: AdapterTier | null, hasDevice: boolean): 'warm' | 'host' | 'cold' {
  if (tier === 'disk') return 'cold';
  return tier === 'host' && hasDevice ? 'host' : 'warm';
}

/** Measures one generation that ended. `hasDevice`: the host holds copies only, adapters are resident on a device. */
export function recordGeneration(of: Instruments, summary: GenerationSummary, hasDevice: boolean): void {
  const { route, servedBy, code, promptTokens, generatedTokens, speculatedTokens, maxNewTokens, times } = summary;
  if (code !== null && times.admittedMs === null) recordRejection(of, code);
  if (summary.slowConsumer) of.slowConsumers.inc({ transport: 'sse' });
  else if (code === 'ERR_ABORTED') of.disconnects.inc({ phase: phaseOf(summary) });
  of.tokens.inc({ kind: 'prompt' }, times.firstTokenMs === null ? 0 : promptTokens);
  of.tokens.inc({ kind: 'cached' }, times.firstTokenMs === null ? 0 : summary.cachedTokens);
  of.tokens.inc({ kind: 'generated' }, generatedTokens);
  of.loraxValidation.observe((times.submittedMs - times.receivedMs) / 1_000);
  of.loraxInputLength.observe(promptTokens);
  of.loraxMaxNewTokens.observe(maxNewTokens);
  if (times.admittedMs === null) return;
  const queueSeconds = (times.admittedMs - times.submittedMs) / 1_000;
  of.queueSeconds.observe({ route }, queueSeconds);
  of.loraxQueue.observe(queueSeconds);
  if (times.firstTokenMs === null) return;
  const start = startOf(servedBy?.tierAtArrival ?? null, hasDevice);
  of.firstTokenSeconds.observe({ route, start }, (times.firstTokenMs - times.receivedMs) / 1_000);
  if (code !== null) return;
  const inferenceSeconds = (times.endedMs - times.admittedMs) / 1_000;
  of.loraxInference.observe(inferenceSeconds);
  of.loraxTimePerToken.observe(inferenceSeconds / generatedTokens);
  of.loraxGeneratedTokens.observe(generatedTokens);
  of.loraxSkippedTokens.observe(speculatedTokens);
}
