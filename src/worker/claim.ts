import type { AdapterLease } from '../adapters/adapter-record.js';
import { leaseAll, tryLeaseAll } from '../adapters/composition/lease-all.js';
import { acquireMerged, tryAcquireMerged } from '../adapters/composition/merge-source.js';
import { requireSummable } from '../adapters/composition/summable.js';
import { lastOccurrence } from '../adapters/invocation.js';
import type { AdapterRegistry } from '../adapters/registry.js';
import { commonText } from '../adapters/text/common-text.js';
import type { AdapterTier } from '../core/adapter.js';
import type { AdapterText } from '../core/adapter-text.js';
import { BASE_NAME } from '../core/names.js';
import type { GenerateRequest, ServedBy } from '../core/request.js';
import { BASE_ROWS, type RowAdapters, rowAdapters } from '../scheduler/row-adapters.js';
import { allowedAliases, type ClaimRegistry } from './allowed-aliases.js';

/** The adapters of one request, held: what its rows run under, and whom its reply names. */
export interface Claim {
  readonly servedBy: ServedBy;
  /** How the request's text is handled; null = as the base handles it. */
  readonly text: AdapterText | null;
  /** What the rows of a prompt of the request, and of what it generates, run under. */
  rowsFor(promptIds: Uint32Array): RowAdapters;
  /** Whether it holds the adapter of this native handle. */
  holds(handle: number): boolean;
  /** Ends the hold; calling it again does nothing. */
  release(): void;
}

/** The registry, which also makes adapters known that requests locate themselves. */
type Registry = ClaimRegistry & Pick<AdapterRegistry, 'located' | 'locate'>;

/** Claims the adapters of a request if all are resident; null otherwise, then use `claim`. Errors: as `claim`. */
export function tryClaim(all: Registry, request: GenerateRequest): Claim | null {
  if (request.adapter === BASE_NAME) return BASE_CLAIM;
  const registry = allowedAliases(all, request.allowed);
  const known = new Map<string, string>();
  for (const [name, source] of request.adapterSources ?? []) {
    const located = all.located(name, source);
    if (located === null) return null;
    known.set(name, located);
  }
  const { adapter, composition } = renamed(request, known);
  if (composition?.kind === 'merge') {
    const lease = tryAcquireMerged(registry, composition);
    return lease === null ? null : claimOf(request, [lease]);
  }
  const names = composition?.members.map(({ name }) => name) ?? [adapter];
  const leases = tryLeaseAll(registry, names);
  return leases === null ? null : claimOf(request, leases);
}

/**
 * Claims the adapters of a request, waiting for those that are not resident.
 * Errors: those of `AdapterRegistry.locate`, `acquire`, `leaseAll` and `acquireMerged`; ERR_FORBIDDEN for an alias of an adapter
 * that the caller may not use; ERR_ADAPTER_INVALID for an adapter that cannot be combined.
 */
export async function claim(all: Registry, request: GenerateRequest, signal: AbortSignal): Promise<Claim> {
  if (request.adapter === BASE_NAME) return BASE_CLAIM;
  const registry = allowedAliases(all, request.allowed);
  const known = new Map<string, string>();
  for (const [name, source] of request.adapterSources ?? []) known.set(name, await all.locate(name, source));
  const { adapter, composition } = renamed(request, known);
  if (composition?.kind === 'merge') return claimOf(request, [await acquireMerged(registry, composition, signal)]);
  const names = composition?.members.map(({ name }) => name) ?? [adapter];
  return claimOf(request, await leaseAll(registry, names, signal));
}

/** The adapters of a request by the registry's names for them; replies go on naming them as the request did. */
function renamed(
  { adapter, composition }: GenerateRequest,
  known: ReadonlyMap<string, string>,
): Pick<GenerateRequest, 'adapter' | 'composition'> {
  if (composition === undefined) return { adapter: known.get(adapter) ?? adapter };
  const members = composition.members.map(({ name, weight }) => ({ name: known.get(name) ?? name, weight }));
  return { adapter, composition: { ...composition, members } };
}

/** Whom a reply names before the adapters of its request are there. */
export function notYetServedBy({ adapter }: GenerateRequest): ServedBy {
  return { adapter, digest: null, tierAtArrival: adapter === BASE_NAME ? null : 'disk' };
}

const BASE_CLAIM: Claim = {
  servedBy: { adapter: BASE_NAME, digest: null, tierAtArrival: null },
  text: null,
  rowsFor: () => BASE_ROWS,
  holds: () => false,
  release: () => undefined,
};

/** Takes over `leases`: one for each term of a sum, else the one. */
function claimOf(request: GenerateRequest, leases: readonly AdapterLease[]): Claim {
  const { adapter } = request;
  const release = (): void => {
    for (const lease of leases) lease.release();
  };
  const tierAtArrival = furthest(leases.map((lease) => lease.tierAtArrival));
  const servedBy = { adapter, digest: leases.map(({ digest }) => digest).join(','), tierAtArrival } as const;
  try {
    const isMerge = request.composition?.kind === 'merge';
    // The members of a merge were asked when it was made.
    const text = isMerge ? (leases[0]?.text ?? null) : commonText(leases, '`adapters`');
    const holds = (handle: number): boolean => leases.some((lease) => lease.handle === handle);
    return { servedBy, text, rowsFor: rowsOf(leases, request), holds, release };
  } catch (thrown) {
    release();
    throw thrown;
  }
}

function rowsOf(leases: readonly AdapterLease[], { composition }: GenerateRequest): Claim['rowsFor'] {
  const [first] = leases;
  if (composition?.kind !== 'sum' && first !== undefined) return (promptIds) => rowsOfOne(first, promptIds);
  const terms = leases.map((lease, at) => ({ lease, weight: composition?.members[at]?.weight ?? 1 }));
  for (const { lease } of terms) requireSummable(lease.name, lease.variant, '`adapters`');
  // By digest: the sum is rounded in one order whatever the order of the list and of the loads.
  terms.sort((a, b) => compareText(a.lease.digest, b.lease.digest) || compareText(a.lease.name, b.lease.name));
  const rows = rowAdapters(terms.map(({ lease, weight }) => ({ adapter: lease.handle, digest: lease.digest, weight })));
  return () => rows;
}

/** An activated adapter begins where the prompt calls it last, and never if it does not; what follows cannot call it. */
function rowsOfOne({ handle, digest, invocation }: AdapterLease, promptIds: Uint32Array): RowAdapters {
  const terms = [{ adapter: handle, digest, weight: 1 }];
  if (invocation === null) return rowAdapters(terms);
  const start = lastOccurrence(promptIds, invocation);
  return rowAdapters(terms, start < 0 ? Number.POSITIVE_INFINITY : start);
}

/** Of the adapter that a request waited for longest. */
function furthest(tiers: readonly AdapterTier[]): AdapterTier {
  return tiers.reduce((a, b) => (DISTANCE[b] > DISTANCE[a] ? b : a), 'device');
}

const DISTANCE: Readonly<Record<AdapterTier, number>> = { device: 0, host: 1, disk: 2 };

function compareText(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
