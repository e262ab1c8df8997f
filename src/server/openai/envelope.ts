import { createHash } from 'node:crypto';
import type { EngineLimits } from '../../core/engine-client.js';
import type { FinishReason, ServedBy } from '../../core/request.js';
import type { GenerationResult } from '../../generation/spec.js';
import { durationsOf } from '../lorax/headers.js';

/** What every reply object and chunk begins with. */
export interface Envelope {
  readonly id: string;
  readonly object: string;
  /** Seconds since the epoch. */
  readonly created: number;
  readonly model: string;
  /** Known once it is known who answers. */
  readonly system_fingerprint?: string;
}

export function envelopeOf(id: string, object: string, model: string): Envelope {
  return { id, object, created: Math.floor(Date.now() / 1_000), model };
}

/** Changes when the same request may get other tokens: with the base, its precision, the kernels, the adapter, the build. */
export function fingerprintOf(limits: EngineLimits, version: string, { digest }: ServedBy): string {
  const facts = [limits.modelId, limits.precision, limits.device, version, digest ?? ''];
  return `fp_${createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 12)}`;
}

/** The envelope of a stream's chunks: `fingerprint` is asked until it is known. */
export function chunkEnvelope(envelope: Envelope, fingerprint: () => string | null): () => Envelope {
  let complete: Envelope | null = null;
  return () => {
    if (complete !== null) return complete;
    const known = fingerprint();
    if (known !== null) complete = { ...envelope, system_fingerprint: known };
    return complete ?? envelope;
  };
}

const FINISH_REASONS = { eos_token: 'stop', stop_sequence: 'stop', length: 'length' } as const;

/** Why a generation ended, in OpenAI's words. */
export function finishReason(reason: FinishReason): 'stop' | 'length' {
  return FINISH_REASONS[reason];
}

/** The `loramux` object of a reply, for requests with the header `x-loramux-details: 1`. Times in milliseconds. */
export function detailsOf(result: GenerationResult): Readonly<Record<string, unknown>> {
  const { adapter, digest, tierAtArrival } = result.servedBy;
  const { queue, timeToFirstToken } = durationsOf(result);
  return { adapter, digest, tier: tierAtArrival, queue_ms: rounded(queue), ttft_ms: rounded(timeToFirstToken) };
}

function rounded(milliseconds: number): number {
  return Math.round(milliseconds * 100) / 100;
}
