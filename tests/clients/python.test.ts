import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { runSuite, SUITES } from './python-suite.js';
import { environmentOf, target } from './server.js';

/** Those that the server which all share can answer; other tests run the others. */
const names = readdirSync(SUITES).filter((name) => name.startsWith('test_') && name.endsWith('.py'));

test('there are Python suites', () => {
  assert.ok(names.length > 0);
});

for (const name of names) {
  test(`Python: ${name}`, async (t) => runSuite(name, environmentOf(await target(t))));
}
