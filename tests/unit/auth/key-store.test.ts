import assert from 'node:assert/strict';
import { renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { formatKey } from '../../../src/auth/key-file.js';
import { KeyStore } from '../../../src/auth/key-store.js';
import { eventually } from '../../helpers/http-app.js';
import { makeKey, temporaryFile } from './support.js';

const [first, second] = [makeKey('first', ['infer:*']), makeKey('second', ['infer:*'])];

function opens(store: KeyStore, { token }: { token: string }): boolean {
  try {
    store.ring.authenticate(`Bearer ${token}`);
    return true;
  } catch {
    return false;
  }
}

test('a changed file counts without a restart; a broken one changes nothing and is logged once', async (t) => {
  const file = temporaryFile(t);
  writeFileSync(file, formatKey(first.record));
  const lines: string[] = [];
  const store = new KeyStore({ file, pollMs: 5, log: (level, event, text) => lines.push(`${level} ${event} ${text}`) });
  t.after(() => store.close());
  store.watch();
  assert.ok(opens(store, first) && !opens(store, second));

  writeFileSync(`${file}.new`, `${formatKey(first.record)}\n${formatKey(second.record)}\n`);
  renameSync(`${file}.new`, file);
  await eventually(() => opens(store, second), 'both keys are valid');
  assert.ok(opens(store, first));

  for (const broken of ['nonsense', '']) {
    lines.length = 0;
    writeFileSync(`${file}.new`, broken);
    renameSync(`${file}.new`, file);
    await eventually(() => lines.length > 0, 'an error is logged');
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.equal(lines.length, 1);
    assert.match(lines[0] ?? '', /^error keys\.reload the API keys stay as they were: .*keys(, line 1| holds no key)/);
    assert.ok(opens(store, first) && opens(store, second));
  }

  rmSync(file);
  await eventually(() => lines.some((line) => line.includes('ENOENT')), 'a missing file is an error');
  assert.ok(opens(store, first));

  writeFileSync(file, formatKey(second.record));
  await eventually(() => !opens(store, first), 'the first key is revoked');
  assert.ok(opens(store, second));
  assert.match(lines.at(-1) ?? '', /^info keys\.reload 1 API keys/);
});

test('a link that moves to another file counts', async (t) => {
  const link = temporaryFile(t);
  const [a, b] = [`${link}.a`, `${link}.b`];
  writeFileSync(a, formatKey(first.record));
  writeFileSync(b, formatKey(second.record));
  symlinkSync(a, link);
  const store = new KeyStore({ file: link, pollMs: 5, log: () => undefined });
  t.after(() => store.close());
  store.watch();
  symlinkSync(b, `${link}.new`);
  renameSync(`${link}.new`, link);
  await eventually(() => opens(store, second), 'the other file counts');
  assert.ok(!opens(store, first));
});

test('a file that cannot be used stops the start', (t) => {
  const file = temporaryFile(t);
  const open = (): KeyStore => new KeyStore({ file, log: () => undefined });
  assert.throws(open, { code: 'ERR_CONFIG', message: /readable file of API keys.*ENOENT/ });
  writeFileSync(file, '# nobody\n');
  assert.throws(open, { code: 'ERR_CONFIG', message: /holds no key/ });
  writeFileSync(file, Buffer.alloc(4 * 2 ** 20 + 1, '#'));
  assert.throws(open, { code: 'ERR_CONFIG', message: /at most 4194304 bytes/ });
});
