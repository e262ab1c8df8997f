import type { FileSource } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import { isAdapterName } from '../../core/names.js';
import { readSource } from '../admin/source-request.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import { isAbsent, readBoolean, readObject, readOptionalString, wrongValue } from './fields.js';
import type { BaseNames } from './model-name.js';

export interface LoraLoad {
  readonly name: string;
  /** As it came. */
  readonly path: string;
  readonly source: FileSource;
  /** The name may move to other files from another place. */
  readonly inPlace: boolean;
}

const LOAD_FIELDS = ['lora_name', 'lora_path', 'load_inplace', 'base_model_name', 'is_3d_lora_weight', 'lora_int_id'];
const UNLOAD_FIELDS = ['lora_name', 'lora_int_id'];
/** As model hubs spell repositories; a directory of that shape is written with a leading `./`. */
const HUB_ID = /^(?:huggingface:\/\/)?([\w-][\w.-]*\/[\w-][\w.-]*)$/;

/** Body of `POST /v1/load_lora_adapter`. FieldError for everything that is not vLLM's, or not carried out. */
export function readLoraLoad(body: unknown, base: BaseNames): LoraLoad {
  const fields = readObject('body', body);
  refuseStrangers(fields, LOAD_FIELDS);
  const [name, path] = [fields.lora_name, fields.lora_path];
  if (typeof name !== 'string' || typeof path !== 'string' || name === '' || path === '') {
    const param = typeof name === 'string' && name !== '' ? 'lora_path' : 'lora_name';
    throw new FieldError('missing_required_parameter', param, "Both 'lora_name' and 'lora_path' must be provided.");
  }
  const served = readOptionalString('base_model_name', fields.base_model_name) ?? '';
  if (served !== '' && !base.includes(served)) throw wrongValue('base_model_name', `the base here, ${base[0]}`, served);
  if (readBoolean('is_3d_lora_weight', fields.is_3d_lora_weight, false)) {
    throw new FieldError('unsupported_parameter', 'is_3d_lora_weight', "'is_3d_lora_weight' must be false");
  }
  refuseIntId(fields);
  return {
    name: checkName(name, base),
    path,
    source: sourceOf(path),
    inPlace: readBoolean('load_inplace', fields.load_inplace, false),
  };
}

/** Body of `POST /v1/unload_lora_adapter`: the name. */
export function readLoraUnload(body: unknown): string {
  const fields = readObject('body', body);
  refuseStrangers(fields, UNLOAD_FIELDS);
  refuseIntId(fields);
  const name = fields.lora_name;
  if (typeof name === 'string' && name !== '') return name;
  throw new FieldError(
    'missing_required_parameter',
    'lora_name',
    "'lora_name' needs to be provided to unload a LoRA adapter.",
  );
}

function refuseStrangers(fields: JsonObject, known: readonly string[]): void {
  const stranger = Object.keys(fields).find((field) => !known.includes(field));
  if (stranger === undefined) return;
  throw new FieldError('unknown_parameter', stranger, `Unknown parameter: '${stranger}': expected ${known.join(', ')}`);
}

/** Adapters have no numbers here. */
function refuseIntId(fields: JsonObject): void {
  if (isAbsent(fields.lora_int_id)) return;
  throw new FieldError(
    'unsupported_parameter',
    'lora_int_id',
    "'lora_int_id' must be null: adapters go by their names",
  );
}

function checkName(name: string, base: BaseNames): string {
  if (base.includes(name)) throw wrongValue('lora_name', 'a name other than those of the base', name);
  if (isAdapterName(name)) return name;
  const expected = 'letters, digits, ".", "_" and "-", at most one "/", up to 128 characters a part';
  throw wrongValue('lora_name', expected, name);
}

/** A repository of the hub, or whatever loads of the admin API take. */
function sourceOf(path: string): FileSource {
  const repository = HUB_ID.exec(path)?.[1];
  try {
    return readSource(repository === undefined ? path : `hub:${repository}`);
  } catch (thrown) {
    if (!(thrown instanceof LoramuxError)) throw thrown;
    throw new FieldError('invalid_value', 'lora_path', thrown.message.replace('"source"', "'lora_path'"));
  }
}
