import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseJsonBody } from '../../../src/server/json-body.js';

test('bodies without long numbers read as JSON.parse reads them', () => {
  fc.assert(
    fc.property(fc.json(), (json) => {
      if (/\d{16}/.test(json)) return;
      assert.deepEqual(parseJsonBody(Buffer.from(json)), JSON.parse(json));
    }),
  );
});

test('every unsigned 64-bit integer survives', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (seed) => {
      const { value } = parseJsonBody(Buffer.from(`{"value":${seed},"other":1.5}`)) as { value: number | bigint };
      assert.equal(BigInt(value), seed);
    }),
  );
});

test('long fractions stay numbers, safe integers too', () => {
  const text = '{"a":0.1234567890123456789,"b":9007199254740991,"c":9007199254740993,"d":1e400}';
  assert.deepEqual(parseJsonBody(Buffer.from(text)), {
    a: 0.12345678901234568,
    b: 9007199254740991,
    c: 9007199254740993n,
    d: Number.POSITIVE_INFINITY,
  });
});

test('digits in strings do not matter, wherever quotes and backslashes are', () => {
  const digits = '12345678901234567890';
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('"', '\\', '1', 'a') }), fc.boolean(), (noise, long) => {
      const value = { [noise]: `${noise}${digits}`, after: noise };
      const json = JSON.stringify(value).replace(/}$/, `,"seed":${long ? digits : 1}}`);
      const expected = { ...value, seed: long ? BigInt(digits) : 1 };
      assert.deepEqual(parseJsonBody(Buffer.from(json)), expected);
    }),
  );
});
