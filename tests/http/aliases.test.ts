import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AliasInfo } from '../../src/core/adapter-admin.js';
import { LoramuxError } from '../../src/core/errors.js';
import { startApp } from '../helpers/http-app.js';

const DIGEST = 'a'.repeat(64);
const OLD = 'b'.repeat(64);
const ALIAS: AliasInfo = { name: 'prod', digest: DIGEST, adapter: 'org/sql' };

test('a new alias answers 201, a moved one 200 with the digest it left', async (t) => {
  const { admin, engine } = startApp(t);
  engine.onAdmin = () => ({ replaced: null, alias: ALIAS });
  const created = await admin.inject({ method: 'PUT', url: '/aliases/prod', payload: { digest: DIGEST } });
  assert.equal(created.statusCode, 201);
  assert.deepEqual(created.json(), ALIAS);
  engine.onAdmin = () => ({ replaced: OLD, alias: ALIAS });
  const moved = await admin.inject({ method: 'PUT', url: '/aliases/prod', payload: { adapter: 'org/sql' } });
  assert.equal(moved.statusCode, 200);
  assert.deepEqual(moved.json(), { ...ALIAS, replaced: OLD });
  assert.deepEqual(engine.adminCalls, [
    { op: 'alias', name: 'prod', target: { digest: DIGEST } },
    { op: 'alias', name: 'prod', target: { adapter: 'org/sql' } },
  ]);
});

test('aliases are listed and forgotten', async (t) => {
  const { admin, engine } = startApp(t);
  engine.onAdmin = () => ({ aliases: [ALIAS] });
  assert.deepEqual((await admin.inject({ url: '/aliases' })).json(), { aliases: [ALIAS] });
  engine.onAdmin = () => ALIAS;
  const reply = await admin.inject({ method: 'DELETE', url: '/aliases/org%2Fprod' });
  assert.equal(reply.statusCode, 200);
  assert.deepEqual(reply.json(), ALIAS);
  assert.deepEqual(engine.adminCalls, [{ op: 'aliases' }, { op: 'unalias', name: 'org/prod' }]);
});

const MALFORMED: readonly (readonly [string, unknown, string])[] = [
  ['__base__', { digest: DIGEST }, 'name'],
  ['__base_model__', { digest: DIGEST }, 'name'],
  ['a:b', { digest: DIGEST }, 'name'],
  ['prod', {}, 'body'],
  ['prod', [], 'body'],
  ['prod', { digest: DIGEST, adapter: 'sql' }, 'body'],
  ['prod', { digest: 'A'.repeat(64) }, 'digest'],
  ['prod', { digest: 'a'.repeat(63) }, 'digest'],
  ['prod', { digest: 5 }, 'digest'],
  ['prod', { adapter: '__base__' }, 'adapter'],
  ['prod', { adapter: null }, 'adapter'],
  ['prod', { digest: DIGEST, more: 1 }, 'more'],
];

for (const [name, payload, field] of MALFORMED) {
  test(`alias ${name} to ${JSON.stringify(payload).slice(0, 40)} is a 400 about ${field}`, async (t) => {
    const { admin, engine } = startApp(t);
    const reply = await admin.inject({ method: 'PUT', url: `/aliases/${name}`, payload: payload as object });
    assert.equal(reply.statusCode, 400, reply.body);
    assert.equal(reply.json().field, field);
    assert.deepEqual(engine.adminCalls, []);
  });
}

test('an unknown digest or alias is a 404', async (t) => {
  const { admin, engine } = startApp(t);
  engine.onAdmin = () => {
    throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', 'none');
  };
  for (const request of [
    { method: 'PUT', url: '/aliases/prod', payload: { digest: DIGEST } },
    { method: 'DELETE', url: '/aliases/prod' },
  ] as const) {
    const reply = await admin.inject(request);
    assert.equal(reply.statusCode, 404);
    assert.equal(reply.json().code, 'ERR_ADAPTER_NOT_FOUND');
  }
});
