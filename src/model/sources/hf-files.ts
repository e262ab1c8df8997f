import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoramuxError } from '../../core/errors.js';
import { invalidModel, unsupportedModel } from '../model-errors.js';
import { isRecord, readJsonFile } from './json-file.js';

export const CONFIG_FILE = 'config.json';
export const GENERATION_CONFIG_FILE = 'generation_config.json';
export const TOKENIZER_FILE = 'tokenizer.json';
export const TOKENIZER_CONFIG_FILE = 'tokenizer_config.json';
export const CHAT_TEMPLATE_FILE = 'chat_template.jinja';
export const WEIGHTS_FILE = 'model.safetensors';
export const WEIGHTS_INDEX_FILE = 'model.safetensors.index.json';

/** Files that a model directory must or may hold besides its weights. */
export const SIDE_FILES: readonly { readonly name: string; readonly required: boolean }[] = [
  { name: CONFIG_FILE, required: true },
  { name: TOKENIZER_FILE, required: true },
  { name: TOKENIZER_CONFIG_FILE, required: false },
  { name: GENERATION_CONFIG_FILE, required: false },
  { name: CHAT_TEMPLATE_FILE, required: false },
];

const PICKLE = /\.(bin|pt|pth|ckpt|pkl)$/;
const SHARD = /^[\w.-]+\.safetensors$/;

/**
 * Paths of the files in a model directory that decide its conversion. ERR_MODEL_NOT_FOUND for a missing file,
 * ERR_MODEL_UNSUPPORTED for a directory that has pickled weights only.
 */
export async function listModelFiles(directory: string): Promise<string[]> {
  const present = new Set(await readdir(directory));
  requireWeights(directory, present);
  const weights = present.has(WEIGHTS_FILE)
    ? [WEIGHTS_FILE]
    : [WEIGHTS_INDEX_FILE, ...(await readShardNames(join(directory, WEIGHTS_INDEX_FILE)))];
  const side = SIDE_FILES.filter(({ name, required }) => required || present.has(name)).map(({ name }) => name);
  const names = [...side, ...weights];
  const missing = names.filter((name) => !present.has(name));
  if (missing.length > 0)
    throw new LoramuxError(
      'ERR_MODEL_NOT_FOUND',
      `${directory}: expected a Hugging Face model, ${missing.join(', ')} missing${missing.includes(TOKENIZER_FILE) ? ' (save the tokenizer with AutoTokenizer.save_pretrained to get tokenizer.json)' : ''}`,
      { file: join(directory, missing[0] ?? '') },
    );
  return names.map((name) => join(directory, name));
}

/** Names of the weight files that an index refers to, each once. */
export async function readShardNames(indexPath: string): Promise<string[]> {
  const index = await readJsonFile(indexPath);
  const map = index?.raw('weight_map');
  if (!isRecord(map))
    throw invalidModel(indexPath, 'weight_map: expected an object of tensor name to file', 'weight_map');
  const shards = new Set<string>();
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || !SHARD.test(shard))
      throw invalidModel(
        indexPath,
        `weight_map.${tensor}: expected a .safetensors file beside the index, found ${JSON.stringify(shard)}`,
        tensor,
      );
    shards.add(shard);
  }
  return [...shards].sort();
}

function requireWeights(directory: string, present: ReadonlySet<string>): void {
  if (present.has(WEIGHTS_FILE) || present.has(WEIGHTS_INDEX_FILE)) return;
  const pickle = [...present].find((name) => PICKLE.test(name));
  if (pickle !== undefined)
    throw unsupportedModel(
      directory,
      'the weight format',
      `${pickle} (a pickle, which can run code when read)`,
      'safetensors; load the model with transformers and save it with save_pretrained to convert it',
    );
  const gguf = [...present].find((name) => name.endsWith('.gguf'));
  throw new LoramuxError(
    'ERR_MODEL_NOT_FOUND',
    `${directory}: expected ${WEIGHTS_FILE} or ${WEIGHTS_INDEX_FILE}, found ${gguf === undefined ? 'neither' : `${gguf}: pass that file instead of its directory`}`,
    { file: directory },
  );
}
