import type { AdapterInfo, TierInfo } from '../../core/adapter.js';
import type { ErrorRecord } from '../../core/errors.js';

/** An adapter as the messages of AdapterAdmin show it. */
export function adapterMessage(adapter: AdapterInfo): object {
  const { ranks, proof, failure, pins } = adapter;
  return {
    name: adapter.name,
    digest: adapter.digest ?? '',
    state: adapter.state,
    tier: adapter.tier,
    bytes: String(adapter.bytes),
    rankMin: ranks?.min ?? 0,
    rankMax: ranks?.max ?? 0,
    modules: adapter.modules?.applied ?? 0,
    baseModel: adapter.baseModel ?? '',
    source: adapter.source,
    aliases: adapter.aliases,
    variant: adapter.variant,
    pins: pins.rows,
    pinned: pins.operator,
    requests: String(adapter.requests),
    ...(adapter.loadedAt === null ? {} : { loadedAt: timestamp(adapter.loadedAt) }),
    ...(adapter.lastUsedAt === null ? {} : { lastUsedAt: timestamp(adapter.lastUsedAt) }),
    ...(failure === null ? {} : { failure: failureMessage(failure) }),
    ...(proof === null ? {} : { maxLogitDelta: proof.maxLogitDelta }),
  };
}

export function tierMessage({ tier, bytes, capacity, pinned }: TierInfo): object {
  return { tier, bytes: String(bytes), capacity: String(capacity), pinned: String(pinned) };
}

function failureMessage({ code, message, details }: ErrorRecord): object {
  return { code, message, offenders: details?.offenders ?? [] };
}

/** google.protobuf.Timestamp of an ISO 8601 date. */
function timestamp(iso: string): object {
  const milliseconds = Date.parse(iso);
  return { seconds: Math.floor(milliseconds / 1_000), nanos: (milliseconds % 1_000) * 1_000_000 };
}
