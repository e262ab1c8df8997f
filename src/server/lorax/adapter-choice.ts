import { type Composition, MAX_MEMBERS, membersLabel, type WeightedAdapter } from '../../core/composition.js';
import { BASE_NAME, isAdapterName, LORAX_BASE_NAME } from '../../core/names.js';
import { invalidField, type JsonObject, readNumber, readObject, readOptionalString, readString } from '../fields.js';

/** What a prompt runs under: one adapter or the base, or a composition, then `adapter` names its members. */
export interface AdapterChoice {
  readonly adapter: string;
  readonly composition?: Composition;
}

/** Fields of which a call may use one. */
const CHOICES = ['adapter_id', 'adapter_names', 'adapters'] as const;

/** The choice that `adapter_id` or `adapters` make for a single prompt. Throws ERR_VALIDATION. */
export function readAdapterChoice(fields: JsonObject): AdapterChoice {
  if (fields.adapters !== undefined && fields.adapters !== null) return readSum(fields.adapters);
  return { adapter: readAdapterName('adapter_id', readOptionalString('adapter_id', fields.adapter_id) ?? '') };
}

/** Refuses two ways at once of saying which adapters to use. */
export function refuseSeveralChoices(fields: JsonObject): void {
  const given = CHOICES.filter((name) => fields[name] !== undefined && fields[name] !== null);
  const [first, second] = given;
  if (first === undefined || second === undefined) return;
  throw invalidField(second, `at most one of \`${first}\` or \`${second}\` may be provided`);
}

/** The one place where LoRAX's spellings of the base model are translated. */
export function readAdapterName(field: string, name: string): string {
  if (name === '' || name === BASE_NAME || name === LORAX_BASE_NAME) return BASE_NAME;
  if (isAdapterName(name)) return name;
  throw invalidField(
    field,
    `\`${field}\` must be an adapter name: letters, digits, ".", "_" and "-", at most one "/", up to 128 characters a part`,
  );
}

/** `adapters`: their deltas add up, each times its weight. One at weight 1 is that adapter as it is. */
function readSum(value: unknown): AdapterChoice {
  if (!Array.isArray(value) || value.length < 1 || value.length > MAX_MEMBERS) {
    const got = Array.isArray(value) ? `, got ${value.length}` : '';
    throw invalidField('adapters', `\`adapters\` must be a list of 1 to ${MAX_MEMBERS} objects {id, weight}${got}`);
  }
  const members = value.map((item: unknown, at) => readMember(`adapters[${at}]`, item));
  refuseRepeats('adapters', members);
  const [first] = members;
  if (members.length === 1 && first?.weight === 1) return { adapter: first.name };
  return { adapter: membersLabel(members), composition: { kind: 'sum', members } };
}

function readMember(field: string, value: unknown): WeightedAdapter {
  const object = readObject(field, value);
  for (const name of Object.keys(object)) {
    if (name !== 'id' && name !== 'weight')
      throw invalidField('adapters', `unknown field \`${field}.${name}\`: remove it`);
  }
  return {
    name: readMemberName(`${field}.id`, object.id),
    weight: checkWeight(`${field}.weight`, readNumber(`${field}.weight`, object.weight) ?? 1),
  };
}

function readMemberName(field: string, value: unknown): string {
  const name = readAdapterName(field, readString(field, value));
  if (name !== BASE_NAME) return name;
  throw invalidField(field, `\`${field}\` must name an adapter: the base is what the adapters are added to`);
}

/** Weights are applied in float32. */
function checkWeight(field: string, weight: number): number {
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
