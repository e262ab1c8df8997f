import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FloatPanelPacker } from '../../../../src/model/weights/float-panel-packer.js';

const COLS = 5;

test('every weight is in its place, however the rows were cut', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 6 }), (runs) => {
      const total = runs.reduce((sum, run) => sum + run, 0);
      const panels = Math.ceil(total / 16);
      const found = new Float32Array(panels * COLS * 16).fill(Number.NaN);
      const packer = new FloatPanelPacker(COLS);
      let first = 0;
      for (const run of runs) {
        const values = Float32Array.from({ length: run * COLS }, (_, i) => 1 + first * COLS + i);
        const { firstPanel, data } = packer.pack(values, first, run);
        found.set(data, firstPanel * COLS * 16);
        first += run;
      }
      for (let row = 0; row < panels * 16; row++) {
        for (let column = 0; column < COLS; column++) {
          // As `native/src/kernels/dense.rs` finds it.
          const at = (Math.floor(row / 16) * COLS + column) * 16 + (row % 16);
          assert.equal(found[at], row < total ? 1 + row * COLS + column : 0, `row ${row}, column ${column}`);
        }
      }
    }),
    { numRuns: 50 },
  );
});
