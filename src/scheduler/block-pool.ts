/**
 * Hands out KV block ids. Last in, first out, starting from block 0: a small load keeps to the same few low blocks,
 * so that pages never touched stay unmapped.
 *
 * Blocks are reserved while a step is planned and become used when the plan is settled; until then they count as
 * free, so that planning changes nothing anyone can see.
 */
export class BlockPool {
  readonly total: number;
  readonly #stack: Int32Array;
  #top: number;
  #reserved = 0;

  /** Blocks 0 … total − 1, all free. */
  constructor(total: number) {
    this.total = total;
    this.#stack = Int32Array.from({ length: total }, (_, index) => total - 1 - index);
    this.#top = total;
  }

  /** Blocks that no sequence owns, reserved ones included. */
  get free(): number {
    return this.#top + this.#reserved;
  }

  get used(): number {
    return this.total - this.free;
  }

  /** Blocks that `reserve` can still give. */
  get available(): number {
    return this.#top;
  }

  /** Takes one block for the plan being made, or returns −1 when none is left. */
  reserve(): number {
    if (this.#top === 0) return -1;
    this.#top -= 1;
    this.#reserved += 1;
    return this.#stack[this.#top] as number;
  }

  /** Everything reserved counts as used from now on; release what turned out not to be needed. */
  settle(): void {
    this.#reserved = 0;
  }

  /** Gives used blocks back. The first of the list will be handed out first. */
  release(blocks: readonly number[]): void {
    for (let index = blocks.length - 1; index >= 0; index -= 1) {
      this.#stack[this.#top] = blocks[index] as number;
      this.#top += 1;
    }
  }

  /** Ids that `reserve` can still give, next one first. A copy. */
  availableIds(): number[] {
    return Array.from(this.#stack.subarray(0, this.#top)).reverse();
  }
}
