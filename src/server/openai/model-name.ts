import type { RemoteSource } from '../../core/adapter-source.js';
import { type Composition, MAX_MEMBERS, membersLabel, type WeightedAdapter } from '../../core/composition.js';
import { LoramuxError } from '../../core/errors.js';
import { BASE_NAME, isAdapterName } from '../../core/names.js';
import type { ServedBy } from '../../core/request.js';
import type { JsonObject } from '../fields.js';
import {
  type AdapterOrigin,
  type RequestSource,
  readAdapterName,
  readOrigin,
  sourcesOf,
} from '../lorax/adapter-origin.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readArray,
  readNumber,
  readObject,
  readOptionalString,
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
  /** What the names mean, and where each is to be loaded from unless they are the server's own. */
  readonly source: AdapterOrigin['kind'];
  readonly adapterSources?: ReadonlyMap<string, RemoteSource>;
  /** The first hex digits of the digest that must answer; null = whichever the name has. */
  readonly digest: string | null;
}

/** The server's own adapters. */
const OWN: AdapterOrigin = { kind: 'local', token: null };
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
 * say. ERR_ADAPTER_NOT_FOUND for what can be no name at all. With an origin other than the server's own adapters, what
 * is no name of the base is a repository or address there.
 */
export function readModel(value: unknown, base: BaseNames, origin: AdapterOrigin = OWN): ModelChoice {
  requireField('model', value);
  const name = readString('model', value);
  if (name === '' || base.includes(name)) {
    return { shown: name === '' ? base[0] : name, adapter: BASE_NAME, source: 'local', digest: null };
  }
  if (origin.kind !== 'local') {
    const adapter = readAdapterName('model', behindBase(name, base), origin);
    return { shown: adapter, adapter, ...remote([adapter], origin), digest: null };
  }
  const at = name.indexOf('@');
  const digest = at < 0 ? null : (DIGEST.exec(name.slice(at + 1))?.[1] ?? null);
  const full = at < 0 ? name : name.slice(0, at);
  const adapter = behindBase(full, base);
  if (!isAdapterName(adapter) || (at >= 0 && digest === null)) throw unknownModel(name);
  return { shown: adapter, adapter, source: 'local', digest };
}

/** The adapter of `base:adapter`. */
function behindBase(name: string, base: BaseNames): string {
  const colon = name.lastIndexOf(':');
  return colon >= 0 && base.includes(name.slice(0, colon)) ? name.slice(colon + 1) : name;
}

function remote(names: readonly string[], origin: AdapterOrigin): Pick<ModelChoice, 'source' | 'adapterSources'> {
  const adapterSources = sourcesOf(names, origin);
  return adapterSources === undefined ? { source: 'local' } : { source: origin.kind, adapterSources };
}

/** `adapter_source` and `api_token`, as LoRAX has them. FieldError, or ERR_VALIDATION for sources not allowed. */
function readSourceFields(body: JsonObject, allowed: readonly RequestSource[]): AdapterOrigin {
  const kind = readOptionalString('adapter_source', body.adapter_source);
  const token = readOptionalString('api_token', body.api_token);
  return kind === null && token === null ? OWN : readOrigin({ adapter_source: kind, api_token: token }, allowed);
}

/** `model`, or the sum of `adapters` on top of it, when `model` names the base. */
export function readModelAndAdapters(
  body: JsonObject,
  base: BaseNames,
  sources: readonly RequestSource[],
): ModelChoice {
  const origin = readSourceFields(body, sources);
  const choice = readModel(body.model, base, origin);
  if (isAbsent(body.adapters)) return choice;
  if (choice.adapter !== BASE_NAME) {
    const message = "'adapters' goes with a 'model' that names the base: list that adapter among them";
    throw new FieldError('invalid_value', 'adapters', message);
  }
  const members = readMembers(readArray('adapters', body.adapters), origin);
  const from = remote(
    members.map(({ name }) => name),
    origin,
  );
  const [first] = members;
  if (members.length === 1 && first?.weight === 1) {
    return { shown: first.name, adapter: first.name, ...from, digest: null };
  }
  const adapter = membersLabel(members);
  return { shown: adapter, adapter, composition: { kind: 'sum', members }, ...from, digest: null };
}

function readMembers(list: readonly unknown[], origin: AdapterOrigin): WeightedAdapter[] {
  if (list.length < 1 || list.length > MAX_MEMBERS) {
    throw wrongValue('adapters', `an array of 1 to ${MAX_MEMBERS} objects {id, weight}`, list);
  }
  const members = list.map((item, at) => readMember(`adapters[${at}]`, item, origin));
  const names = new Set(members.map(({ name }) => name));
  if (names.size === members.length) return members;
  throw new FieldError('invalid_value', 'adapters', "'adapters' must name each adapter once: add its weights");
}

function readMember(path: string, item: unknown, origin: AdapterOrigin): WeightedAdapter {
  const object = readObject(path, item);
  refuseOthers(path, object, ['id', 'weight']);
  requireField(`${path}.id`, object.id);
  const given = readString(`${path}.id`, object.id);
  const name = origin.kind === 'local' ? given : readAdapterName(`${path}.id`, given, origin);
  if (name === BASE_NAME || (origin.kind === 'local' && !isAdapterName(name))) throw unknownModel(given);
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
