import assert from 'node:assert/strict';
import { test } from 'node:test';
import { writeOnnxModel } from '../../../../src/model/graph/onnx-writer.js';
import { messages, numbers, readFields, readModel, texts } from '../helpers/onnx-reader.js';

const MODEL = writeOnnxModel({
  name: 'g',
  inputs: [{ name: 'x', type: 'int64', shape: ['T', 3] }],
  outputs: [{ name: 'y', type: 'float32', shape: ['T'] }],
  nodes: [
    {
      type: 'Op',
      domain: 'd',
      name: 'n',
      inputs: ['x', '', 'w'],
      outputs: ['y'],
      attributes: { a: -1, b: { float: 0.5 } },
    },
  ],
  weights: [{ name: 'w', type: 'uint8', shape: [2, 3], offset: 5_000_000_000, bytes: 6 }],
  weightsFile: 'weights.bin',
});

test('versions, nodes and attributes survive a round trip', () => {
  const model = readModel(MODEL);
  assert.equal(model.irVersion, 10);
  assert.deepEqual(model.opsets, { '': 21, 'com.microsoft': 1, loramux: 1 });
  assert.deepEqual(model.nodes, [
    { type: 'Op', domain: 'd', inputs: ['x', '', 'w'], outputs: ['y'], attributes: { a: -1, b: 0.5 } },
  ]);
});

test('weights are external, with offsets above 4 GiB', () => {
  assert.deepEqual(readModel(MODEL).initializers, [
    {
      name: 'w',
      type: 2,
      shape: [2, 3],
      values: [],
      external: { location: 'weights.bin', offset: '5000000000', length: '6' },
    },
  ]);
});

test('shapes mix symbols and sizes', () => {
  const [graph] = messages(readFields(MODEL), 7);
  assert.ok(graph !== undefined);
  const [input] = messages(graph, 11);
  assert.ok(input !== undefined);
  const [type] = messages(input, 2).flatMap((entry) => messages(entry, 1));
  assert.ok(type !== undefined);
  assert.deepEqual(numbers(type, 1), [7]);
  const [first, second] = messages(type, 2).flatMap((shape) => messages(shape, 1));
  assert.deepEqual([first && texts(first, 2), second && numbers(second, 1)], [['T'], [3]]);
});
