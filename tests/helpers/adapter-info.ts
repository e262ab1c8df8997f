import type { AdapterInfo } from '../../src/core/adapter.js';

/** A loaded adapter as the engine describes it. */
export function adapterInfo(name: string, changes: Partial<AdapterInfo> = {}): AdapterInfo {
  return {
    name,
    aliases: [],
    digest: 'd'.repeat(64),
    state: 'ready',
    tier: 'host',
    bytes: 100,
    ranks: { min: 8, max: 8 },
    variant: ['lora'],
    modules: { inFile: 4, applied: 4 },
    proof: { maxLogitDelta: 1.5, probeTokens: 2 },
    baseModel: 'tiny',
    text: { tokenizer: 'base', template: 'base', digest: null },
    source: 'dir:/adapters/x',
    pins: { rows: 0, operator: false },
    loadedAt: null,
    lastUsedAt: null,
    requests: 0,
    failure: null,
    ...changes,
  };
}
