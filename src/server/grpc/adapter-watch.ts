import type { AdapterInfo } from '../../core/adapter.js';

/** What changed, and the adapter it happened to. */
export interface AdapterChange {
  readonly type: 'ADDED' | 'CHANGED' | 'REMOVED';
  readonly adapter: AdapterInfo;
}

/** Finds what changed from one list of adapters to the next. */
export class AdapterWatch {
  readonly #names: ReadonlySet<string> | null;
  #known = new Map<string, AdapterInfo>();

  /** Empty `names` = all. */
  constructor(names: readonly string[]) {
    this.#names = names.length === 0 ? null : new Set(names);
  }

  /** Changes since the last call, in the order of the list; the first call reports everything as added. */
  changes(adapters: readonly AdapterInfo[]): readonly AdapterChange[] {
    const before = this.#known;
    const now = new Map(adapters.filter(({ name }) => this.#names?.has(name) ?? true).map((each) => [each.name, each]));
    this.#known = now;
    const changes: AdapterChange[] = [];
    for (const [name, adapter] of now) {
      const earlier = before.get(name);
      if (earlier === undefined) changes.push({ type: 'ADDED', adapter });
      else if (stateOf(earlier) !== stateOf(adapter)) changes.push({ type: 'CHANGED', adapter });
    }
    for (const [name, adapter] of before) if (!now.has(name)) changes.push({ type: 'REMOVED', adapter });
    return changes;
  }
}

/** What of an adapter counts as a change: not that it was used again. */
function stateOf({ digest, state, tier, pins, aliases, failure }: AdapterInfo): string {
  return JSON.stringify([digest, state, tier, pins.operator, aliases, failure?.code]);
}
