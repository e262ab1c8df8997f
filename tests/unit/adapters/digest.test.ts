import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { adapterDigest } from '../../../src/adapters/digest.js';

const files = [
  { path: 'adapter_model.safetensors', bytes: 10, sha256: 'aa' },
  { path: 'adapter_config.json', bytes: 2, sha256: 'bb' },
];

test('is the SHA-256 of the sorted lines', () => {
  const text = 'adapter_config.json\u00002\u0000bb\nadapter_model.safetensors\u000010\u0000aa\n';
  assert.equal(adapterDigest(files), createHash('sha256').update(text).digest('hex'));
  assert.equal(adapterDigest([...files].reverse()), adapterDigest(files));
});

test('changes with any path, size, content or further file', () => {
  const [first, second] = files;
  assert.ok(first !== undefined && second !== undefined);
  const variants = [
    [first],
    [first, { ...second, bytes: 3 }],
    [first, { ...second, sha256: 'bc' }],
    [first, { ...second, path: 'other.json' }],
    [first, second, { path: 'tokenizer.json', bytes: 1, sha256: 'cc' }],
  ];
  assert.equal(new Set([...variants, files].map(adapterDigest)).size, 6);
});
