import { MAX_MEMBERS, type WeightedAdapter } from '../../core/composition.js';
import { invalidField, type JsonObject, readNumber, readObject, readOptionalString } from '../fields.js';
import { type AdapterChoice, checkWeight, readMemberName, sumOf } from './adapter-members.js';
import { type AdapterOrigin, readAdapterName } from './adapter-origin.js';
import { readMergedAdapters } from './merged-adapters.js';

/** Fields of which a call may use one. */
const CHOICES = ['adapter_id', 'adapter_names', 'merged_adapters', 'adapters'] as const;

/** The choice that `adapter_id`, `merged_adapters` or `adapters` make for a single prompt. Throws ERR_VALIDATION. */
export function readAdapterChoice(fields: JsonObject, origin: AdapterOrigin): AdapterChoice {
  if (isGiven(fields.adapters)) return readSum(fields.adapters, origin);
  if (isGiven(fields.merged_adapters)) return readMergedAdapters(fields.merged_adapters, origin);
  return { adapter: readAdapterName('adapter_id', readOptionalString('adapter_id', fields.adapter_id) ?? '', origin) };
}

/** Refuses two ways at once of saying which adapters to use. */
export function refuseSeveralChoices(fields: JsonObject): void {
  const given = CHOICES.filter((name) => isGiven(fields[name]));
  const [first, second] = given;
  if (first === undefined || second === undefined) return;
  // LoRAX's message names its own field `adapters`.
  const shown = second === 'merged_adapters' ? 'adapters' : second;
  throw invalidField(second, `at most one of \`${first}\` or \`${shown}\` may be provided`);
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** `adapters`: their deltas add up, each times its weight. */
function readSum(value: unknown, origin: AdapterOrigin): AdapterChoice {
  if (!Array.isArray(value) || value.length < 1 || value.length > MAX_MEMBERS) {
    const got = Array.isArray(value) ? `, got ${value.length}` : '';
    throw invalidField('adapters', `\`adapters\` must be a list of 1 to ${MAX_MEMBERS} objects {id, weight}${got}`);
  }
  return sumOf(
    'adapters',
    value.map((item: unknown, at) => readMember(`adapters[${at}]`, item, origin)),
  );
}

function readMember(field: string, value: unknown, origin: AdapterOrigin): WeightedAdapter {
  const object = readObject(field, value);
  for (const name of Object.keys(object)) {
    if (name !== 'id' && name !== 'weight')
      throw invalidField('adapters', `unknown field \`${field}.${name}\`: remove it`);
  }
  return {
    name: readMemberName(`${field}.id`, object.id, origin),
    weight: checkWeight(`${field}.weight`, readNumber(`${field}.weight`, object.weight) ?? 1),
  };
}
