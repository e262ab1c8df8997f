import assert from 'node:assert/strict';
import { existsSync, lstatSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { addKey, removeKey } from '../../../src/auth/edit-key-file.js';
import { formatKey, parseKeyFile } from '../../../src/auth/key-file.js';
import { makeKey, temporaryFile } from './support.js';

const [a, b] = [makeKey('a', ['infer:*']).record, makeKey('b', ['admin:*']).record];

test('keys are added and removed; everything else stays', (t) => {
  const file = temporaryFile(t);
  addKey(file, a);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  writeFileSync(file, `# ours\n${readFileSync(file, 'utf8').trimEnd()}`);
  addKey(file, b);
  assert.deepEqual(parseKeyFile(readFileSync(file, 'utf8'), file), [a, b]);
  removeKey(file, 'a');
  assert.equal(readFileSync(file, 'utf8'), `# ours\n${formatKey(b)}\n`);
  assert.ok(!existsSync(`${file}.lock`));
});

test('a link stays a link, and the mode stays', (t) => {
  const link = temporaryFile(t);
  const file = `${link}.real`;
  writeFileSync(file, formatKey(a), { mode: 0o640 });
  symlinkSync(file, link);
  addKey(link, b);
  assert.ok(lstatSync(link).isSymbolicLink());
  assert.equal(statSync(file).mode & 0o777, 0o640);
  assert.equal(parseKeyFile(readFileSync(file, 'utf8'), file).length, 2);
});

test('what is refused leaves the file as it was', (t) => {
  const file = temporaryFile(t);
  addKey(file, a);
  const before = readFileSync(file, 'utf8');
  const cases: readonly (readonly [() => void, RegExp])[] = [
    [() => addKey(file, { ...b, name: 'a' }), /a second key called a/],
    [() => removeKey(file, 'b'), /holds no key called b/],
    [() => removeKey(file, 'a'), /a is the last key/],
    [() => addKey(`${file}/x/y`, a), /expected to write the file of API keys/],
  ];
  for (const [call, message] of cases) assert.throws(call, { code: 'ERR_CONFIG', message });
  assert.equal(readFileSync(file, 'utf8'), before);
  assert.ok(!existsSync(`${file}.lock`));

  writeFileSync(`${file}.lock`, '');
  assert.throws(() => addKey(file, b), /another command is at it/);
  assert.ok(existsSync(`${file}.lock`));

  writeFileSync(file, 'nonsense');
  assert.throws(() => addKey(`${file}`, b), { code: 'ERR_CONFIG' });
  assert.equal(readFileSync(file, 'utf8'), 'nonsense');
});
