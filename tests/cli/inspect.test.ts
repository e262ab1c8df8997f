import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { InspectReport } from '../../src/cli/inspect/inspect-adapter.js';
import type { ChildEnd } from '../helpers/child.js';
import { runCommand } from '../helpers/command.js';
import { FIXTURES, TEST_CACHE } from '../helpers/paths.js';
import { SYNTHETIC } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const ADAPTERS = join(SYNTHETIC, 'adapters', BASE);

function inspect(directory: string, ...flags: string[]): Promise<ChildEnd> {
  return runCommand(
    'inspect',
    directory,
    '--model',
    join(SYNTHETIC, 'models', BASE),
    '--cache-dir',
    TEST_CACHE,
    ...flags,
  );
}

async function report(directory: string): Promise<{ code: number | null; report: InspectReport }> {
  const { code, stdout, stderr } = await inspect(directory, '--json');
  assert.match(stdout, /^\{.*\}\n$/, stderr);
  return { code, report: JSON.parse(stdout) as InspectReport };
}

/** A copy of a good adapter that the test may damage. */
function copyOf(t: TestContext, name: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'loramux-inspect-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  cpSync(join(ADAPTERS, name), directory, { recursive: true });
  return directory;
}

test('an adapter that fits is described in full, with exit code 0', async () => {
  const { code, stdout, stderr } = await inspect(join(ADAPTERS, 'patterns-rslora'));
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^digest {6}[0-9a-f]{64}$/m);
  assert.match(stdout, /^variant {5}rslora$/m);
  assert.match(stdout, /^ranks {7}2 to 11$/m);
  assert.match(stdout, /^modules {5}6 in the file, 6 applied$/m);
  assert.match(stdout, /^ +q_proj {2}layers 0-1, rank 6$/m);
  assert.match(stdout, /^memory {6}\d+ bytes while resident$/m);
  assert.match(stdout, /^text {8}the base's tokenizer, the base's chat template$/m);
  assert.match(stdout, /^base {8}fits llama-gqa-tied$/m);
});

test('a tokenizer and a template of its own are read, and refused as a load refuses them', async (t) => {
  const directory = copyOf(t, 'plain');
  const bytes = (await report(directory)).report.bytes ?? 0;
  cpSync(join(FIXTURES, 'own-text', 'vocabulary'), directory, { recursive: true });
  const { report: found } = await report(directory);
  assert.equal(found.fits, true);
  assert.deepEqual([found.text?.tokenizer, found.text?.template], ['own', 'own']);
  assert.match(found.text?.digest ?? '', /^[0-9a-f]{64}$/);
  assert.ok((found.bytes ?? 0) > bytes);
  writeFileSync(join(directory, 'tokenizer.json'), '{');
  const { code, report: broken } = await report(directory);
  assert.equal(code, 1);
  assert.deepEqual(
    broken.offenders.map(({ key }) => key),
    ['tokenizer.json'],
  );
});

test('--json is one object with the same facts', async () => {
  const { code, report: found } = await report(join(ADAPTERS, 'dora'));
  assert.equal(code, 0);
  assert.equal(found.fits, true);
  assert.deepEqual(found.variant, ['dora']);
  assert.deepEqual(found.offenders, []);
  assert.equal(found.moduleCounts?.inFile, found.moduleCounts?.applied);
  assert.ok((found.bytes ?? 0) > 0);
  assert.equal(found.base, BASE);
  assert.match(found.baseModel ?? '', /llama-gqa-tied/);
});

test('an adapter of another base does not fit, every offender listed', async () => {
  const { code, report: found } = await report(join(SYNTHETIC, 'adapters', 'llama-deep', 'all-linear'));
  assert.equal(code, 1);
  assert.equal(found.fits, false);
  assert.match(found.digest ?? '', /^[0-9a-f]{64}$/);
  assert.ok(found.offenders.length > 20);
  assert.ok(found.offenders.every(({ tensor }) => tensor !== undefined));
  assert.ok(found.modules.some(({ type, layers }) => type === 'q_proj' && layers.length === 4));
});

test('a configuration that is refused and values that are not finite are reported together', async (t) => {
  const directory = copyOf(t, 'plain');
  const configPath = join(directory, 'adapter_config.json');
  const config = JSON.parse(readFileSync(configPath, 'utf8')) as object;
  writeFileSync(configPath, JSON.stringify({ ...config, layer_replication: [[0, 1]] }));
  const weightsPath = join(directory, 'adapter_model.safetensors');
  const weights = readFileSync(weightsPath);
  // The last element of the last tensor becomes NaN in any dtype.
  weights.fill(0xff, weights.length - 8);
  writeFileSync(weightsPath, weights);
  const { code, report: found } = await report(directory);
  assert.equal(code, 1);
  assert.ok(found.offenders.some(({ key }) => key === 'layer_replication'));
  assert.ok(found.offenders.some(({ tensor, found: what }) => tensor !== undefined && /NaN or infinity/.test(what)));
});

test('a pickle is refused by name, with the command that converts it', async (t) => {
  const directory = copyOf(t, 'plain');
  rmSync(join(directory, 'adapter_model.safetensors'));
  writeFileSync(join(directory, 'adapter_model.bin'), 'pickle');
  const { code, stdout } = await inspect(directory);
  assert.equal(code, 1);
  assert.match(stdout, /adapter_model\.bin, a pickle/);
});

test('a question that cannot be put is one line and exit code 2', async () => {
  const calls: readonly (readonly [readonly string[], RegExp])[] = [
    [['inspect'], /^ERR_CONFIG: inspect takes DIR, got nothing\n$/],
    [['inspect', 'a', 'b'], /^ERR_CONFIG: inspect takes DIR, got a b\n$/],
    [['inspect', 'a', '--rounds', '1'], /^ERR_CONFIG: unknown flag --rounds.*\n$/],
    [['inspect', 'a', '--json=yes'], /^ERR_CONFIG: --json takes no value\n$/],
    [['inspect', '/no/such/directory', '--model', join(SYNTHETIC, 'models', BASE)], /^ERR_ADAPTER_NOT_FOUND: .*\n$/],
    [['inspect', ADAPTERS, '--model', './no-such-model'], /^ERR_MODEL_NOT_FOUND: .*\n$/],
  ];
  for (const [args, message] of calls) {
    const { code, stdout, stderr } = await runCommand(...args);
    assert.equal(code, 2, args.join(' '));
    assert.equal(stdout, '');
    assert.match(stderr, message);
  }
});

test('an unknown command is one line', async () => {
  const { code, stdout, stderr } = await runCommand('inspekt', '.');
  assert.equal(code, 1);
  assert.equal(stdout, '');
  assert.match(
    stderr,
    /^ERR_CONFIG: unknown command "inspekt": expected serve, inspect, verify, key or doctor as the first word\n$/,
  );
});

test('each command has its help, and the general help names it', async () => {
  const general = (await runCommand('--help')).stdout;
  for (const name of ['inspect', 'verify']) {
    const { code, stdout } = await runCommand(name, '--help');
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^Usage: loramux ${name} `));
    assert.match(general, new RegExp(`loramux ${name} `));
  }
});
