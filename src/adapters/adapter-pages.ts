import { LoramuxError } from '../core/errors.js';
import type { PageClaim, PagePool, PageTenant, PageUse, TenantId } from '../core/page-pool.js';
import type { Residency } from './residency.js';

export interface AdapterPagesOptions {
  /** Shared with the KV cache. */
  readonly pool: PagePool;
  readonly pageBytes: number;
  /** Counts whole pages. */
  readonly residency: Residency;
  /** Frees what was evicted: its pages are given back by `free`. */
  readonly onEvicted: (keys: readonly number[]) => void;
}

/** Which pages of a device's memory adapters lie in, by version key. Idle ones give theirs up to whoever wants them. */
export class AdapterPages implements PageTenant {
  readonly #options: AdapterPagesOptions;
  readonly #tenant: TenantId;
  readonly #pages = new Map<number, readonly number[]>();
  /** By page: the version in it. */
  readonly #keys = new Map<number, number>();

  constructor(options: AdapterPagesOptions) {
    this.#options = options;
    this.#tenant = options.pool.join(this);
  }

  /** Of an adapter that needs pages in runs of so many neighbours each. */
  bytesOf(runs: readonly number[]): number {
    return runs.reduce((sum, length) => sum + length, 0) * this.#options.pageBytes;
  }

  /** Begins to gather pages for one adapter; one at a time. */
  claim(runs: readonly number[]): PageClaim {
    return this.#options.pool.claim(runs);
  }

  /**
   * The pages of version `key` once a claim has them all, longer runs first, each in its order; null while it waits. Errors:
   * ERR_ADAPTER_NO_SPACE when it waits in vain.
   */
  fill(key: number, claim: PageClaim): readonly number[] | null {
    const { pool, pageBytes } = this.#options;
    if (!pool.gather(claim)) {
      const longest = Math.max(...claim.runs);
      throw new LoramuxError(
        'ERR_ADAPTER_NO_SPACE',
        `the adapter needs ${longest * pageBytes} bytes in one piece, and adapters that the operator pins lie in between everywhere: unpin some, or raise --gpu-memory`,
      );
    }
    if (claim.missing > 0) return null;
    const pages = pool.settle(claim, this.#tenant);
    this.#pages.set(key, pages);
    for (const page of pages) this.#keys.set(page, key);
    return pages;
  }

  /** Gives a claim up. */
  drop(claim: PageClaim): void {
    this.#options.pool.drop(claim);
  }

  /** Gives back the pages of a version, which nothing reads any more; none is fine. */
  free(key: number): void {
    for (const page of this.#pages.get(key) ?? []) {
      this.#keys.delete(page);
      this.#options.pool.release(this.#tenant, page);
    }
    this.#pages.delete(key);
  }

  get idlePages(): number {
    return this.#options.residency.totals().evictable / this.#options.pageBytes;
  }

  oldestUse(): number {
    return this.#options.residency.oldestUse();
  }

  giveUpOldest(): void {
    this.#options.onEvicted([this.#options.residency.evictOldest()]);
  }

  useOf(page: number): PageUse {
    return this.#options.residency.useOf(this.#keyOf(page));
  }

  giveUp(page: number): void {
    const key = this.#keyOf(page);
    this.#options.residency.remove(key);
    this.#options.onEvicted([key]);
  }

  /** What does not add up between bytes and pages; empty when all is well. */
  violations(): string[] {
    const found: string[] = [];
    const { pool, pageBytes, residency } = this.#options;
    const { resident, reserved } = residency.totals();
    if (this.#keys.size !== pool.pagesOf(this.#tenant)) {
      found.push(`adapters lie in ${this.#keys.size} pages, the pool counts ${pool.pagesOf(this.#tenant)}`);
    }
    if (this.#keys.size * pageBytes > resident + reserved) {
      found.push(`adapters lie in ${this.#keys.size} pages, more than their ${resident + reserved} bytes`);
    }
    for (const [page, key] of this.#keys) {
      if (pool.ownerOf(page) !== this.#tenant) found.push(`page ${page} of version ${key} is not the adapters'`);
      if (this.#pages.get(key)?.includes(page) !== true)
        found.push(`page ${page} is not among those of version ${key}`);
    }
    return found;
  }

  #keyOf(page: number): number {
    const key = this.#keys.get(page);
    if (key === undefined) throw new Error(`no adapter lies in page ${page}`);
    return key;
  }
}
