import { LoramuxError } from '../../core/errors.js';
import type { AdapterLease } from '../adapter-record.js';
import type { AdapterRegistry } from '../registry.js';

/** Loads that a set of adapters may cost before it counts as too large to be resident together. */
const MAX_LOADS_PER_MEMBER = 4;

type Leases = Pick<AdapterRegistry, 'tryAcquire' | 'acquire'>;

/** Leases on all of `names` in their order, or null without any when one of them is not resident. */
export function tryLeaseAll(registry: Leases, names: readonly string[]): AdapterLease[] | null {
  const held = new Map<string, AdapterLease>();
  const missing = leaseResident(registry, names, held);
  return missing === null ? inOrder(names, held) : null;
}

/**
 * Leases on all of `names` (distinct) in their order, loading those that are not resident. While it waits it holds
 * nothing, so that two lists can never wait for each other's memory; what is evicted meanwhile is loaded again.
 * Errors: those of `acquire`; ERR_ADAPTER_NO_SPACE when the set does not stay resident together.
 */
export async function leaseAll(
  registry: Leases,
  names: readonly string[],
  signal: AbortSignal,
): Promise<AdapterLease[]> {
  const held = new Map<string, AdapterLease>();
  for (let loads = 0; ; loads += 1) {
    const missing = leaseResident(registry, names, held);
    if (missing === null) return inOrder(names, held);
    if (loads === names.length * MAX_LOADS_PER_MEMBER) {
      throw new LoramuxError(
        'ERR_ADAPTER_NO_SPACE',
        `expected the adapters ${names.join(', ')} to be resident together, but they were evicted while others of them ` +
          `loaded, ${loads} times: raise --adapter-memory or combine fewer`,
      );
    }
    held.set(missing, await registry.acquire(missing, signal));
  }
}

/** Adds a lease on every name to `held`; if one is not resident, gives all back and returns it. */
function leaseResident(registry: Leases, names: readonly string[], held: Map<string, AdapterLease>): string | null {
  for (const name of names) {
    if (held.has(name)) continue;
    const lease = registry.tryAcquire(name);
    if (lease === null) {
      for (const other of held.values()) other.release();
      held.clear();
      return name;
    }
    held.set(name, lease);
  }
  return null;
}

function inOrder(names: readonly string[], held: ReadonlyMap<string, AdapterLease>): AdapterLease[] {
  return names.flatMap((name) => held.get(name) ?? []);
}
