import assert from 'node:assert/strict';
import { test } from 'node:test';
import { invalidAdapter } from '../../../src/adapters/offenders.js';

test('the first offenders are in the message, with how many more there are', () => {
  const offenders = ['a', 'b', 'c', 'd', 'e'].map((key) => ({ key, expected: 'null', found: '1' }));
  const error = invalidAdapter('adapter_config.json', offenders, 'Mend it');
  assert.equal(error.code, 'ERR_ADAPTER_INVALID');
  assert.match(error.message, /^adapter_config\.json: a: expected null, found 1; b: .*; c: .*; and 2 more\. Mend it$/);
  assert.deepEqual(error.details?.offenders, offenders);
});

test('a hostile file makes no huge reply', () => {
  const offenders = Array.from({ length: 90_000 }, (_, i) => ({
    key: `${i}${'k'.repeat(100_000 / (i + 1))}`,
    expected: 'a known key',
    found: 'x'.repeat(10_000 / (i + 1)),
  }));
  const error = invalidAdapter('adapter_config.json', offenders);
  assert.match(error.message, /and 89997 more$/);
  assert.ok(JSON.stringify(error.toRecord()).length < 200_000);
});
