/** One adapter of several that a request combines. */
export interface WeightedAdapter {
  /** Adapter name; never the base. */
  readonly name: string;
  /** Finite in float32. */
  readonly weight: number;
}

/** Adapters that one request may combine. */
export const MAX_MEMBERS = 8;

/** How factors are merged. Parameters that a strategy does not use are 0 and `total`. */
export interface MergeMethod {
  /** Whose weights and scalings: see docs/adapters.md. */
  readonly formula: 'lorax' | 'peft';
  readonly strategy: 'linear' | 'ties' | 'dare_linear' | 'dare_ties';
  /** Share of entries that pruning keeps; at least 0, with PEFT's formulas above 0 and at most 1. */
  readonly density: number;
  readonly majoritySign: 'total' | 'frequency';
}

/** The members' deltas add up per row, each times its weight; nothing is merged. Each name once. */
export interface SumComposition {
  readonly kind: 'sum';
  readonly members: readonly WeightedAdapter[];
}

/** The members' factors are merged into one adapter, which is cached. At least two; a name may repeat. */
export interface MergeComposition {
  readonly kind: 'merge';
  readonly members: readonly WeightedAdapter[];
  readonly method: MergeMethod;
}

/** How a request combines 1 … MAX_MEMBERS adapters. */
export type Composition = SumComposition | MergeComposition;

/** The members' names as headers, logs and labels show them: no name holds a comma. */
export function membersLabel(members: readonly WeightedAdapter[]): string {
  return members.map(({ name }) => name).join(',');
}
