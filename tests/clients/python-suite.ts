import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { ROOT } from '../helpers/paths.js';

export const SUITES = join(ROOT, 'tests', 'clients', 'python');

/** An interpreter with the official clients. */
function interpreter(): string {
  const script = join(ROOT, 'scripts', 'client-env.mjs');
  return process.env.CLIENTS_PYTHON ?? execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim();
}

/** Runs a file of unittest cases, or those that `cases` name; asserts that some ran and none failed. */
export async function runSuite(file: string, env: NodeJS.ProcessEnv, cases: readonly string[] = []): Promise<void> {
  const child = spawn(interpreter(), ['-W', 'ignore::DeprecationWarning', file, '-v', ...cases], {
    cwd: SUITES,
    env: { ...env, PYTHONDONTWRITEBYTECODE: '1' },
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
}
