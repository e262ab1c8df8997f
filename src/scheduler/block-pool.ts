/**
 * The account of KV blocks. Each is blank (nobody holds it, nothing in it counts), held by one or more sequences, or idle: held
 * by nobody, but with content that is known and may be asked for again. Blank and idle blocks are both available.
 *
 * Blank blocks are handed out last in, first out, starting from block 0: a small load keeps to the same few low blocks,
 * so that pages never touched stay unmapped. Only when none is left is an idle block given new content, the one that
 * was used longest ago.
 */
export class BlockPool {
  readonly total: number;
  readonly #onEvict: (block: number) => void;
  readonly #holders: Int32Array;
  /** 1 = its content is known to others than its holder. */
  readonly #published: Uint8Array;
  readonly #blank: Int32Array;
  #blankCount: number;
  /** Idle blocks as a ring in order of release; the element behind the last block is where it begins and ends. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #idleCount = 0;

  /** Blocks 0 … total − 1, all blank. `onEvict` is told when an idle block loses its content. */
  constructor(total: number, onEvict: (block: number) => void = () => undefined) {
    this.total = total;
    this.#onEvict = onEvict;
    this.#holders = new Int32Array(total);
    this.#published = new Uint8Array(total);
    this.#blank = Int32Array.from({ length: total }, (_, index) => total - 1 - index);
    this.#blankCount = total;
    this.#next = new Int32Array(total + 1);
    this.#previous = new Int32Array(total + 1);
    this.#next[total] = total;
    this.#previous[total] = total;
  }

  /** Blocks that `take` can still give. */
  get available(): number {
    return this.#blankCount + this.#idleCount;
  }

  get idle(): number {
    return this.#idleCount;
  }

  get used(): number {
    return this.total - this.available;
  }

  holders(block: number): number {
    return this.#holders[block] as number;
  }

  /** One block for new content, with one holder, or −1 when none is available. */
  take(): number {
    const block = this.#blankCount > 0 ? this.#popBlank() : this.#evict();
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
      else this.#pushBlank(block);
    }
  }

  /** Blank blocks, the one to be handed out next first. A copy. */
  blankIds(): number[] {
    return Array.from(this.#blank.subarray(0, this.#blankCount)).reverse();
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

  #popBlank(): number {
    this.#blankCount -= 1;
    return this.#blank[this.#blankCount] as number;
  }

  #pushBlank(block: number): void {
    this.#blank[this.#blankCount] = block;
    this.#blankCount += 1;
  }

  #evict(): number {
    if (this.#idleCount === 0) return -1;
    const block = this.#next[this.total] as number;
    this.#unlink(block);
    this.#published[block] = 0;
    this.#onEvict(block);
    return block;
  }

  #link(block: number): void {
    const last = this.#previous[this.total] as number;
    this.#next[last] = block;
    this.#previous[block] = last;
    this.#next[block] = this.total;
    this.#previous[this.total] = block;
    this.#idleCount += 1;
  }

  #unlink(block: number): void {
    const [before, after] = [this.#previous[block] as number, this.#next[block] as number];
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#idleCount -= 1;
  }
}
