import type { AdapterInfo, TierInfo } from '../core/adapter.js';
import { isAdapterName } from '../core/names.js';

/** Names in one list at most. */
const MAX_NAMES = 128;

/** Labels of `vllm:lora_requests_info`. */
export interface LoraRequests {
  readonly max_lora: string;
  /** Joined by commas, most recently used first. */
  readonly running_lora_adapters: string;
  readonly waiting_lora_adapters: string;
}

/**
 * What a gateway is told about adapters: running = resident, waiting = being loaded, max = both and how many more of
 * the median size would fit into what is free or may be evicted. So a server looks full only when nothing can go.
 */
export function loraRequests(adapters: readonly AdapterInfo[], tiers: readonly TierInfo[]): LoraRequests {
  const memory = tiers.find(({ tier }) => tier === 'device') ?? tiers.find(({ tier }) => tier === 'host');
  const recent = [...adapters].sort((a, b) => (b.lastUsedAt ?? '').localeCompare(a.lastUsedAt ?? ''));
  const running = recent.filter(({ tier, state }) => tier === memory?.tier && state === 'ready');
  const waiting = recent.filter(({ state }) => state === 'queued' || state === 'fetching' || state === 'validating');
  const sizes = running.map(({ bytes }) => bytes).sort((a, b) => a - b);
  const median = sizes[Math.floor(sizes.length / 2)] ?? 0;
  const room = memory === undefined ? 0 : memory.capacity - memory.pinned;
  const more = median === 0 ? MAX_NAMES : Math.max(0, Math.floor(room / median));
  return {
    max_lora: String(running.length + waiting.length + more),
    running_lora_adapters: namesOf(running),
    waiting_lora_adapters: namesOf(waiting),
  };
}

/** Names that no caller could ask for are left out, as are those beyond the limit. */
function namesOf(adapters: readonly AdapterInfo[]): string {
  const names = adapters.map(({ name }) => name).filter(isAdapterName);
  return names.slice(0, MAX_NAMES).join(',');
}
