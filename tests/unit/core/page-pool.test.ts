import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PagePool, type PageTenant, type PageUse, type TenantId } from '../../../src/core/page-pool.js';

/** Things of one or more pages, each idle, held or pinned. */
class Things implements PageTenant {
  readonly #pool: PagePool;
  readonly #tenant: TenantId;
  /** Oldest use first. */
  readonly #things: { readonly pages: number[]; use: PageUse; since: number }[] = [];

  constructor(pool: PagePool) {
    this.#pool = pool;
    this.#tenant = pool.join(this);
  }

  /** Pages one at a time, as one thing. */
  take(count: number, use: PageUse): number[] {
    const pages = Array.from({ length: count }, () => this.#pool.take(this.#tenant));
    this.#things.push({ pages, use, since: this.#pool.use() });
    return pages;
  }

  /** Neighbours. */
  claim(runs: readonly number[], use: PageUse): number[] | 'waits' | 'never' {
    const claim = this.#pool.claim(runs);
    const possible = this.#pool.gather(claim);
    if (!possible || claim.missing > 0) {
      this.#pool.drop(claim);
      return possible ? 'waits' : 'never';
    }
    const pages = this.#pool.settle(claim, this.#tenant);
    this.#things.push({ pages, use, since: this.#pool.use() });
    return pages;
  }

  set(page: number, use: PageUse): void {
    const thing = this.#thing(page);
    thing.use = use;
    thing.since = this.#pool.use();
  }

  has(page: number): boolean {
    return this.#things.some(({ pages }) => pages.includes(page));
  }

  get idlePages(): number {
    return this.#idle().reduce((sum, { pages }) => sum + pages.length, 0);
  }

  oldestUse(): number {
    return Math.min(...this.#idle().map(({ since }) => since), Number.POSITIVE_INFINITY);
  }

  giveUpOldest(): void {
    const oldest = this.oldestUse();
    this.giveUp(this.#idle().find(({ since }) => since === oldest)?.pages[0] as number);
  }

  useOf(page: number): PageUse {
    return this.#thing(page).use;
  }

  giveUp(page: number): void {
    const thing = this.#thing(page);
    assert.equal(thing.use, 'idle');
    this.#things.splice(this.#things.indexOf(thing), 1);
    for (const each of thing.pages) this.#pool.release(this.#tenant, each);
  }

  #idle() {
    return this.#things.filter(({ use }) => use === 'idle');
  }

  #thing(page: number) {
    const thing = this.#things.find(({ pages }) => pages.includes(page));
    assert.ok(thing, `nothing is in page ${page}`);
    return thing;
  }
}

function twoTenants(pages: number): { pool: PagePool; blocks: Things; adapters: Things } {
  const pool = new PagePool(pages);
  return { pool, blocks: new Things(pool), adapters: new Things(pool) };
}

test('the first tenant takes from the front, claims from the back', () => {
  const { pool, blocks, adapters } = twoTenants(8);
  assert.deepEqual(blocks.take(2, 'held'), [0, 1]);
  assert.deepEqual(adapters.claim([2, 1], 'held'), [6, 7, 5]);
  assert.deepEqual([pool.freeIds(), pool.available], [[2, 3, 4], 3]);
});

test('what was used longest ago goes first, whoever has it; what is in use never', () => {
  const { pool, blocks, adapters } = twoTenants(6);
  blocks.take(1, 'idle');
  adapters.claim([1, 1], 'idle');
  blocks.take(1, 'idle');
  blocks.take(2, 'held');
  assert.deepEqual([pool.free, pool.available], [0, 4]);
  assert.deepEqual(blocks.take(1, 'held'), [0], 'the block');
  blocks.take(1, 'held');
  assert.equal(pool.pagesOf(1), 0, 'then the adapter, all of it');
  blocks.take(1, 'held');
  assert.deepEqual(blocks.take(1, 'held'), [1], 'then the other block');
  assert.deepEqual([pool.take(0), pool.available], [-1, 0]);
});

test('a run takes the neighbours that cost others least, and never what is pinned', () => {
  const { blocks, adapters } = twoTenants(9);
  blocks.take(9, 'held');
  for (const page of [0, 1, 2, 3, 4, 5, 6, 7, 8]) assert.ok(blocks.has(page));
  assert.equal(adapters.claim([3], 'held'), 'waits');
  const apart = twoTenants(9);
  for (let page = 0; page < 9; page += 1) apart.blocks.take(1, 'held');
  for (const page of [1, 2, 4, 5, 6]) apart.blocks.set(page, 'idle');
  assert.deepEqual(apart.adapters.claim([3], 'held'), [4, 5, 6]);
  assert.ok(apart.blocks.has(1), 'nothing else is given up');
  assert.equal(apart.adapters.claim([3], 'held'), 'waits', 'for blocks in use');
  apart.adapters.set(5, 'pinned');
  for (const page of [0, 8]) apart.blocks.set(page, 'pinned');
  assert.equal(apart.adapters.claim([4], 'held'), 'never', 'pinned pages lie in between everywhere');
});

test('a claim keeps what it has gathered from those who can wait, and leaves what is spared', () => {
  const { pool, blocks } = twoTenants(6);
  for (let page = 0; page < 4; page += 1) blocks.take(1, 'held');
  pool.spare = 1;
  const claim = pool.claim([1, 1, 1]);
  assert.ok(pool.gather(claim));
  assert.deepEqual([claim.missing, pool.free, pool.available], [2, 1, 0]);
  assert.deepEqual(blocks.take(1, 'held'), [4], 'who cannot wait still gets one');
  blocks.set(2, 'idle');
  pool.spare = 0;
  assert.ok(pool.gather(claim));
  assert.deepEqual([claim.missing, pool.available], [1, 0]);
  pool.drop(claim);
  assert.equal(pool.available, 2);
});

test('who has waited long for pages gets them before anybody else who can wait', () => {
  const { pool, blocks } = twoTenants(6);
  for (let page = 0; page < 3; page += 1) blocks.take(1, 'held');
  const claim = pool.claim([4]);
  assert.ok(pool.gather(claim));
  assert.deepEqual([claim.missing, pool.available], [1, 0], 'three of four are there');
  const other = twoTenants(9);
  for (let page = 0; page < 8; page += 1) other.blocks.take(1, 'held');
  for (const page of [0, 2, 5]) other.blocks.set(page, 'idle');
  const patient = other.pool.claim([2]);
  assert.ok(other.pool.gather(patient));
  assert.ok(other.pool.available > 0, 'others go on beside it');
  for (let attempt = 0; attempt < 300; attempt += 1) assert.ok(other.pool.gather(patient));
  assert.deepEqual([patient.missing, other.pool.available], [1, 0]);
});

test('while a claim waits for other tenants, the first goes on: they may be waiting for it', () => {
  const { pool, adapters } = twoTenants(6);
  assert.ok(Array.isArray(adapters.claim([1, 1, 1, 1], 'held')));
  const claim = pool.claim([3]);
  for (let attempt = 0; attempt < 300; attempt += 1) assert.ok(pool.gather(claim));
  assert.ok(claim.missing > 0 && claim.behindOthers);
  assert.ok(pool.available > 0 || pool.free === 0);
});

test('faults of those who use it are told at once', () => {
  const { pool, blocks } = twoTenants(4);
  blocks.take(1, 'held');
  assert.throws(() => pool.release(1, 0), /page 0 is not tenant 1's/);
  assert.throws(() => pool.release(0, 3), /page 3/);
  const claim = pool.claim([4]);
  assert.throws(() => pool.claim([1]), /one claim at a time/);
  pool.gather(claim);
  assert.throws(() => pool.settle(claim, 1), /lacks 1 pages/);
});
