import { createHash } from 'node:crypto';
import type { MergeMember, MergeSource } from '../../core/adapter-source.js';
import type { MergeComposition, MergeMethod, WeightedAdapter } from '../../core/composition.js';
import type { AdapterLease } from '../adapter-record.js';
import type { AdapterIdentity } from '../lease-desk.js';
import type { AdapterRegistry } from '../registry.js';
import { requireSummable } from './summable.js';

type Registry = Pick<AdapterRegistry, 'identify' | 'derive' | 'acquire' | 'tryAcquire'>;

/** A lease on the merged adapter if it is resident; null otherwise, then use `acquireMerged`. Errors: as that. */
export function tryAcquireMerged(registry: Registry, composition: MergeComposition): AdapterLease | null {
  const identities = composition.members.map(({ name }) => registry.identify(name));
  if (!identities.every((identity) => identity !== null)) return null;
  return registry.tryAcquire(registry.derive(sourceOf(composition, identities)));
}

/**
 * A lease on the adapter that `composition` makes of its members, merged first if it is not resident. A member that was
 * never loaded is loaded once, so that its name stands for a digest; it need not stay resident.
 * Errors: those of `AdapterRegistry.acquire`, for the members and the merge; ERR_ADAPTER_INVALID for members that cannot
 * be merged.
 */
export async function acquireMerged(
  registry: Registry,
  composition: MergeComposition,
  signal: AbortSignal,
): Promise<AdapterLease> {
  const identities: AdapterIdentity[] = [];
  for (const { name } of composition.members) {
    for (let identity = registry.identify(name); ; identity = registry.identify(name)) {
      if (identity !== null) {
        identities.push(identity);
        break;
      }
      (await registry.acquire(name, signal)).release();
    }
  }
  return registry.acquire(registry.derive(sourceOf(composition, identities)), signal);
}

function sourceOf({ members, method }: MergeComposition, identities: readonly AdapterIdentity[]): MergeSource {
  const identified = members.map((member, at) => withIdentity(member, identities[at] as AdapterIdentity));
  return { type: 'merge', location: recipeDigest(method, identified), method, members: identified };
}

function withIdentity({ name, weight }: WeightedAdapter, { digest, variant, source }: AdapterIdentity): MergeMember {
  requireSummable(name, variant, '`merged_adapters`');
  return { name, weight, digest, source };
}

/**
 * Hex SHA-256 of what a merge is made of, in order: method, then each member's digest and weight. Numbers enter as
 * the bytes of their doubles, so that no notation changes the identity.
 */
export function recipeDigest(
  { formula, strategy, density, majoritySign }: MergeMethod,
  members: readonly Pick<MergeMember, 'digest' | 'weight'>[],
): string {
  const lines = ['loramux merge 1', `${formula} ${strategy} ${exact(density)} ${majoritySign}`];
  for (const { digest, weight } of members) lines.push(`${digest} ${exact(weight)}`);
  return createHash('sha256')
    .update(lines.map((line) => `${line}\n`).join(''))
    .digest('hex');
}

function exact(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString('hex');
}
