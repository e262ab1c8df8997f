import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AdapterProver, probePrompt } from '../../../src/adapters/proof.js';
import { coded } from './support.js';

const BASE = Float32Array.of(0, 1, -2, 3);

/** A prover whose engine answers `logits` for any adapter and counts its runs. */
function rig(logits: Float32Array, base: () => Promise<Float32Array> = async () => BASE) {
  const runs: (number | null)[] = [];
  const prover = new AdapterProver({
    run: async (promptIds, handle) => {
      assert.equal(promptIds.length, 2);
      runs.push(handle);
      return handle === null ? base() : logits;
    },
    tokenCount: 100,
    maxModelLen: 64,
  });
  return { prover, runs };
}

test('the probe prompt depends on the vocabulary alone, lies inside it and spreads over it', () => {
  for (const tokenCount of [1, 7, 100, 49_152, 256_000]) {
    const ids = probePrompt(tokenCount, 64);
    assert.deepEqual(ids, probePrompt(tokenCount, 2048));
    assert.equal(ids.length, 2);
    assert.ok(ids.every((id) => id < tokenCount));
    if (tokenCount < 100) continue;
    assert.ok(Math.min(...ids) < tokenCount / 2 && Math.max(...ids) > tokenCount / 2, `${ids}`);
  }
});

test('a short model length shortens the probe prompt', () => {
  assert.equal(probePrompt(100, 3).length, 2);
  assert.equal(probePrompt(100, 2).length, 1);
});

test('the proof is the largest change of a logit, and the base is run once', async () => {
  const { prover, runs } = rig(Float32Array.of(0.5, 1, -3.25, 2));
  assert.deepEqual(await prover.prove(7, 'file'), { maxLogitDelta: 1.25, probeTokens: 2 });
  assert.deepEqual(await prover.prove(8, 'file'), { maxLogitDelta: 1.25, probeTokens: 2 });
  assert.deepEqual(runs, [null, 7, 8]);
});

test('an adapter that adds nothing has a proof of zero', async () => {
  const { prover } = rig(BASE.slice());
  assert.equal((await prover.prove(1, 'file')).maxLogitDelta, 0);
});

for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
  test(`an adapter whose probe gives ${bad} is refused, the file named`, async () => {
    const { prover } = rig(Float32Array.of(0, 1, bad, 3));
    await assert.rejects(
      prover.prove(1, 'dir/adapter.safetensors'),
      coded('ERR_ADAPTER_INVALID', /dir\/adapter.safetensors: .*finite logits on the probe prompt.*for token 2/),
    );
  });
}

test('a base without finite logits is not the fault of the adapter, and a failed base run is tried again', async () => {
  let runs = 0;
  const { prover } = rig(BASE, async () => {
    runs += 1;
    return runs === 1 ? Float32Array.of(Number.NaN, 0, 0, 0) : BASE;
  });
  await assert.rejects(prover.prove(1, 'file'), coded('ERR_MODEL_INVALID', /of the base/));
  assert.equal((await prover.prove(1, 'file')).maxLogitDelta, 0);
  assert.equal(runs, 2);
});

test('a proof that fails ends only when both of its runs have', async () => {
  let finishAdapter: (logits: Float32Array) => void = () => undefined;
  const prover = new AdapterProver({
    run: (_, handle) =>
      handle === null
        ? Promise.reject(new Error('broken step'))
        : new Promise<Float32Array>((resolve) => {
            finishAdapter = resolve;
          }),
    tokenCount: 10,
    maxModelLen: 64,
  });
  let ended = false;
  const proof = prover.prove(1, 'file').catch((error: Error) => {
    ended = true;
    return error.message;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(ended, false);
  finishAdapter(BASE);
  assert.equal(await proof, 'broken step');
});
