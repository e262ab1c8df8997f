import type { AdapterTerm } from '../core/step.js';

/** An entry of the step's adapter table: rows of one entry form one segment. Same key, same entry. */
export interface AdapterEntry {
  readonly key: string;
  /** Whose K/V its rows leave behind: digests and weights. Outlives handles, so that a reload finds it again. */
  readonly identity: string;
  /** Their deltas add up, in this order; empty = base. */
  readonly terms: readonly AdapterTerm[];
}

/** What a sequence's rows run under: the base before position `from`, `entry` from there on. */
export interface RowAdapters {
  readonly entry: AdapterEntry;
  /** 0 = every row; Infinity = none, as for activated LoRA whose invocation the prompt lacks. */
  readonly from: number;
}

export const BASE_ENTRY: AdapterEntry = { key: '', identity: '', terms: [] };
export const BASE_ROWS: RowAdapters = { entry: BASE_ENTRY, from: 0 };

/** A term, and the hex digest of the adapter's files where it has one; else its handle, never used twice, is its identity. */
export interface IdentifiedTerm extends AdapterTerm {
  readonly digest?: string;
}

/**
 * Rows under a weighted sum of adapters from position `from` on. Weights are rounded to float32, as the step
 * computes with them, so that lists which mean the same share a segment.
 */
export function rowAdapters(terms: readonly IdentifiedTerm[], from = 0): RowAdapters {
  const rounded = terms.map(({ adapter, weight }) => ({ adapter, weight: Math.fround(weight) }));
  const key = rounded.map(({ adapter, weight }) => `${adapter}*${weight}`).join('+');
  const identity = terms.map(({ adapter, weight, digest }) => `${digest ?? `#${adapter}`}*${Math.fround(weight)}`);
  return { entry: { key, identity: identity.join('+'), terms: rounded }, from };
}

/** Rows under one adapter at full strength. */
export function oneAdapter(handle: number): RowAdapters {
  return rowAdapters([{ adapter: handle, weight: 1 }]);
}

/**
 * Whose K/V the rows start … start + count − 1 leave behind: '' = the base's. Where an adapter begins among them, that
 * place is part of it; where it began before is known from the rows before.
 */
export function kvIdentity({ entry, from }: RowAdapters, start: number, count: number): string {
  if (from >= start + count || entry.terms.length === 0) return '';
  return from <= start ? entry.identity : `${entry.identity}@${from - start}`;
}

/** A total order: the base, then by handles and weights, term by term. */
export function compareEntries(a: AdapterEntry, b: AdapterEntry): number {
  const shared = Math.min(a.terms.length, b.terms.length);
  for (let index = 0; index < shared; index += 1) {
    const [left, right] = [a.terms[index] as AdapterTerm, b.terms[index] as AdapterTerm];
    const order = left.adapter - right.adapter || left.weight - right.weight;
    if (order !== 0) return order;
  }
  return a.terms.length - b.terms.length;
}
