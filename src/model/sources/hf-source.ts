import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { invalidModel } from '../model-errors.js';
import { readHuggingFaceConfig } from './hf-config.js';
import { CONFIG_FILE, listModelFiles, TOKENIZER_FILE } from './hf-files.js';
import { readTextMetadata } from './hf-text.js';
import { JsonFields, readJsonFile } from './json-file.js';
import type { ModelSource } from './model-source.js';
import { openSafetensors, type SafetensorsFile } from './safetensors-file.js';
import { tensorRows } from './tensor.js';

/** Buffers that old exports saved beside the weights; they are recomputed from the configuration. */
const IGNORED = /\.rotary_emb\.inv_freq$/;

/**
 * Opens a Hugging Face model directory: config.json, safetensors (one file or an indexed set), tokenizer.json. Symbolic
 * links, as in hub snapshots, are followed. ERR_MODEL_NOT_FOUND, ERR_MODEL_INVALID, ERR_MODEL_UNSUPPORTED.
 */
export async function openHuggingFaceSource(directory: string): Promise<ModelSource> {
  const paths = (await listModelFiles(directory)).filter((path) => path.endsWith('.safetensors'));
  const files: SafetensorsFile[] = [];
  const close = async () => {
    await Promise.all(files.map((file) => file.close()));
  };
  try {
    const owners = new Map<string, SafetensorsFile>();
    for (const path of paths) {
      const file = await openSafetensors(path);
      files.push(file);
      for (const name of file.names) {
        if (owners.has(name)) throw invalidModel(path, `tensor ${name} is in another shard as well`, name);
        if (!IGNORED.test(name)) owners.set(name, file);
      }
    }
    return await describe(directory, owners, close);
  } catch (error) {
    await close();
    throw error;
  }
}

async function describe(
  directory: string,
  owners: ReadonlyMap<string, SafetensorsFile>,
  close: () => Promise<void>,
): Promise<ModelSource> {
  const configPath = join(directory, CONFIG_FILE);
  const json = (await readJsonFile(configPath)) ?? new JsonFields(configPath, {});
  const { config, requiredBiases } = readHuggingFaceConfig(json, owners.has('lm_head.weight'));
  return {
    path: directory,
    config,
    requiredBiases,
    tensorNames: new Set(owners.keys()),
    tensor(name, shape) {
      const location = owners.get(name)?.locate(name);
      if (location === undefined)
        throw invalidModel(
          directory,
          `tensor ${name} of shape [${shape}] is missing from the ${basename(directory)} weights`,
          name,
        );
      return tensorRows(location, shape);
    },
    tokenizerJson: () => readTokenizer(join(directory, TOKENIZER_FILE), config.vocabSize),
    textMetadata: () => readTextMetadata(directory),
    close,
  };
}

async function readTokenizer(path: string, vocabSize: number): Promise<Uint8Array> {
  const json = await readJsonFile(path);
  const vocabulary = json?.object('model')?.raw('vocab');
  const entries = typeof vocabulary === 'object' && vocabulary !== null ? Object.keys(vocabulary).length : 0;
  if (entries > vocabSize)
    throw invalidModel(
      path,
      `model.vocab: expected at most the ${vocabSize} rows of the embedding, found ${entries} tokens`,
      'model.vocab',
    );
  return readFile(path);
}
