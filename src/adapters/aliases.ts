import type { AliasInfo } from '../core/adapter-admin.js';
import { LoramuxError } from '../core/errors.js';
import type { AdapterRecord } from './adapter-record.js';

interface Alias {
  readonly digest: string;
  /** Adapter that last had the digest; looked up again when it no longer does. */
  holder: string;
}

/**
 * Second names. An alias stands for a digest, not for an adapter's name: whatever that name moves to, a request by the
 * alias is answered by its digest or not at all.
 */
export class AliasTable {
  readonly #records: ReadonlyMap<string, AdapterRecord>;
  readonly #aliases = new Map<string, Alias>();

  /** `records` are the adapters by name, kept by the registry. */
  constructor(records: ReadonlyMap<string, AdapterRecord>) {
    this.#records = records;
  }

  has(name: string): boolean {
    return this.#aliases.has(name);
  }

  /** The digest that an alias stands for; null when there is no such alias. */
  digestOf(name: string): string | null {
    return this.#aliases.get(name)?.digest ?? null;
  }

  /** Name of an adapter that has the alias's digest. ERR_ADAPTER_NOT_FOUND when none has it any more. */
  holderOf(name: string): string {
    const alias = this.#aliases.get(name);
    const holder = alias === undefined ? null : this.#find(alias);
    if (holder === null) throw staleAlias(name, alias?.digest ?? '');
    return holder;
  }

  /**
   * Points an alias at a digest, in one step; returns the digest that it stood for before, or null.
   * ERR_ADAPTER_NOT_FOUND for a digest that no adapter has.
   */
  set(name: string, digest: string): string | null {
    const alias = { digest, holder: '' };
    if (this.#find(alias) === null) {
      throw new LoramuxError(
        'ERR_ADAPTER_NOT_FOUND',
        `no adapter has the digest ${digest}: load one that has it first, then point the alias at it`,
      );
    }
    const before = this.digestOf(name);
    this.#aliases.set(name, alias);
    return before;
  }

  /** Forgets an alias and returns what it was. ERR_ADAPTER_NOT_FOUND when there is none. */
  delete(name: string): AliasInfo {
    const info = this.describe(name);
    this.#aliases.delete(name);
    return info;
  }

  /** ERR_ADAPTER_NOT_FOUND when there is none. */
  describe(name: string): AliasInfo {
    const alias = this.#aliases.get(name);
    if (alias === undefined) {
      throw new LoramuxError(
        'ERR_ADAPTER_NOT_FOUND',
        `no alias is called ${name}: see GET /aliases for those there are`,
      );
    }
    return { name, digest: alias.digest, adapter: this.#find(alias) };
  }

  /** All aliases, sorted by name. */
  list(): AliasInfo[] {
    return [...this.#aliases.keys()].sort().map((name) => this.describe(name));
  }

  /** Aliases of a digest, sorted. */
  namesOf(digest: string | null): string[] {
    const names = [...this.#aliases].flatMap(([name, alias]) => (alias.digest === digest ? [name] : []));
    return names.sort();
  }

  #find(alias: Alias): string | null {
    const has = (name: string): boolean => this.#records.get(name)?.facts?.digest === alias.digest;
    if (has(alias.holder)) return alias.holder;
    for (const name of this.#records.keys()) {
      if (!has(name)) continue;
      alias.holder = name;
      return name;
    }
    return null;
  }
}

/** ERR_ADAPTER_NOT_FOUND: what an alias stands for is served no more. */
export function staleAlias(name: string, digest: string): LoramuxError {
  return new LoramuxError(
    'ERR_ADAPTER_NOT_FOUND',
    `${name} is an alias of digest ${digest}, which no adapter has any more: load those files again or point the alias elsewhere`,
  );
}

/** ERR_BAD_REQUEST: adapters and aliases share one space of names. */
export function nameTaken(name: string, by: 'an adapter' | 'an alias'): LoramuxError {
  const message = `${name} is the name of ${by} already: choose another, or remove that one first`;
  return new LoramuxError('ERR_BAD_REQUEST', message, { field: 'name' });
}
