import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { matchesAny, matchesPattern } from '../../../src/core/name-pattern.js';

test('stars stand for any run of characters, the rest for itself', () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ['sql', 'sql', true],
    ['sql', 'sql2', false],
    ['sql', 'SQL', false],
    ['*', '', true],
    ['*', '__base__', true],
    ['acme/*', 'acme/sql', true],
    ['acme/*', 'acme', false],
    ['a*b*c', 'a--b--c', true],
    ['a*b*c', 'a--c--b', false],
    ['aa*aa', 'aaa', false],
    ['*.v1', 'sql.v1', true],
    ['*.v1', 'sqlxv1', false],
  ];
  for (const [pattern, name, expected] of cases) assert.equal(matchesPattern(pattern, name), expected, pattern);
});

test('patterns agree with regular expressions', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', '.', '/'), maxLength: 8 });
  const pattern = fc.array(letters, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('*'));
  fc.assert(
    fc.property(pattern, letters, (given, name) => {
      const source = given.replace(/[./]/g, '\\$&').replaceAll('*', '.*');
      assert.equal(matchesPattern(given, name), new RegExp(`^${source}$`).test(name));
    }),
    { seed: 1, numRuns: 2_000 },
  );
});

test('a pattern of many stars does not take for ever', () => {
  const started = performance.now();
  assert.equal(matchesPattern(`${'a*'.repeat(100)}b`, 'a'.repeat(257)), false);
  // Trying every way to share out the stars would take for ever.
  assert.ok(performance.now() - started < 5_000);
});

test('any pattern of a list is enough; no list is every name', () => {
  assert.equal(matchesAny(['a', 'b*'], 'bc'), true);
  assert.equal(matchesAny(['a', 'b*'], 'c'), false);
  assert.equal(matchesAny([], 'a'), false);
  assert.equal(matchesAny(null, 'a'), true);
});
