import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeRandomModel } from '../../../bench/gpu/random-model.js';
import { median, Recorder } from '../../../bench/gpu/records.js';
import { SHAPES } from '../../../bench/gpu/shapes.js';
import { planModel } from '../../../src/model/graph/model-plan.js';
import { openHuggingFaceSource } from '../../../src/model/sources/hf-source.js';
import { readFloat32 } from '../../../src/model/sources/tensor.js';
import { temporaryDirectory } from '../model/helpers/temporary.js';

test('random weights are a whole model: every tensor there, of its size, unlike the others', async (t) => {
  const directory = await temporaryDirectory(t);
  const shape = SHAPES.tiny as (typeof SHAPES)[string];
  writeRandomModel(directory, shape);
  const source = await openHuggingFaceSource(directory);
  t.after(() => source.close());
  assert.equal(planModel(source, 'f16').layers.length, shape.num_hidden_layers);
  const firsts = new Set<string>();
  for (const part of ['q_proj', 'o_proj']) {
    const tensor = source.tensor(`model.layers.1.self_attn.${part}.weight`, [shape.hidden_size, shape.hidden_size]);
    const values = await readFloat32(tensor, 0, tensor.rows);
    const square = values.reduce((sum, value) => sum + value * value, 0) / values.length;
    assert.ok(Math.abs(square * shape.hidden_size - 1) < 0.02, `variance of ${part}: ${square}`);
    firsts.add(values.slice(0, 4).join());
  }
  assert.equal(firsts.size, 2);
  const tokenizer = JSON.parse(await readFile(join(directory, 'tokenizer.json'), 'utf8'));
  assert.equal(Object.keys(tokenizer.model.vocab).length, shape.vocab_size);
});

test('the shapes are those of the published models', () => {
  const parameters = Object.entries(SHAPES).map(([name, shape]) => {
    const { hidden_size: h, intermediate_size: m, vocab_size: v, num_hidden_layers: layers } = shape;
    const kv = (h / shape.num_attention_heads) * shape.num_key_value_heads;
    return [name, 2 * v * h + layers * (2 * h * h + 2 * h * kv + 3 * h * m + 2 * h) + h];
  });
  const { 'llama-2-7b': seven, 'llama-3.1-8b': eight } = Object.fromEntries(parameters);
  assert.deepEqual([seven, eight], [6_738_415_616, 8_030_261_248]);
});

test('a record holds every round, the median, and whether the target was met', async (t) => {
  const path = join(await temporaryDirectory(t), 'records.jsonl');
  const recorder = new Recorder(path, 'tiny', 'f16');
  recorder.measure('share', 'share', [0.9, 1, 0.8], { atLeast: 0.85 });
  recorder.measure('loss', 'share', [0.04], { atMost: 0.03 });
  recorder.measure('speed', 'tokens/s', [1, 2]);
  const records = (await readFile(path, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    records.map(({ value, isMet }) => [value, isMet]),
    [
      [0.9, true],
      [0.04, false],
      [1.5, null],
    ],
  );
  assert.deepEqual(records[0].values, [0.9, 1, 0.8]);
  assert.ok(Number.isNaN(median([])));
});
