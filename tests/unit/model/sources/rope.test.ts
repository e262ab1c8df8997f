import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ropeInverseFrequencies } from '../../../../src/model/sources/rope.js';

test('default frequencies are those of SmolLM2 (theta 100000, 64 dims)', () => {
  const found = ropeInverseFrequencies(100_000, 64, { type: 'default' });
  const expected = { 0: 1, 1: 0.69783056, 2: 0.48696753, 3: 0.33982083, 31: 1.4330127e-5 };
  for (const [pair, value] of Object.entries(expected)) {
    const frequency = found[Number(pair)] as number;
    assert.ok(Math.abs(frequency / value - 1) < 1e-7, `pair ${pair}: ${frequency}`);
    assert.equal(frequency, Math.fround(frequency));
  }
});

test('llama3 rescales long wavelengths as Llama 3.2 1B does', () => {
  const base = ropeInverseFrequencies(500_000, 64, { type: 'default' });
  const scaled = ropeInverseFrequencies(500_000, 64, {
    type: 'llama3',
    factor: 32,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions: 8192,
  });
  const ratios = base.map((frequency, pair) => frequency / (scaled[pair] as number));
  ratios.forEach((ratio, pair) => {
    const between: Record<number, number> = { 15: 1.65133, 16: 3.29226, 17: 9.66673 };
    const expected = between[pair] ?? (pair <= 14 ? 1 : 32);
    assert.ok(Math.abs(ratio / expected - 1) < 1e-5, `pair ${pair}: ${ratio}, expected ${expected}`);
  });
});

test('linear scaling and stored divisors divide the base frequencies', () => {
  const base = ropeInverseFrequencies(10_000, 8, { type: 'default' });
  const linear = ropeInverseFrequencies(10_000, 8, { type: 'linear', factor: 4 });
  assert.deepEqual(
    linear,
    base.map((frequency) => Math.fround(frequency / 4)),
  );
  const divisors = Float32Array.of(1, 2, 3, 32);
  const divided = ropeInverseFrequencies(10_000, 8, { type: 'divisors', divisors });
  assert.deepEqual(
    divided,
    base.map((frequency, pair) => Math.fround(frequency / (divisors[pair] as number))),
  );
});
