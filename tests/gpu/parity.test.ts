import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Precision } from '../../src/core/model-manifest.js';
import { relativeError } from '../helpers/compare.js';
import { type Outcome, shuffled } from '../helpers/direct-engine.js';
import { GPU, IS_EMULATED, NO_GPU } from '../helpers/gpu.js';
import { assertEqualsOracle } from '../helpers/oracle.js';
import {
  casesOf,
  openSynthetic,
  oracleLogits,
  prepareLocal,
  SYNTHETIC,
  SYNTHETIC_MODELS,
  type SyntheticCase,
  syntheticModel,
  titleOf,
} from '../helpers/synthetic.js';

/**
 * How far logits of 16 bits may be from PEFT's float32, relative to their size, and the least gap between the two best
 * logits at which tokens are compared. Bounds from the formats' widths: nothing was measured yet.
 */
const SHORT = {
  f16: { error: 2e-2, gap: 0.1 },
  bf16: { error: 1e-1, gap: 0.5 },
} as const;

function assertNearOracle(outcome: Outcome, oracle: SyntheticCase, precision: Precision): void {
  if (precision === 'f32') {
    assertEqualsOracle(outcome, oracle);
    return;
  }
  const { error, gap } = SHORT[precision as keyof typeof SHORT];
  const found = relativeError(outcome.logits[0] as Float32Array, oracleLogits(oracle));
  assert.ok(found <= error, `${titleOf(oracle)} in ${precision}: logits are off by ${found.toExponential(1)}`);
  const tie = oracle.gaps.findIndex((each) => each < gap);
  const count = tie === -1 ? oracle.gaps.length : tie;
  assert.deepEqual(outcome.tokens.slice(0, count), oracle.expected_ids.slice(0, count), titleOf(oracle));
}

/** On the emulator the rest of the graph is computed by ONNX Runtime for CPUs. */
const NO_BF16 = IS_EMULATED ? 'ONNX Runtime has no bfloat16 kernels for CPUs' : NO_GPU;

/** The attention kernels' heads are this wide, or a multiple of it. */
const HEAD_STEP = 8;

for (const [name, { covers }] of SYNTHETIC_MODELS) {
  for (const precision of ['f32', 'f16', 'bf16'] as const) {
    const title = `${name} in ${precision} is PEFT's on the GPU, alone, mixed and in chunks (${covers})`;
    test(title, { skip: precision === 'bf16' ? NO_BF16 : NO_GPU }, async () => {
      const { manifest } = await prepareLocal(join(SYNTHETIC, syntheticModel(name).path), precision, 'cuda');
      if (manifest.config.headDim % HEAD_STEP !== 0) {
        await assert.rejects(openSynthetic(name, { precision, cuda: GPU }), /multiple of 8/);
        return;
      }
      const cases = casesOf(name);
      const engine = await openSynthetic(name, { precision, cuda: GPU });
      const requestFor = ({ adapter, prompt_ids, expected_ids }: SyntheticCase): ReturnType<typeof engine.request> =>
        engine.request(adapter, prompt_ids, expected_ids.length);
      for (const oracle of cases) {
        const [outcome] = await engine.run([requestFor(oracle)], { logits: true });
        assertNearOracle(outcome as Outcome, oracle, precision);
      }
      const mixed = shuffled(cases, 1);
      const together = await engine.run(mixed.map(requestFor), { logits: true });
      for (const [at, oracle] of mixed.entries()) assertNearOracle(together[at] as Outcome, oracle, precision);
      await engine.close();

      const sizes = { maxBatchTokens: 5, maxSequences: 4, kvBlocks: 12 };
      const narrow = await openSynthetic(name, { precision, cuda: GPU, ...sizes });
      const chunked = await narrow.run(cases.map(requestFor), { logits: true });
      for (const [at, oracle] of cases.entries()) assertNearOracle(chunked[at] as Outcome, oracle, precision);
      await narrow.close();
    });
  }
}

test('longer lists of likeliest tokens than kernels report are refused by name', { skip: NO_GPU }, async () => {
  const [name] = SYNTHETIC_MODELS.keys();
  const engine = await openSynthetic(name as string, { cuda: GPU });
  const [oracle] = casesOf(name as string);
  const { adapter, prompt_ids } = oracle as SyntheticCase;
  const listing = (top: number) => ({
    ...engine.request(adapter, prompt_ids, 1),
    logprobs: { of: 'raw' as const, top },
  });
  const [outcome] = await engine.run([listing(256)]);
  assert.equal(outcome?.tops[0]?.ids.length, 256);
  await assert.rejects(engine.run([listing(257)]), /at most 256 on a CUDA device, got 257/);
  await engine.close();
});

test('seeded sampling repeats itself on the GPU, whatever runs beside it', { skip: NO_GPU }, async () => {
  const [name] = SYNTHETIC_MODELS.keys();
  const engine = await openSynthetic(name as string, { cuda: GPU });
  const [oracle] = casesOf(name as string);
  const { adapter, prompt_ids } = oracle as SyntheticCase;
  const sampled = (seed: bigint) => {
    const request = engine.request(adapter, prompt_ids, 16);
    return { ...request, sampling: { ...request.sampling, greedy: false, temperature: 1, topP: 0.9, topK: 20, seed } };
  };
  const [first] = await engine.run([sampled(7n)]);
  const [again, other] = await engine.run([sampled(7n), sampled(8n)]);
  await engine.close();
  assert.deepEqual(again?.tokens, first?.tokens);
  assert.notDeepEqual(other?.tokens, first?.tokens);
});
