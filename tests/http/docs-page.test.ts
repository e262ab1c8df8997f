import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KeyRing } from '../../src/auth/key-ring.js';
import { startApp } from '../helpers/http-app.js';
import { makeKey } from '../unit/auth/support.js';

test('/docs is a page that needs no other site and no inline code', async (t) => {
  const { app } = startApp(t);
  const page = await app.inject('/docs');
  assert.deepEqual([page.statusCode, page.headers['content-type']], [200, 'text/html; charset=utf-8']);
  assert.doesNotMatch(page.body, /https?:|\bstyle=|\bon\w+=|<script>/);
  const files = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, file]) => file ?? '');
  assert.deepEqual(files, ['docs/swagger-ui.css', 'data:,', 'docs/swagger-ui-bundle.js', 'docs/start.js']);
  for (const file of files.filter((name) => !name.startsWith('data:'))) {
    const asset = await app.inject(`/${file}`);
    assert.equal(asset.statusCode, 200, file);
    assert.match(String(asset.headers['content-type']), file.endsWith('.css') ? /^text\/css/ : /^text\/javascript/);
    assert.ok(asset.body.length > 50);
  }
  for (const { headers } of [page, await app.inject('/docs/start.js')]) {
    const policy = String(headers['content-security-policy']);
    assert.match(policy, /^default-src 'none'; script-src 'self'; /);
    assert.doesNotMatch(policy, /unsafe|https?:|\*/);
    assert.equal(headers['x-content-type-options'], 'nosniff');
  }
});

test('LoRAX has the page at /docs/; other files are not there', async (t) => {
  const { app, admin } = startApp(t);
  const moved = await app.inject('/docs/');
  assert.deepEqual([moved.statusCode, moved.headers.location], [302, '../docs']);
  for (const file of ['LICENSE', 'constructor', '..%2F..%2Fpackage.json', '%00']) {
    assert.equal((await app.inject(`/docs/${file}`)).statusCode, 404, file);
  }
  assert.equal((await admin.inject('/docs')).statusCode, 404);
});

test('where keys are asked for, they are asked for here too', async (t) => {
  const { record, token } = makeKey('any', ['metrics']);
  const { app } = startApp(t, { access: { keys: new KeyRing([record]), publicMetrics: false } });
  for (const url of ['/docs', '/docs/', '/docs/start.js']) {
    assert.equal((await app.inject(url)).statusCode, 401, url);
    const opened = await app.inject({ url, headers: { authorization: `Bearer ${token}` } });
    assert.ok([200, 302].includes(opened.statusCode), url);
  }
});
