import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { formatKey } from '../../../src/auth/key-file.js';
import { startKeys } from '../../../src/keys-start.js';
import { makeKey, temporaryFile } from './support.js';

const LOCAL = { apiKeys: null, auth: true, host: '127.0.0.1', adminHost: 'localhost' };
const log = (): void => undefined;

test('on loopback no key is needed', () => {
  assert.equal(startKeys(LOCAL, log), null);
  assert.equal(startKeys({ ...LOCAL, host: '::1', adminHost: '127.8.0.1' }, log), null);
});

test('a listener that others reach needs keys, or somebody who says that it does not', () => {
  for (const host of ['0.0.0.0', '::', '10.0.0.7', 'example.org', 'localhost.example.org', '127.0.0.1.example.org']) {
    assert.throws(() => startKeys({ ...LOCAL, host }, log), {
      code: 'ERR_CONFIG',
      message: /^--host .* API keys are required: give --api-keys FILE .* or --auth off/,
    });
    assert.throws(() => startKeys({ ...LOCAL, adminHost: host }, log), { message: /^--admin-host/ });
    assert.equal(startKeys({ ...LOCAL, host, auth: false }, log), null);
  }
});

test('keys count on loopback too, and contradict --auth off', (t) => {
  const file = temporaryFile(t);
  writeFileSync(file, formatKey(makeKey('ci', ['infer:*']).record));
  assert.equal(startKeys({ ...LOCAL, apiKeys: file }, log)?.ring.size, 1);
  assert.equal(startKeys({ ...LOCAL, host: '0.0.0.0', apiKeys: file }, log)?.ring.size, 1);
  assert.throws(() => startKeys({ ...LOCAL, apiKeys: file, auth: false }, log), /--api-keys or --auth off, got both/);
});
