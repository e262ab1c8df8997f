import assert from 'node:assert/strict';
import { mkdir, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { planModel } from '../../../../src/model/graph/model-plan.js';
import { listModelFiles } from '../../../../src/model/sources/hf-files.js';
import { openHuggingFaceSource } from '../../../../src/model/sources/hf-source.js';
import { readFloat32 } from '../../../../src/model/sources/tensor.js';
import { noise } from '../helpers/random-weights.js';
import { loramuxError, temporaryDirectory } from '../helpers/temporary.js';
import {
  storedF32,
  TINY_CONFIG,
  TINY_TOKENIZER,
  tinyWeights,
  writeDirectory,
  writeSafetensors,
} from '../helpers/tiny-directory.js';

type Files = Parameters<typeof writeDirectory>[1];

async function open(context: TestContext, files: Files = {}) {
  const directory = await writeDirectory(await temporaryDirectory(context), files);
  const source = await openHuggingFaceSource(directory);
  context.after(() => source.close());
  return source;
}

function sharded(): Files {
  const entries = Object.entries(tinyWeights());
  const first = Object.fromEntries(entries.slice(0, 5));
  const second = Object.fromEntries(entries.slice(5));
  const map = (tensors: object, file: string) => Object.keys(tensors).map((name) => [name, file] as const);
  return {
    'model.safetensors': null,
    'model-00001-of-00002.safetensors': writeSafetensors(first),
    'model-00002-of-00002.safetensors': writeSafetensors(second),
    'model.safetensors.index.json': {
      weight_map: Object.fromEntries([
        ...map(first, 'model-00001-of-00002.safetensors'),
        ...map(second, 'model-00002-of-00002.safetensors'),
      ]),
    },
  };
}

describe('weights', () => {
  test('one file and an indexed set hold the same model', async (t) => {
    const whole = await open(t);
    const parts = await open(t, sharded());
    assert.deepEqual([...parts.tensorNames].sort(), [...whole.tensorNames].sort());
    const name = 'model.layers.0.mlp.down_proj.weight';
    const row = await readFloat32(parts.tensor(name, [32, 64]), 1, 1);
    assert.deepEqual(row, noise(32 * 64, 9).slice(64, 128));
    planModel(parts, 'f32');
  });

  test('the symbolic links of a hub snapshot are followed', async (t) => {
    const root = await temporaryDirectory(t);
    const blobs = await writeDirectory(join(root, 'blobs'));
    const snapshot = join(root, 'snapshots', 'abc');
    await mkdir(snapshot, { recursive: true });
    for (const name of ['config.json', 'tokenizer.json', 'model.safetensors']) {
      await rename(join(blobs, name), join(blobs, `blob-of-${name}`));
      await symlink(join('..', '..', 'blobs', `blob-of-${name}`), join(snapshot, name));
    }
    const source = await openHuggingFaceSource(snapshot);
    t.after(() => source.close());
    planModel(source, 'f32');
  });

  test('saved rotary buffers are ignored, other strangers refused', async (t) => {
    const buffer = { 'model.layers.0.self_attn.rotary_emb.inv_freq': storedF32([8], 1) };
    planModel(await open(t, { 'model.safetensors': writeSafetensors({ ...tinyWeights(), ...buffer }) }), 'f32');
    const strange = { 'lm_head.bias': storedF32([8], 1) };
    const source = await open(t, { 'model.safetensors': writeSafetensors({ ...tinyWeights(), ...strange }) });
    assert.throws(() => planModel(source, 'f32'), loramuxError('ERR_MODEL_INVALID', 'lm_head.bias'));
  });

  test('a tied head ignores a stored copy', async (t) => {
    const source = await open(t, { 'config.json': { ...TINY_CONFIG, tie_word_embeddings: true } });
    assert.deepEqual(planModel(source, 'f32').head?.parts, [{ module: 'model.embed_tokens', firstRow: 0, rows: 8 }]);
  });

  test('required biases that are missing are named', async (t) => {
    const source = await open(t, { 'config.json': { ...TINY_CONFIG, attention_bias: true } });
    assert.throws(() => planModel(source, 'f32'), loramuxError('ERR_MODEL_INVALID', 'self_attn.q_proj.bias'));
  });

  test('a pickle is refused with the way out', async (t) => {
    const directory = await writeDirectory(await temporaryDirectory(t), {
      'model.safetensors': null,
      'pytorch_model.bin': 'x',
    });
    await assert.rejects(
      listModelFiles(directory),
      loramuxError('ERR_MODEL_UNSUPPORTED', 'pytorch_model.bin', 'save_pretrained'),
    );
  });

  test('missing files are named', async (t) => {
    const root = await temporaryDirectory(t);
    const none = await writeDirectory(join(root, 'a'), { 'model.safetensors': null });
    await assert.rejects(listModelFiles(none), loramuxError('ERR_MODEL_NOT_FOUND', 'model.safetensors.index.json'));
    const noTokenizer = await writeDirectory(join(root, 'b'), { 'tokenizer.json': null });
    await assert.rejects(
      listModelFiles(noTokenizer),
      loramuxError('ERR_MODEL_NOT_FOUND', 'tokenizer.json', 'save_pretrained'),
    );
    const noShard = await writeDirectory(join(root, 'c'), { ...sharded(), 'model-00002-of-00002.safetensors': null });
    await assert.rejects(
      listModelFiles(noShard),
      loramuxError('ERR_MODEL_NOT_FOUND', 'model-00002-of-00002.safetensors'),
    );
  });

  test('an index may not point outside its directory', async (t) => {
    const index = { weight_map: { x: '../secret.safetensors' } };
    const files = { 'model.safetensors': null, 'model.safetensors.index.json': index };
    const directory = await writeDirectory(await temporaryDirectory(t), files);
    await assert.rejects(listModelFiles(directory), loramuxError('ERR_MODEL_INVALID', 'weight_map.x', '../secret'));
  });

  test('more tokens than embedding rows are refused', async (t) => {
    const vocab = Object.fromEntries(Array.from({ length: 9 }, (_, id) => [`t${id}`, id]));
    const source = await open(t, { 'tokenizer.json': { ...TINY_TOKENIZER, model: { vocab } } });
    await assert.rejects(source.tokenizerJson(), loramuxError('ERR_MODEL_INVALID', 'model.vocab', '8', '9'));
  });
});

describe('text metadata', () => {
  test('end tokens are the union of both configurations', async (t) => {
    const source = await open(t, {
      'generation_config.json': { eos_token_id: [5, 1, 3], temperature: 0.6, top_p: 0.9, top_k: null },
    });
    const text = await source.textMetadata();
    assert.deepEqual(text.eosTokenIds, [1, 3, 5]);
    assert.deepEqual(text.generationDefaults, { temperature: 0.6, topK: null, topP: 0.9, repetitionPenalty: null });
  });

  test('eos_token of the tokenizer is the last resort, none an error', async (t) => {
    const silent = { ...TINY_CONFIG, eos_token_id: null };
    const named = await open(t, { 'config.json': silent, 'tokenizer_config.json': { eos_token: { content: '</s>' } } });
    assert.deepEqual((await named.textMetadata()).eosTokenIds, [1]);
    const none = await open(t, { 'config.json': silent });
    await assert.rejects(none.textMetadata(), loramuxError('ERR_MODEL_INVALID', 'eos_token_id'));
  });

  const templates: [string, Files, string | null][] = [
    ['none', {}, null],
    ['text', { 'tokenizer_config.json': { chat_template: 'A' } }, 'A'],
    [
      'a list',
      {
        'tokenizer_config.json': {
          chat_template: [
            { name: 'rag', template: 'R' },
            { name: 'default', template: 'D' },
          ],
        },
      },
      'D',
    ],
    ['a file of its own', { 'tokenizer_config.json': { chat_template: 'A' }, 'chat_template.jinja': 'F' }, 'F'],
  ];
  for (const [what, files, expected] of templates) {
    test(`chat template: ${what}`, async (t) => {
      assert.equal((await (await open(t, files)).textMetadata()).chatTemplate, expected);
    });
  }

  test('special tokens are text, or objects with content; others are left out', async (t) => {
    const config = { bos_token: '<s>', eos_token: { content: '</s>', lstrip: false }, pad_token: null, cls_token: 3 };
    const source = await open(t, { 'tokenizer_config.json': { ...config, chat_template: 'A', extra_token: '<x>' } });
    assert.deepEqual((await source.textMetadata()).specialTokens, { bos_token: '<s>', eos_token: '</s>' });
  });

  test('a list without a default template is refused', async (t) => {
    const source = await open(t, { 'tokenizer_config.json': { chat_template: [{ name: 'rag', template: 'R' }] } });
    await assert.rejects(source.textMetadata(), loramuxError('ERR_MODEL_INVALID', 'chat_template', 'default'));
  });
});
