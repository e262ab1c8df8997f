import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { KeyRing, requireScope } from '../../../src/auth/key-ring.js';
import type { Scope } from '../../../src/auth/scopes.js';
import { newToken } from '../../../src/auth/tokens.js';
import type { LoramuxError } from '../../../src/core/errors.js';
import { makeKey } from './support.js';

const refused = (message: RegExp) => (thrown: LoramuxError) =>
  thrown.code === 'ERR_UNAUTHORIZED' && message.test(thrown.message);

test('a key speaks for its name, whatever the case of the scheme', () => {
  const { token, record } = makeKey('ci', ['infer:sql*']);
  const ring = new KeyRing([makeKey('other', ['metrics']).record, record]);
  for (const header of [`Bearer ${token}`, `bearer  ${token} `]) {
    const { caller } = ring.authenticate(header);
    assert.equal(caller.name, 'ci');
    assert.deepEqual(caller.adapters, ['sql*']);
    assert.ok(caller.mayUse('sql-2') && !caller.mayUse('pirate') && !caller.mayUse('__base__'));
  }
});

test('everything else is refused, and no message holds what was sent', () => {
  const { token, record } = makeKey('ci', ['infer:*']);
  const ring = new KeyRing([record]);
  assert.throws(() => ring.authenticate(undefined), refused(/got none/));
  for (const header of ['', token, `Basic ${token}`, 'Bearer', `Bearer ${token} more`, `Bearer${token}`]) {
    assert.throws(() => ring.authenticate(header), refused(/another form/), header);
  }
  for (const other of [newToken(), token.slice(0, -1), `${token}A`, token.toLowerCase(), record.hash]) {
    assert.throws(() => ring.authenticate(`Bearer ${other}`), refused(/unknown or expired/), other);
    assert.throws(
      () => ring.authenticate(`Bearer ${other}`),
      (thrown: Error) => !thrown.message.includes(other),
    );
  }
});

test('the hash of a word that was not made here opens nothing', () => {
  const hash = createHash('sha256').update('password').digest('hex');
  const ring = new KeyRing([{ name: 'weak', hash, scopes: ['infer:*'], expiresMs: null }]);
  assert.throws(() => ring.authenticate('Bearer password'), refused(/unknown or expired/));
});

test('a key ends at its time', () => {
  let nowMs = 999;
  const { token, record } = makeKey('ci', ['infer:*'], 1_000);
  const ring = new KeyRing([record], () => nowMs);
  assert.equal(ring.authenticate(`Bearer ${token}`).caller.name, 'ci');
  nowMs = 1_000;
  assert.throws(() => ring.authenticate(`Bearer ${token}`), refused(/unknown or expired/));
});

test('keys are replaced as a set; several may be valid for one client', () => {
  const [old, next] = [makeKey('ci-1', ['infer:*']), makeKey('ci-2', ['infer:*'])];
  const ring = new KeyRing([old.record, next.record]);
  for (const { token } of [old, next]) ring.authenticate(`Bearer ${token}`);
  ring.replace([next.record]);
  assert.equal(ring.size, 1);
  assert.throws(() => ring.authenticate(`Bearer ${old.token}`), refused(/unknown or expired/));
  ring.authenticate(`Bearer ${next.token}`);
});

test('scopes open what they say', () => {
  const all: readonly Scope[] = ['infer', 'metrics', 'admin:read', 'admin:write'];
  const cases: readonly (readonly [readonly string[], readonly Scope[]])[] = [
    [['infer:sql'], ['infer']],
    [['metrics'], ['metrics']],
    [['admin:read'], ['metrics', 'admin:read']],
    [['admin:write'], ['admin:write']],
    [['admin:*'], ['metrics', 'admin:read', 'admin:write']],
    [
      ['infer:*', 'metrics'],
      ['infer', 'metrics'],
    ],
  ];
  for (const [scopes, opened] of cases) {
    const { token, record } = makeKey('ci', scopes);
    const holder = new KeyRing([record]).authenticate(`Bearer ${token}`);
    assert.deepEqual(
      all.filter((scope) => holder.opens(scope)),
      opened,
    );
    for (const scope of all.filter((each) => !opened.includes(each))) {
      assert.throws(() => requireScope(holder, scope), {
        code: 'ERR_FORBIDDEN',
        message: /the API key ci lacks the scope/,
      });
    }
  }
});

test('each key of a thousand is told from the others', () => {
  const keys = Array.from({ length: 1_000 }, (_, at) => makeKey(`key-${at}`, ['infer:*']));
  const ring = new KeyRing(keys.map(({ record }) => record));
  for (const [at, { token }] of keys.entries()) {
    assert.equal(ring.authenticate(`Bearer ${token}`).caller.name, `key-${at}`);
  }
});
