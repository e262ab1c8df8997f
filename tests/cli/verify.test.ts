import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verify } from '../../src/cli/verify/verify.js';
import type { StepBatch, StepOutput } from '../../src/core/step.js';
import type { NativeEngine } from '../../src/engine/binding.js';
import { runCommand } from '../helpers/command.js';
import { TEST_CACHE } from '../helpers/paths.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const MODEL = join(SYNTHETIC, 'models', BASE);
/** Every variant of the fixtures, activated ones included. */
const ADAPTERS = mkdtempSync(join(tmpdir(), 'loramux-verify-'));
for (const from of [SYNTHETIC, join(SYNTHETIC, 'composition')])
  cpSync(join(from, 'adapters', BASE), ADAPTERS, { recursive: true });
after(() => rmSync(ADAPTERS, { recursive: true }));

function sums(stdout: string, what: string): number {
  const counts = [...stdout.matchAll(new RegExp(`(\\d+) ${what}`, 'g'))];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

for (const precision of ['f32', 'w8']) {
  test(`mixed batches in ${precision} equal their solo runs, under eviction, aborts and reloads`, async () => {
    const flags = ['--model', MODEL, '--adapters', ADAPTERS, '--cache-dir', TEST_CACHE, '--precision', precision];
    const { code, stdout, stderr } = await runCommand(
      'verify',
      ...flags,
      '--rounds',
      '4',
      '--seed',
      '7',
      '--threads',
      '2',
    );
    assert.equal(code, 0, `${stdout}\n${stderr}`);
    const what = precision === 'f32' ? 'tokens and logits, bit for bit' : 'tokens';
    assert.match(stdout, new RegExp(`^equal {4}\\d+ rows of 96 requests to their solo runs: ${what}$`, 'm'));
    assert.ok(sums(stdout, 'evictions') >= 20, stdout);
    assert.ok(sums(stdout, 'reloads') >= 8, stdout);
    assert.ok(sums(stdout, 'aborted') >= 8, stdout);
    assert.ok(sums(stdout, 'combined') >= 12, stdout);
    assert.match(stdout, /^combined -?[\d.]+·\S+; .*peft linear of .*lorax ties of .*peft dare_ties of /m);
    assert.ok(sums(stdout, 'preemptions') >= 1, stdout);
    assert.match(stdout, /up to [3-9] adapters in a step/);
  });
}

test('a malformed call is one line and exit code 2', async () => {
  const calls: readonly (readonly [readonly string[], RegExp])[] = [
    [['verify', 'x'], /^ERR_CONFIG: verify takes flags only, got x\n$/],
    [['verify', '--rounds', '0'], /^ERR_CONFIG: --rounds accepts a whole number from 1.*\n$/],
    [['verify', '--seed', '-1'], /^ERR_CONFIG: --seed accepts.*\n$/],
    [['verify', '--model', MODEL], /^ERR_CONFIG: verify needs --adapters.*\n$/],
  ];
  for (const [args, message] of calls) {
    const { code, stderr } = await runCommand(...args);
    assert.equal(code, 2, args.join(' '));
    assert.match(stderr, message);
  }
});

test('a folder without a loadable adapter is a failure', async () => {
  const flags = ['--model', MODEL, '--adapters', join(SYNTHETIC, 'models'), '--cache-dir', TEST_CACHE];
  const { code, stdout } = await runCommand('verify', ...flags);
  assert.equal(code, 1);
  assert.match(stdout, /nothing to verify/);
});

type Fault = (engine: NativeEngine, batch: StepBatch) => Promise<StepOutput>;

/** Runs two rounds on an engine that goes wrong in mixed batches, and returns what was printed. */
async function verifyFaulty(fault: Fault): Promise<{ equal: boolean; text: string }> {
  const lines: string[] = [];
  let mixedAfterwards = 0;
  const equal = await verify({
    model: await prepareLocal(MODEL, 'f32'),
    tokenCount: SYNTHETIC_TOKENS,
    adapters: ADAPTERS,
    threads: 1,
    maxAdapterBytes: 2 ** 30,
    adapterDtype: 'file',
    kvDtype: 'f32',
    rounds: 2,
    seed: 11,
    print: (line) => lines.push(line),
    commandFor: (seed) => `again --seed ${seed}`,
    wrap: (engine) => ({
      blockSize: engine.blockSize,
      step: (batch) => {
        if (batch.adapterTable.length < 2) return engine.step(batch);
        if (lines.some((line) => line.startsWith('DIFFERENT'))) mixedAfterwards += 1;
        return fault(engine, batch);
      },
      compileAdapter: (...args) => engine.compileAdapter(...args),
      placeAdapter: (handle, pages) => engine.placeAdapter(handle, pages),
      keepAdapter: (handle) => engine.keepAdapter(handle),
      restoreAdapter: (image, pages) => engine.restoreAdapter(image, pages),
      discardImage: (image) => engine.discardImage(image),
      releaseAdapter: (handle) => engine.releaseAdapter(handle),
      openConstraint: (constraint) => engine.openConstraint(constraint),
      releaseConstraint: (handle) => engine.releaseConstraint(handle),
      constraintCount: () => engine.constraintCount(),
      adapterMemory: () => engine.adapterMemory(),
      close: () => engine.close(),
    }),
  });
  assert.equal(mixedAfterwards, 0, 'what differed is run again with nobody beside it');
  return { equal, text: lines.join('\n') };
}

test('one bit of one logit is found', async () => {
  const { equal, text } = await verifyFaulty(async (engine, batch) => {
    const output = await engine.step(batch);
    const bits = new Uint32Array(output.logits?.buffer ?? new ArrayBuffer(4), output.logits?.byteOffset ?? 0);
    bits[5] = (bits[5] ?? 0) ^ 1;
    return output;
  });
  assert.equal(equal, false);
  assert.match(text, /^DIFFERENT request to \S+ \(digest \S+\), case \d, token \d+$/m);
  assert.match(text, /expected the same logits, bit for bit/);
  assert.match(text, /1 of \d+ logits differ from another solo run, by up to \d/);
  assert.match(text, /repeat with: again --seed 1[12]$/m);
});

test('another token is found', async () => {
  const { equal, text } = await verifyFaulty(async (engine, batch) => {
    const output = await engine.step(batch);
    output.tokens[0] = ((output.tokens[0] ?? 0) + 1) % SYNTHETIC_TOKENS;
    return output;
  });
  assert.equal(equal, false);
  assert.match(text, /expected token \d+\n {2}found {4}token \d+/);
});

test('rows that run under another tenant’s adapter are found', async () => {
  const { equal, text } = await verifyFaulty((engine, batch) => {
    const [first, second, ...rest] = batch.adapterTable;
    return engine.step({ ...batch, adapterTable: [second ?? [], first ?? [], ...rest] });
  });
  assert.equal(equal, false, text);
  assert.match(text, /logits differ from another solo run/);
});

test('a step that fails is a difference, not a crash', async () => {
  const { equal, text } = await verifyFaulty(() =>
    Promise.reject(Object.assign(new Error('broken'), { code: 'ERR_STEP_FAILED' })),
  );
  assert.equal(equal, false);
  assert.match(text, /expected an answer\n {2}found {4}ERR_STEP_FAILED: broken/);
});
