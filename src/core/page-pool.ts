/** What somebody has in a page of a pool: nothing that is in use, something that is, or something that stays. */
export type PageUse = 'idle' | 'held' | 'pinned';

/**
 * Somebody who keeps things in pages of a pool. What nobody uses any more may stay there until the page is wanted: the
 * thing that was used longest ago goes first, whoever's it is.
 */
export interface PageTenant {
  /** Pages of things that nobody uses. */
  readonly idlePages: number;
  /** `PagePool.use` of the thing that would be given up first; Infinity when there is none. */
  oldestUse(): number;
  /** Gives that thing up: releases its pages, one at least. */
  giveUpOldest(): void;
  useOf(page: number): PageUse;
  /** Gives up the idle thing in `page`, and what cannot be without it. */
  giveUp(page: number): void;
}

/** Which of a pool's tenants. */
export type TenantId = number;

const FREE = -1;
const SET_ASIDE = -2;
/** Attempts to gather a claim's pages after which nobody else gets any who can wait. */
const PATIENCE = 256;

/**
 * Pages of one size, numbered from 0, which tenants take and release. The first tenant's pages come from the front of the
 * free ones, first page 0, and go back there: last in, first out, so that a small load keeps to the same few low pages.
 * Claims are served from the back, so that runs of neighbours survive there.
 */
export class PagePool {
  readonly total: number;
  readonly #tenants: PageTenant[] = [];
  /** By page: the tenant, FREE or SET_ASIDE. */
  readonly #owner: Int16Array;
  /** Free pages as a ring; the element behind the last page is where it begins and ends. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #counts: number[] = [];
  #free: number;
  #uses = 0;
  #claim: PageClaim | null = null;
  /** Free pages that claims leave alone: what running sequences are about to take. */
  spare = 0;

  constructor(total: number) {
    this.total = total;
    this.#free = total;
    this.#owner = new Int16Array(total).fill(FREE);
    this.#next = Int32Array.from({ length: total + 1 }, (_, page) => (page === total ? 0 : page + 1));
    this.#previous = Int32Array.from({ length: total + 1 }, (_, page) => (page === 0 ? total : page - 1));
  }

  join(tenant: PageTenant): TenantId {
    this.#counts.push(0);
    return this.#tenants.push(tenant) - 1;
  }

  get free(): number {
    return this.#free;
  }

  /** Pages that a tenant has. */
  pagesOf(tenant: TenantId): number {
    return this.#counts[tenant] as number;
  }

  /** The tenant that has a page, or null. */
  ownerOf(page: number): TenantId | null {
    const owner = this.#owner[page] as number;
    return owner < 0 ? null : owner;
  }

  /**
   * Pages that `take` can still give to those who can wait: what a claim lacks is kept for it, if need be everything. Not
   * so where it waits for others than the first tenant, who may be waiting for pages themselves.
   */
  get available(): number {
    const claim = this.#claim;
    if (claim === null || claim.missing === 0 || claim.behindOthers) return this.#unused();
    return claim.attempts > PATIENCE ? 0 : Math.max(0, this.#unused() - claim.missing);
  }

  /** Free pages, the one to be handed out next first. A copy. */
  freeIds(): number[] {
    const ids: number[] = [];
    for (let at = this.#next[this.total] as number; at !== this.total; at = this.#next[at] as number) ids.push(at);
    return ids;
  }

  /** Pages that are neither free nor the tenant's: others have them, or a claim. Ascending. */
  elsewhere(tenant: TenantId): number[] {
    return Array.from(this.#owner.keys()).filter((page) => {
      const owner = this.#owner[page];
      return owner !== FREE && owner !== tenant;
    });
  }

  /** A mark for something used right now, higher than all before. */
  use(): number {
    this.#uses += 1;
    return this.#uses;
  }

  /** One page, or −1: free, or given up by whom has what was used longest ago. */
  take(tenant: TenantId): number {
    if (this.#free === 0 && !this.#reclaim()) return -1;
    const page = this.#next[this.total] as number;
    this.#unlink(page);
    this.#give(page, tenant);
    return page;
  }

  /** Gives a page back. */
  release(tenant: TenantId, page: number): void {
    if (this.#owner[page] !== tenant) throw new Error(`page ${page} is not tenant ${tenant}'s to release`);
    this.#counts[tenant] = this.pagesOf(tenant) - 1;
    this.#link(page, tenant === 0);
  }

  /** Begins to gather pages in runs of neighbours, so many in each; for one claim at a time. */
  claim(runs: readonly number[]): PageClaim {
    if (this.#claim !== null) throw new Error('pages are gathered for one claim at a time');
    this.#claim = new PageClaim(runs);
    return this.#claim;
  }

  /**
   * Brings the claim on. What nobody uses makes room for it, and what is in use as soon as it no longer is; `spare` pages
   * stay for others. Which pages it gets is decided anew each time, so that one that is always in use does not hold it up.
   * False when there is no place for some run, because of pinned pages everywhere.
   */
  gather(claim: PageClaim): boolean {
    claim.attempts += 1;
    this.#putBack(claim);
    const chosen = new Set<number>();
    for (const length of claim.runs) {
      const first = this.#bestWindow(length, chosen);
      if (first < 0) return false;
      const window = Array.from({ length }, (_, index) => first + index);
      claim.windows.push(window);
      for (const page of window) chosen.add(page);
    }
    for (const page of chosen) {
      if (this.#useOf(page) === 'idle') this.#tenants[this.#owner[page] as number]?.giveUp(page);
      if (this.#owner[page] === FREE) this.#setAside(page);
    }
    while (claim.singles.length < claim.wantedSingles && this.#unused() > this.spare) {
      if (this.#free === 0 && !this.#reclaim()) break;
      const page = this.#previous[this.total] as number;
      this.#setAside(page);
      if (!chosen.has(page)) claim.singles.push(page);
    }
    claim.missing = claim.wantedSingles - claim.singles.length;
    claim.behindOthers = false;
    for (const page of chosen) {
      if (this.#owner[page] === SET_ASIDE) continue;
      claim.missing += 1;
      if (this.#owner[page] !== 0) claim.behindOthers = true;
    }
    return true;
  }

  /** Hands the pages of a claim that has them all to a tenant: those of longer runs first, each run in its order. */
  settle(claim: PageClaim, tenant: TenantId): number[] {
    if (claim.missing > 0) throw new Error(`a claim was settled that lacks ${claim.missing} pages`);
    this.#end(claim);
    const pages = claim.pages();
    for (const page of pages) this.#give(page, tenant);
    return pages;
  }

  /** Gives a claim up, whatever it has gathered. */
  drop(claim: PageClaim): void {
    this.#end(claim);
    this.#putBack(claim);
  }

  #end(claim: PageClaim): void {
    if (claim !== this.#claim) throw new Error('a claim ended that is not being gathered for');
    this.#claim = null;
  }

  /** What was set aside for a claim is free again. */
  #putBack(claim: PageClaim): void {
    for (const page of claim.pages()) if (this.#owner[page] === SET_ASIDE) this.#link(page, false);
    claim.windows = [];
    claim.singles = [];
  }

  #unused(): number {
    return this.#tenants.reduce((pages, { idlePages }) => pages + idlePages, this.#free);
  }

  /** Has the thing given up that was used longest ago; false when there is none. */
  #reclaim(): boolean {
    let oldest: PageTenant | null = null;
    let since = Number.POSITIVE_INFINITY;
    for (const tenant of this.#tenants) {
      const use = tenant.oldestUse();
      if (use < since) [oldest, since] = [tenant, use];
    }
    oldest?.giveUpOldest();
    return oldest !== null;
  }

  /**
   * First page of the run that costs others least: as few pages in use as can be, then as few with something in them.
   * −1 when there is none without pinned pages. Time: O(pages).
   */
  #bestWindow(length: number, chosen: ReadonlySet<number>): number {
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    let cost = 0;
    let barred = 0;
    const count = (page: number, sign: 1 | -1): void => {
      const use = chosen.has(page) ? 'pinned' : this.#useOf(page);
      if (use === 'pinned') barred += sign;
      else if (use !== null) cost += sign * (use === 'held' ? this.total : 1);
    };
    // From the back, where runs survive.
    for (let page = this.total - 1; page >= 0; page -= 1) {
      count(page, 1);
      if (page + length < this.total) count(page + length, -1);
      if (page + length > this.total || barred > 0 || cost >= least) continue;
      [best, least] = [page, cost];
    }
    return best;
  }

  #useOf(page: number): PageUse | null {
    const owner = this.ownerOf(page);
    return owner === null ? null : (this.#tenants[owner] as PageTenant).useOf(page);
  }

  #setAside(page: number): void {
    this.#unlink(page);
    this.#owner[page] = SET_ASIDE;
  }

  #give(page: number, tenant: TenantId): void {
    this.#owner[page] = tenant;
    this.#counts[tenant] = this.pagesOf(tenant) + 1;
  }

  /** Makes a page free, to be handed out first or last. */
  #link(page: number, atFront: boolean): void {
    const before = atFront ? this.total : (this.#previous[this.total] as number);
    const after = this.#next[before] as number;
    this.#next[before] = page;
    this.#previous[page] = before;
    this.#next[page] = after;
    this.#previous[after] = page;
    this.#owner[page] = FREE;
    this.#free += 1;
  }

  #unlink(page: number): void {
    const [before, after] = [this.#previous[page] as number, this.#next[page] as number];
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#free -= 1;
  }
}

/** Pages being gathered: neighbours for longer runs, any for runs of one. */
export class PageClaim {
  /** Lengths of the longer runs, the longest first. */
  readonly runs: readonly number[];
  readonly wantedSingles: number;
  /** The pages that each longer run shall get. */
  windows: number[][] = [];
  /** Pages that it has beside them. */
  singles: number[] = [];
  /** Pages that it lacks. */
  missing: number;
  /** Others than the first tenant use some of those. */
  behindOthers = false;
  attempts = 0;

  constructor(runs: readonly number[]) {
    this.runs = runs.filter((length) => length > 1).toSorted((a, b) => b - a);
    this.wantedSingles = runs.length - this.runs.length;
    this.missing = runs.reduce((sum, length) => sum + length, 0);
  }

  /** Longer runs first, each in its order. */
  pages(): number[] {
    return [...this.windows.flat(), ...this.singles];
  }
}
