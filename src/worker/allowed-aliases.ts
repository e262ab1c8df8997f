import type { AdapterRegistry } from '../adapters/registry.js';
import { LoramuxError } from '../core/errors.js';
import { matchesAny } from '../core/name-pattern.js';

/** What a claim asks of the registry. */
export type ClaimRegistry = Pick<AdapterRegistry, 'aliased' | 'tryAcquire' | 'acquire' | 'identify' | 'derive'>;

/**
 * The registry as one caller sees it: an alias opens only adapters whose own names the caller may use. Names that are
 * no aliases were checked when the request came in. Each name is looked at in the turn in which the registry resolves
 * it, so that no alias moves in between. Errors: also ERR_FORBIDDEN.
 */
export function allowedAliases(registry: ClaimRegistry, allowed: readonly string[] | undefined): ClaimRegistry {
  if (allowed === undefined) return registry;
  const check = (name: string): void => {
    const holder = registry.aliased(name);
    if (holder === null || matchesAny(allowed, holder)) return;
    const message = `the API key may use the name ${name}, but not the adapter that it is an alias of now`;
    throw new LoramuxError('ERR_FORBIDDEN', message, { field: 'adapter' });
  };
  return {
    aliased: (name) => registry.aliased(name),
    derive: (source) => registry.derive(source),
    identify: (name) => {
      check(name);
      return registry.identify(name);
    },
    tryAcquire: (name) => {
      check(name);
      return registry.tryAcquire(name);
    },
    acquire: async (name, signal) => {
      check(name);
      return registry.acquire(name, signal);
    },
  };
}
