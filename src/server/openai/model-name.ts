import { type Composition, MAX_MEMBERS, membersLabel, type WeightedAdapter } from '../../core/composition.js';
import { LoramuxError } from '../../core/errors.js';
import { BASE_NAME, isAdapterName } from '../../core/names.js';
import type { ServedBy } from '../../core/request.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readArray,
  readNumber,
  readObject,
  readString,
  refuseOthers,
  requireField,
  wrongValue,
} from './fields.js';

/** Names that stand for the base model; the first is its own. */
export type BaseNames = readonly [string, ...string[]];

/** Whom a request is for. */
export interface ModelChoice {
  /** As replies name it. */
  readonly shown: string;
  /** As in GenerationSpec. */
  readonly adapter: string;
  readonly composition?: Composition;
  /** The first hex digits of the digest that must answer; null = whichever the name has. */
  readonly digest: string | null;
}

const DIGEST = /^sha256:([0-9a-f]{12,64})$/;

/** 404: never a guess, never the base instead. */
export function unknownModel(name: string): LoramuxError {
  const shown = name.length <= 280 ? name : `${name.slice(0, 280)}…`;
  const message = `The model ${JSON.stringify(shown)} does not exist: see GET /v1/models for those there are`;
  return new LoramuxError('ERR_ADAPTER_NOT_FOUND', message);
}

/**
 * Understands `model`: a name of the base (or `""`), an adapter or alias, either of them as `base:adapter`, and
 * `name@sha256:…` for an adapter that must have that digest. Whether an adapter of that name exists is the engine's to
 * say. ERR_ADAPTER_NOT_FOUND for what can be no name at all.
 */
export function readModel(value: unknown, base: BaseNames): ModelChoice {
  requireField('model', value);
  const name = readString('model', value);
  if (name === '' || base.includes(name)) {
    return { shown: name === '' ? base[0] : name, adapter: BASE_NAME, digest: null };
  }
  const at = name.indexOf('@');
  const digest = at < 0 ? null : (DIGEST.exec(name.slice(at + 1))?.[1] ?? null);
  const full = at < 0 ? name : name.slice(0, at);
  const colon = full.lastIndexOf(':');
  const adapter = colon >= 0 && base.includes(full.slice(0, colon)) ? full.slice(colon + 1) : full;
  if (!isAdapterName(adapter) || (at >= 0 && digest === null)) throw unknownModel(name);
  return { shown: adapter, adapter, digest };
}

/** `model`, or the sum of `adapters` on top of it, when `model` names the base. */
export function readModelAndAdapters(body: JsonObject, base: BaseNames): ModelChoice {
  const choice = readModel(body.model, base);
  if (isAbsent(body.adapters)) return choice;
  if (choice.adapter !== BASE_NAME) {
    const message = "'adapters' goes with a 'model' that names the base: list that adapter among them";
    throw new FieldError('invalid_value', 'adapters', message);
  }
  const members = readMembers(readArray('adapters', body.adapters));
  const [first] = members;
  if (members.length === 1 && first?.weight === 1) return { shown: first.name, adapter: first.name, digest: null };
  const adapter = membersLabel(members);
  return { shown: adapter, adapter, composition: { kind: 'sum', members }, digest: null };
}

function readMembers(list: readonly unknown[]): WeightedAdapter[] {
  if (list.length < 1 || list.length > MAX_MEMBERS) {
    throw wrongValue('adapters', `an array of 1 to ${MAX_MEMBERS} objects {id, weight}`, list);
  }
  const members = list.map((item, at) => readMember(`adapters[${at}]`, item));
  const names = new Set(members.map(({ name }) => name));
  if (names.size === members.length) return members;
  throw new FieldError('invalid_value', 'adapters', "'adapters' must name each adapter once: add its weights");
}

function readMember(path: string, item: unknown): WeightedAdapter {
  const object = readObject(path, item);
  refuseOthers(path, object, ['id', 'weight']);
  requireField(`${path}.id`, object.id);
  const name = readString(`${path}.id`, object.id);
  if (!isAdapterName(name)) throw unknownModel(name);
  const weight = readNumber(`${path}.weight`, object.weight) ?? 1;
  // Weights are applied in float32.
  if (!Number.isFinite(Math.fround(weight))) throw wrongValue(`${path}.weight`, 'finite in float32', weight);
  return { name, weight };
}

/** ERR_ADAPTER_NOT_FOUND when the adapter that answers is not the one whose digest was asked for. */
export function checkDigest({ shown, digest }: ModelChoice, servedBy: ServedBy): void {
  if (digest === null || servedBy.digest?.startsWith(digest) === true) return;
  throw unknownModel(`${shown}@sha256:${digest}`);
}
