import { type Composition, membersLabel, type WeightedAdapter } from '../../core/composition.js';
import { BASE_NAME } from '../../core/names.js';
import { invalidField, readString } from '../fields.js';
import { type AdapterOrigin, readAdapterName } from './adapter-origin.js';

/** What a prompt runs under: one adapter or the base, or a composition, then `adapter` names its members. */
export interface AdapterChoice {
  readonly adapter: string;
  readonly composition?: Composition;
}

/** A sum of `members`, which `field` named. One at weight 1 is that adapter as it is. */
export function sumOf(field: string, members: readonly WeightedAdapter[]): AdapterChoice {
  refuseRepeats(field, members);
  const [first] = members;
  if (members.length === 1 && first?.weight === 1) return { adapter: first.name };
  return { adapter: membersLabel(members), composition: { kind: 'sum', members } };
}

export function readMemberName(field: string, value: unknown, origin: AdapterOrigin): string {
  const name = readAdapterName(field, readString(field, value), origin);
  if (name !== BASE_NAME) return name;
  throw invalidField(field, `\`${field}\` must name an adapter: the base is what the adapters are added to`);
}

/** Weights are applied in float32. */
export function checkWeight(field: string, weight: number): number {
  if (Number.isFinite(Math.fround(weight))) return weight;
  throw invalidField(field, `\`${field}\` must be finite in float32, got ${weight}`);
}

function refuseRepeats(field: string, members: readonly WeightedAdapter[]): void {
  const seen = new Set<string>();
  for (const { name } of members) {
    if (seen.has(name))
      throw invalidField(field, `\`${field}\` must name each adapter once, got ${name} twice: add its weights`);
    seen.add(name);
  }
}
