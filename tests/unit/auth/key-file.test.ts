import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatKey, type KeyRecord, parseKeyFile, parseTime } from '../../../src/auth/key-file.js';
import { LoramuxError } from '../../../src/core/errors.js';

const HASH = 'ab'.repeat(32);

test('lines are keys; comments and empty lines are not', () => {
  const text = `# who may come\n\n  ci sha256:${HASH} infer:acme/* metrics\r\nops\tsha256:${'cd'.repeat(32)} admin:* expires=2027-01-31\n`;
  assert.deepEqual(parseKeyFile(text, 'keys'), [
    { name: 'ci', hash: HASH, scopes: ['infer:acme/*', 'metrics'], expiresMs: null },
    { name: 'ops', hash: 'cd'.repeat(32), scopes: ['admin:*'], expiresMs: Date.UTC(2027, 0, 31) },
  ]);
});

const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,20}$/);
const scope = fc.oneof(
  fc.constantFrom('metrics', 'admin:read', 'admin:write', 'admin:*'),
  fc.stringMatching(/^infer:[a-z_.*/-]{1,12}$/),
);
const record: fc.Arbitrary<KeyRecord> = fc.record(
  {
    name,
    hash: fc.stringMatching(/^[0-9a-f]{64}$/),
    scopes: fc.array(scope, { minLength: 1, maxLength: 4 }),
    expiresMs: fc.option(fc.integer({ min: 0, max: 4e9 }).map((seconds) => seconds * 1_000)),
  },
  { noNullPrototype: true },
);

test('what is written is read again', () => {
  const records = fc.uniqueArray(record, { minLength: 1, maxLength: 5, selector: (each) => each.name });
  fc.assert(
    fc.property(records, (written) => {
      assert.deepEqual(parseKeyFile(written.map(formatKey).join('\n'), 'keys'), written);
    }),
    { seed: 1, numRuns: 300 },
  );
});

test('any text is keys or ERR_CONFIG with its line', () => {
  const words = fc.constantFrom(
    'a',
    'sha256:',
    `sha256:${HASH}`,
    'infer:*',
    'metrics',
    'expires=2027-01-01',
    '#',
    '\n',
    ' ',
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(words, fc.string()), { maxLength: 12 }), (parts) => {
      try {
        assert.ok(parseKeyFile(parts.join(' '), 'keys').length > 0);
      } catch (thrown) {
        assert.ok(thrown instanceof LoramuxError && thrown.code === 'ERR_CONFIG');
        assert.match(thrown.message, /^keys(?:, line \d+:| holds no key)/);
      }
    }),
    { seed: 2, numRuns: 1_000 },
  );
});

test('malformed lines are refused with their number, never with a word that may be a key', () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['', /holds no key: make one with loramux key add/],
    ['# only\n', /holds no key/],
    [`\n!x sha256:${HASH} metrics`, /line 2: expected a name/],
    ['ci lmx_secret metrics', /line 1: expected sha256: and 64/],
    [`ci sha256:${HASH.toUpperCase()} metrics`, /expected sha256/],
    [`ci sha256:${HASH}`, /expected scopes for ci/],
    [`ci sha256:${HASH} everything`, /expected scopes for ci: infer:PATTERN/],
    [`ci sha256:${HASH} admin:all`, /expected scopes/],
    [`ci sha256:${HASH} infer:`, /expected scopes/],
    [`ci sha256:${HASH} metrics expires=soon`, /expected at most one expires=/],
    [`ci sha256:${HASH} metrics expires=2027-02-30`, /expected at most one expires=/],
    [`ci sha256:${HASH} metrics expires=2027-01-01 expires=2028-01-01`, /expected at most one/],
    [`ci sha256:${HASH} metrics\nci sha256:${'cd'.repeat(32)} metrics`, /line 2: a second key called ci/],
    [`ci sha256:${HASH} metrics\ncd sha256:${HASH} metrics`, /line 2: the key of cd is on an earlier line/],
  ];
  for (const [text, message] of cases) {
    assert.throws(
      () => parseKeyFile(text, 'keys'),
      (thrown: LoramuxError) => message.test(thrown.message) && !thrown.message.includes('lmx_secret'),
      text,
    );
  }
});

test('times are days or seconds in UTC', () => {
  assert.equal(parseTime('2027-01-31'), Date.UTC(2027, 0, 31));
  assert.equal(parseTime('2027-01-31T12:30:05Z'), Date.UTC(2027, 0, 31, 12, 30, 5));
  for (const text of ['2027', '2027-13-01', '2027-02-29', '2027-01-31T12:30Z', '2027-01-31T12:30:05+01:00', '']) {
    assert.equal(parseTime(text), null, text);
  }
});
