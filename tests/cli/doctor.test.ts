import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Finding } from '../../src/cli/doctor/finding.js';
import { runCommand } from '../helpers/command.js';
import { TEST_CACHE } from '../helpers/paths.js';

test('doctor reports on the machine that runs the tests, which can serve', async () => {
  const { code, stdout, stderr } = await runCommand('doctor', '--cache-dir', TEST_CACHE);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^addon {7}ok {7}[a-z0-9]+ kernels on ONNX Runtime \d+\.\d+\.\d+$/m);

  const json = await runCommand('doctor', '--cache-dir', TEST_CACHE, '--json');
  const report = JSON.parse(json.stdout) as { readonly starts: boolean; readonly findings: readonly Finding[] };
  assert.equal(report.starts, true);
  const names = report.findings.map(({ name }) => name);
  assert.deepEqual(names, [
    'node',
    'cpu',
    'memory',
    'addon',
    'cache',
    'python3',
    'cargo',
    'gpu',
    'cuda addon',
    'provider',
    'cuda',
    'device',
    'nvcc',
  ]);
});

test('doctor takes no operands', async () => {
  const { code, stderr } = await runCommand('doctor', 'now');
  assert.equal(code, 2);
  assert.match(stderr, /doctor takes flags only, got now/);
});
