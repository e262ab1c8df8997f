import type { BlockPool } from './block-pool.js';
import type { CachedBlock, PrefixTree } from './prefix-tree.js';
import { kvIdentity, type RowAdapters } from './row-adapters.js';
import type { Sequence } from './sequence.js';

const NONE: readonly number[] = [];

/**
 * Full KV blocks that sequences share. A block is found by what decides every bit of it: the tokens of its rows, whose
 * K/V they are (base, adapter digests and weights, where an activated adapter begins), the blocks before it, and the
 * salt of the request. A sequence holds each block of its path, so of what nobody holds the last of a path is always
 * the one to lose its content first.
 */
export class PrefixCache {
  readonly #blockSize: number;
  readonly #pool: BlockPool;
  readonly #tree: PrefixTree;
  /** False: nothing is ever found or kept. */
  readonly #enabled: boolean;

  /** `tree` must be told what `pool` evicts. */
  constructor(enabled: boolean, blockSize: number, pool: BlockPool, tree: PrefixTree) {
    this.#enabled = enabled;
    this.#blockSize = blockSize;
    this.#pool = pool;
    this.#tree = tree;
  }

  /**
   * True when a sequence may begin behind blocks that others filled: one whose prompt is to be scored needs the logits
   * of all its rows, save those it filled itself before a preemption.
   */
  serves({ scores }: Sequence): boolean {
    return this.#enabled && scores === null;
  }

  /**
   * Brings the path of a waiting sequence up to date: the longest run of cached blocks that it begins with, short of
   * its last token, which must be computed to be sampled from. Nothing is held yet.
   * Time: O(blocks found or lost since the last call).
   */
  match(sequence: Sequence): void {
    const { path } = sequence;
    while (path.at(-1)?.cached === false) path.pop();
    if (!this.serves(sequence)) return;
    const most = this.#mostShared(sequence);
    while (path.length < most) {
      const found = this.#find(sequence, this.#keyAt(sequence, path.length));
      if (found === null) return;
      path.push(found);
    }
  }

  /** How many blocks of a sequence's path nobody holds: to hold them makes as many less available. */
  idleOf({ path }: Sequence): number {
    let held = path.length;
    while (held > 0 && this.#pool.holders((path[held - 1] as CachedBlock).block) === 0) held -= 1;
    return path.length - held;
  }

  /** True when a waiting sequence could use one more cached block than there is. */
  wantsMore(sequence: Sequence): boolean {
    return this.serves(sequence) && sequence.path.length < this.#mostShared(sequence);
  }

  /**
   * Names the full block that a prefill fills next, by content and place, or null when it fills no more. Equal names,
   * equal blocks: who wants one more would compute the same.
   */
  nextFilled(sequence: Sequence): string | null {
    const { path, length, request } = sequence;
    if (!this.#enabled || (path.length + 1) * this.#blockSize > length) return null;
    const place = path.at(-1)?.block ?? JSON.stringify(request.cacheSalt);
    return `${this.#keyAt(sequence, path.length)}|${place}`;
  }

  /**
   * Publishes the blocks that a running sequence has filled by steps that were committed. Where another sequence was
   * first, its block is taken over, for both hold the same bits: returns those of the sequence's own, still held, that
   * it has no more use for.
   */
  publish(sequence: Sequence): readonly number[] {
    if (!this.#enabled) return NONE;
    const { path, blocks, settled, request } = sequence;
    const replaced: number[] = [];
    while ((path.length + 1) * this.#blockSize <= settled) {
      const at = path.length;
      const own = blocks[at] as number;
      const key = this.#keyAt(sequence, at);
      let node = this.#find(sequence, key);
      if (node === null) {
        node = this.#tree.insert(request.cacheSalt, path.at(-1) ?? null, key, own);
        this.#pool.publish(own);
      } else {
        this.#pool.hold(node.block);
        replaced.push(own);
        blocks[at] = node.block;
      }
      path.push(node);
    }
    return replaced;
  }

  #find({ request, path }: Sequence, key: string): CachedBlock | null {
    return this.#tree.find(request.cacheSalt, path.at(-1) ?? null, key);
  }

  #mostShared({ length }: Sequence): number {
    return Math.floor((length - 1) / this.#blockSize);
  }

  /** What decides the K/V of block `index`, beside the blocks before it: whose it is, and of which tokens. */
  #keyAt(sequence: Sequence, index: number): string {
    const start = index * this.#blockSize;
    const tokens = sequence.tokens().subarray(start, start + this.#blockSize);
    return `${kvIdentity(sequence.adapters as RowAdapters, start, this.#blockSize)}|${tokens.join()}`;
  }
}
