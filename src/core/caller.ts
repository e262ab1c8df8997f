import { LoramuxError } from './errors.js';

/** Who sends a request, and what they may use. */
export interface Caller {
  /** Name of the API key, for logs; null when the server asks for none. */
  readonly name: string | null;
  /**
   * Patterns (core/name-pattern.ts) of the names that `mayUse` allows; null = all. Goes along with each request, as
   * only the engine knows which adapter an alias stands for.
   */
  readonly adapters: readonly string[] | null;
  /** True when generations under this adapter name (or the base's) are allowed. */
  mayUse(adapter: string): boolean;
}

/** Everyone, where no keys are configured. */
export const ANYONE: Caller = { name: null, adapters: null, mayUse: () => true };

/** ERR_FORBIDDEN unless the caller may use all of these names. */
export function requireUse(caller: Caller, names: readonly string[]): void {
  const denied = names.find((name) => !caller.mayUse(name));
  if (denied === undefined) return;
  const message = `this API key may not use ${denied}: ask for a key whose scopes cover it, or name another adapter`;
  throw new LoramuxError('ERR_FORBIDDEN', message, { field: 'adapter' });
}
