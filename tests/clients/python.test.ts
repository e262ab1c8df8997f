import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../helpers/paths.js';
import { environmentOf, target } from './server.js';

const SUITES = join(ROOT, 'tests', 'clients', 'python');
const names = readdirSync(SUITES).filter((name) => name.startsWith('test_') && name.endsWith('.py'));

/** An interpreter with the official clients. */
function interpreter(): string {
  const script = join(ROOT, 'scripts', 'client-env.mjs');
  return process.env.CLIENTS_PYTHON ?? execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim();
}

test('there are Python suites', () => {
  assert.ok(names.length > 0);
});

for (const name of names) {
  test(`Python: ${name}`, async (t) => {
    const env = { ...environmentOf(await target(t)), PYTHONDONTWRITEBYTECODE: '1' };
    const child = spawn(interpreter(), ['-W', 'ignore::DeprecationWarning', name, '-v'], {
      cwd: SUITES,
      env,
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    let report = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      report += chunk;
    });
    const [status] = await once(child, 'close');
    console.log(report);
    assert.equal(status, 0, report.slice(-4_000));
    const [, ran] = /^Ran (\d+) tests? in/m.exec(report) ?? [];
    assert.ok(Number(ran) > 0, 'the suite ran no test');
  });
}
