import { join } from 'node:path';
import type { GenerationDefaults } from '../../core/model-manifest.js';
import { configuredTemplate, specialTokensOf } from '../../core/tokenizer-config.js';
import { invalidModel } from '../model-errors.js';
import {
  CHAT_TEMPLATE_FILE,
  CONFIG_FILE,
  GENERATION_CONFIG_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from './hf-files.js';
import { isRecord, JsonFields, readJsonFile, readTextFile } from './json-file.js';
import type { TextMetadata } from './model-source.js';

/**
 * Reads ids, chat template and sampling defaults of a model directory. End tokens are the union of config.json and
 * generation_config.json; when both are silent, tokenizer_config.json's `eos_token`. ERR_MODEL_INVALID without any.
 */
export async function readTextMetadata(directory: string): Promise<TextMetadata> {
  const config = await readFields(directory, CONFIG_FILE);
  const generation = await readFields(directory, GENERATION_CONFIG_FILE);
  const tokenizer = await readFields(directory, TOKENIZER_CONFIG_FILE);
  const ends = new Set([...config.ids('eos_token_id'), ...generation.ids('eos_token_id')]);
  if (ends.size === 0) ends.add(await tokenizerEnd(directory, tokenizer));
  return {
    eosTokenIds: [...ends].sort((a, b) => a - b),
    bosTokenId: config.ids('bos_token_id')[0] ?? generation.ids('bos_token_id')[0] ?? null,
    chatTemplate: (await readTextFile(join(directory, CHAT_TEMPLATE_FILE))) ?? templateOf(tokenizer),
    specialTokens: specialTokensOf(tokenizer.all),
    generationDefaults: readDefaults(generation),
  };
}

async function readFields(directory: string, name: string): Promise<JsonFields> {
  const path = join(directory, name);
  return (await readJsonFile(path)) ?? new JsonFields(path, {});
}

function readDefaults(generation: JsonFields): GenerationDefaults {
  return {
    temperature: generation.optionalNumber('temperature'),
    topK: generation.optionalNumber('top_k'),
    topP: generation.optionalNumber('top_p'),
    repetitionPenalty: generation.optionalNumber('repetition_penalty'),
  };
}

function templateOf(tokenizer: JsonFields): string | null {
  const template = configuredTemplate(tokenizer.all);
  if (template !== undefined) return template;
  return tokenizer.refuse('chat_template', 'text, or a list with an entry named default');
}

async function tokenizerEnd(directory: string, tokenizerConfig: JsonFields): Promise<number> {
  const raw = tokenizerConfig.raw('eos_token');
  const text = isRecord(raw) ? raw.content : raw;
  const tokenizer = await readFields(directory, TOKENIZER_FILE);
  const added = tokenizer.raw('added_tokens');
  const match = (Array.isArray(added) ? added : []).filter(isRecord).find(({ content }) => content === text);
  const vocabulary = tokenizer.object('model')?.raw('vocab');
  const known =
    isRecord(vocabulary) && typeof text === 'string' && Object.hasOwn(vocabulary, text) ? vocabulary[text] : undefined;
  const id = match?.id ?? known;
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0) return id;
  throw invalidModel(
    join(directory, CONFIG_FILE),
    'eos_token_id: expected one here, in generation_config.json, or an eos_token in tokenizer_config.json, found none: no token would end a generation',
    'eos_token_id',
  );
}
