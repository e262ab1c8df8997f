import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ENCODINGS } from '../../../../src/model/sources/encodings.js';
import { halfAtLeast, halfAtMost, halfBits, halfTable } from '../../../../src/model/sources/float16.js';

const ALL_BITS = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits);

/** Widens by moving bit fields, where the implementation computes values. */
function widenBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  let exponent = (half >> 10) & 0x1f;
  let fraction = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13);
  if (exponent === 0) {
    if (fraction === 0) return sign;
    exponent = 1;
    while ((fraction & 0x400) === 0) {
      fraction <<= 1;
      exponent -= 1;
    }
    fraction &= 0x3ff;
  }
  return sign | ((exponent + 112) << 23) | (fraction << 13);
}

function reference(bitsOf: (half: number) => number): Float32Array {
  return new Float32Array(Uint32Array.from(ALL_BITS, bitsOf).buffer);
}

function assertSame(found: Float32Array, expected: Float32Array): void {
  for (let bits = 0; bits < 0x10000; bits++) assert.ok(Object.is(found[bits], expected[bits]), `bits ${bits}`);
}

test('every half widens to its float32 value', () => {
  assertSame(halfTable(), reference(widenBits));
});

test('F16 and BF16 tensors decode all 65,536 values', () => {
  const bytes = new Uint8Array(ALL_BITS.buffer);
  const half = new Float32Array(0x10000);
  ENCODINGS.F16.decode(bytes, half);
  assertSame(half, reference(widenBits));
  const brain = new Float32Array(0x10000);
  ENCODINGS.BF16.decode(bytes, brain);
  assert.deepEqual(
    brain,
    reference((bits) => bits << 16),
  );
});

test('every half comes back from its value, and between two halves rounding goes where it should', () => {
  const half = halfTable();
  for (let bits = 0; bits < 0x7c00; bits++) {
    const value = half[bits] as number;
    const next = half[bits + 1] as number;
    assert.deepEqual([halfBits(value), halfAtMost(value), halfAtLeast(value)], [bits, bits, bits]);
    if (bits > 0) assert.deepEqual([halfBits(-value), halfAtMost(-value)], [bits | 0x8000, bits | 0x8000]);
    if (next === Number.POSITIVE_INFINITY) continue;
    for (const part of [0.01, 0.49, 0.51, 0.99]) {
      const between = value + (next - value) * part;
      assert.equal(halfBits(between), part < 0.5 ? bits : bits + 1, `${between}`);
      assert.deepEqual([halfAtMost(between), halfAtLeast(between)], [bits, bits + 1]);
      assert.equal(halfAtMost(-between), (bits + 1) | 0x8000);
    }
  }
  assert.deepEqual([halfBits(65520), halfBits(1e9), halfBits(Number.NEGATIVE_INFINITY)], [0x7c00, 0x7c00, 0xfc00]);
  assert.ok(Number.isNaN(half[halfBits(Number.NaN)]));
});
