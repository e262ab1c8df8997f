import type { PagePool, PageTenant, PageUse, TenantId } from '../core/page-pool.js';

/** Who is told of content that is lost. */
export interface BlockContents {
  /** An idle block loses its content. */
  readonly onEvict: (block: number) => void;
  /** Blocks whose content builds on that of `block`, each after the one that it builds on. */
  readonly buildOn: (block: number) => number[];
}

const NO_CONTENTS: BlockContents = { onEvict: () => undefined, buildOn: () => [] };

/**
 * The account of KV blocks, each a page of a pool. A page is blank (nobody has it), held by one or more sequences, or idle:
 * held by nobody, but with content that is known and may be asked for again. Blank and idle pages are both available.
 *
 * Only when no page is blank is idle content given up, what was used longest ago: of this account, or of the pool's other
 * tenants.
 */
export class BlockPool implements PageTenant {
  readonly total: number;
  readonly #pages: PagePool;
  readonly #tenant: TenantId;
  readonly #contents: BlockContents;
  readonly #holders: Int32Array;
  /** 1 = its content is known to others than its holder. */
  readonly #published: Uint8Array;
  /** Idle blocks as a ring in order of release; the element behind the last block is where it begins and ends. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** `PagePool.use` of idle blocks' last. */
  readonly #lastUse: Float64Array;
  #idleCount = 0;

  /** The first tenant of `pages`. */
  constructor(pages: PagePool, contents: BlockContents = NO_CONTENTS) {
    const { total } = pages;
    this.total = total;
    this.#pages = pages;
    this.#tenant = pages.join(this);
    this.#contents = contents;
    this.#holders = new Int32Array(total);
    this.#published = new Uint8Array(total);
    this.#next = new Int32Array(total + 1);
    this.#previous = new Int32Array(total + 1);
    this.#next[total] = total;
    this.#previous[total] = total;
    this.#lastUse = new Float64Array(total);
  }

  /** Blocks that `take` can still give. */
  get available(): number {
    return this.#pages.available;
  }

  get idle(): number {
    return this.#idleCount;
  }

  get used(): number {
    return this.#pages.pagesOf(this.#tenant) - this.#idleCount;
  }

  /** Pages that others have, or are about to have. */
  get elsewhere(): number {
    return this.total - this.#pages.free - this.#pages.pagesOf(this.#tenant);
  }

  holders(block: number): number {
    return this.#holders[block] as number;
  }

  /** One block for new content, with one holder, or −1 when none is available. */
  take(): number {
    const block = this.#pages.take(this.#tenant);
    if (block >= 0) this.#holders[block] = 1;
    return block;
  }

  /** One holder more of a published block. */
  hold(block: number): void {
    if (this.#holders[block] === 0) this.#unlink(block);
    this.#holders[block] = this.holders(block) + 1;
  }

  /** The content of a held block is final and may be shared: it stays when its holders are gone. */
  publish(block: number): void {
    this.#published[block] = 1;
  }

  /**
   * One holder less of each of `blocks`, given in the order in which each builds on those before. Of blank ones the
   * first will be handed out first; of idle ones the last loses its content first.
   */
  release(blocks: readonly number[]): void {
    for (let index = blocks.length - 1; index >= 0; index -= 1) {
      const block = blocks[index] as number;
      this.#holders[block] = this.holders(block) - 1;
      if (this.holders(block) > 0) continue;
      if (this.#published[block] === 1) this.#link(block);
      else this.#pages.release(this.#tenant, block);
    }
  }

  get idlePages(): number {
    return this.#idleCount;
  }

  oldestUse(): number {
    return this.#idleCount === 0
      ? Number.POSITIVE_INFINITY
      : (this.#lastUse[this.#next[this.total] as number] as number);
  }

  giveUpOldest(): void {
    this.#evict(this.#next[this.total] as number);
  }

  useOf(block: number): PageUse {
    return this.holders(block) > 0 ? 'held' : 'idle';
  }

  giveUp(block: number): void {
    for (const above of this.#contents.buildOn(block).reverse()) this.#evict(above);
    this.#evict(block);
  }

  /** Blank pages, the one to be handed out next first. A copy. */
  blankIds(): number[] {
    return this.#pages.freeIds();
  }

  /** Pages that others have, or are about to have, ascending. */
  elsewhereIds(): number[] {
    return this.#pages.elsewhere(this.#tenant);
  }

  /** Idle blocks, the one to lose its content next first. */
  idleIds(): number[] {
    const ids: number[] = [];
    for (let at = this.#next[this.total] as number; at !== this.total; at = this.#next[at] as number) ids.push(at);
    return ids;
  }

  /** Blocks whose content is known, held or idle, ascending. */
  publishedIds(): number[] {
    return Array.from(this.#published.keys()).filter((block) => this.#published[block] === 1);
  }

  #evict(block: number): void {
    this.#unlink(block);
    this.#published[block] = 0;
    this.#contents.onEvict(block);
    this.#pages.release(this.#tenant, block);
  }

  #link(block: number): void {
    const last = this.#previous[this.total] as number;
    this.#next[last] = block;
    this.#previous[block] = last;
    this.#next[block] = this.total;
    this.#previous[this.total] = block;
    this.#lastUse[block] = this.#pages.use();
    this.#idleCount += 1;
  }

  #unlink(block: number): void {
    const [before, after] = [this.#previous[block] as number, this.#next[block] as number];
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#idleCount -= 1;
  }
}
