import assert from 'node:assert/strict';
import type { Outcome } from './direct-engine.js';

/** True when two float32 arrays are the same bytes. */
export function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
}

/** Asserts the same tokens, each chosen from bit-identical logits. */
export function assertSameBits(actual: Outcome, expected: Outcome, title: string): void {
  assert.deepEqual(actual.tokens, expected.tokens, title);
  assert.ok(expected.logits.length > 0, `${title}: no logits to compare`);
  assert.equal(actual.logits.length, expected.logits.length, title);
  for (const [step, row] of actual.logits.entries()) {
    assert.ok(sameBits(row, expected.logits[step] as Float32Array), `${title}, token ${step}: logits differ`);
  }
}

/** Largest |actual − expected| over what `atol + rtol · |expected|` allows: at most 1 when all are close. */
export function worstError(actual: Float32Array, expected: Float32Array, atol: number, rtol: number): number {
  assert.equal(actual.length, expected.length);
  return actual.reduce((worst, value, i) => {
    const wanted = expected[i] as number;
    const error = Math.abs(value - wanted) / (atol + rtol * Math.abs(wanted));
    // NaN is never close, and Math.max would let a later number hide it.
    return Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(worst, error);
  }, 0);
}

/** ‖actual − expected‖ / ‖expected‖. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  assert.equal(actual.length, expected.length);
  const squares = (values: Iterable<number>): number => [...values].reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(squares(actual.map((value, i) => value - (expected[i] as number))) / squares(expected));
}
