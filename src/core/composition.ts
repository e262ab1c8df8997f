/** One adapter of several that a request combines. */
export interface WeightedAdapter {
  /** Adapter name; never the base. */
  readonly name: string;
  /** Finite in float32. */
  readonly weight: number;
}

/** Adapters that one request may combine. */
export const MAX_MEMBERS = 8;

/** How a request combines adapters: their deltas add up per row, each times its weight; nothing is merged. */
export interface Composition {
  readonly kind: 'sum';
  /** 1 … MAX_MEMBERS, each name once. */
  readonly members: readonly WeightedAdapter[];
}

/** The members' names as headers, logs and labels show them: no name holds a comma. */
export function membersLabel(members: readonly WeightedAdapter[]): string {
  return members.map(({ name }) => name).join(',');
}
