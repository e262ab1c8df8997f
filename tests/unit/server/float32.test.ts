import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { shortestFloat32 } from '../../../src/server/float32.js';

test('the printed number is the same float32, in at most nine digits', () => {
  fc.assert(
    fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
      const printed = shortestFloat32(value);
      assert.ok(Math.fround(printed) === value);
      const digits = printed.toExponential().replace(/e.*$/, '').replace(/\D/g, '');
      assert.ok(digits.length <= 9, String(printed));
    }),
  );
});

test('rounding of a double does not show', () => {
  assert.equal(shortestFloat32(Math.fround(-0.41)), -0.41);
  assert.equal(shortestFloat32(Number.NEGATIVE_INFINITY), -3.4028234663852886e38);
});
