import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type JsonValue, parseStrictJson } from '../../../src/adapters/strict-json.js';

function plain(value: JsonValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

test('agrees with JSON.parse on everything JSON.stringify writes', () => {
  fc.assert(
    fc.property(fc.json(), fc.constantFrom(0, 2), (text, indent) => {
      const value: unknown = JSON.parse(text);
      assert.deepEqual(plain(parseStrictJson(JSON.stringify(value, null, indent))), value);
    }),
  );
});

test('accepts no text that JSON.parse refuses', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'{}[]",:0-1.eE\\ntrufals \u0001') }), (text) => {
      try {
        JSON.parse(text);
      } catch {
        assert.throws(() => parseStrictJson(text), SyntaxError);
      }
    }),
    { numRuns: 1000 },
  );
});

test('keeps the order of integer-like keys', () => {
  const value = parseStrictJson('{"b": 1, "10": 2, "2": 3}');
  assert.ok(value instanceof Map);
  assert.deepEqual([...value.keys()], ['b', '10', '2']);
});

for (const [what, text, message] of [
  ['a key given twice', '{"r": 8, "r": 4}', /"r" twice/],
  ['NaN', '{"a": NaN}', /a JSON value.*NaN/],
  ['a trailing comma', '[1,]', /a JSON value/],
  ['a byte order mark', '\uFEFF{}', /a JSON value/],
  ['text after the value', '{} x', /the end of the text/],
  ['an open string', '"abc', /closing quote/],
  ['deep nesting', '['.repeat(100_000), /64 levels/],
] as const) {
  test(`refuses ${what}`, () => {
    assert.throws(() => parseStrictJson(text), { name: 'SyntaxError', message });
  });
}
