/** A KV block whose content is known: `key` says what its rows are, the blocks above it what they attend to. */
export interface CachedBlock {
  readonly block: number;
  readonly key: string;
  /** False once the block has been given to other content. */
  readonly cached: boolean;
}

/** The top of a tree, or a block in it. */
interface Level {
  readonly salt: string | null;
  readonly children: Map<string, Node>;
}

interface Node extends CachedBlock, Level {
  readonly above: Level;
  readonly first: boolean;
  cached: boolean;
}

/**
 * Which blocks hold what: paths that begin with the first block of a sequence, in one tree for each salt. Children are
 * found by the whole of their key, not by a hash of it, below the very block that they were computed after. So a block
 * is found only by a sequence that would compute the same, and no collision can be made up.
 */
export class PrefixTree {
  readonly #roots = new Map<string | null, Level>();
  readonly #nodes = new Map<number, Node>();

  /** The block of content `key` after `parent` (null: at the beginning), or null. */
  find(salt: string | null, parent: CachedBlock | null, key: string): CachedBlock | null {
    const above = parent === null ? this.#roots.get(salt) : this.#nodes.get(parent.block);
    return above?.children.get(key) ?? null;
  }

  /** Enters a block that `find` does not find; `parent` is in the tree. */
  insert(salt: string | null, parent: CachedBlock | null, key: string, block: number): CachedBlock {
    const above = parent === null ? this.#root(salt) : (this.#nodes.get(parent.block) as Node);
    const node = { block, key, salt, above, first: parent === null, cached: true, children: new Map() };
    above.children.set(key, node);
    this.#nodes.set(block, node);
    return node;
  }

  /** Takes a block out, which must have no children left. */
  remove(block: number): void {
    const node = this.#nodes.get(block);
    if (node === undefined) return;
    node.cached = false;
    this.#nodes.delete(block);
    node.above.children.delete(node.key);
    if (node.first && node.above.children.size === 0) this.#roots.delete(node.salt);
  }

  /** Blocks below `block`, each after the one that it was computed after. */
  below(block: number): number[] {
    const found: number[] = [];
    const visit = (level: Level): void => {
      for (const child of level.children.values()) {
        found.push(child.block);
        visit(child);
      }
    };
    const node = this.#nodes.get(block);
    if (node !== undefined) visit(node);
    return found;
  }

  #root(salt: string | null): Level {
    let root = this.#roots.get(salt);
    if (root === undefined) {
      root = { salt, children: new Map() };
      this.#roots.set(salt, root);
    }
    return root;
  }
}
