import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PanelPacker } from '../../../../src/model/weights/panel-packer.js';
import type { QuantisedRows } from '../../../../src/model/weights/quantise.js';

const BLOCKS = 2;

function rows(first: number, count: number, limit: number): QuantisedRows {
  const values = (length: number, step: number) => Array.from({ length }, (_, i) => first * step + i);
  return {
    quants: Uint8Array.from(values(count * BLOCKS * 32, BLOCKS * 32), (n) => (n * 7919) % limit),
    scales: Uint16Array.from(values(count * BLOCKS, BLOCKS)),
    mins: Uint16Array.from(values(count * BLOCKS, BLOCKS), (n) => n + 1000),
  };
}

/** The quant of one row and column, as `native/src/kernels/quantised.rs` finds it. */
function quantAt(data: Uint8Array, bits: number, row: number, column: number): number {
  const [panel, lane] = [Math.floor(row / 16), row % 16];
  const block = panel * BLOCKS + Math.floor(column / 32);
  const quad = Math.floor((column % 32) / 4);
  const vector = bits === 8 ? quad : Math.floor(quad / 2);
  const byte = data[(block * bits + vector) * 64 + lane * 4 + (column % 4)] as number;
  return bits === 8 ? byte : quad % 2 === 0 ? byte & 15 : byte >> 4;
}

for (const [format, bits] of [
  ['w8', 8],
  ['w4', 4],
] as const) {
  test(`${format}: every quant, scale and minimum is in its place, however the rows were cut`, () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 6 }), (runs) => {
        const total = runs.reduce((sum, run) => sum + run, 0);
        const panels = Math.ceil(total / 16);
        const data = new Uint8Array(panels * BLOCKS * 64 * bits);
        const factors = [new Uint16Array(panels * BLOCKS * 16), new Uint16Array(panels * BLOCKS * 16)] as const;
        const packer = new PanelPacker(format, BLOCKS * 32);
        let first = 0;
        for (const run of runs) {
          const packed = packer.pack(rows(first, run, 2 ** bits), first, run);
          data.set(packed.data, packed.firstPanel * BLOCKS * 64 * bits);
          factors[0].set(packed.scales, packed.firstPanel * BLOCKS * 16);
          factors[1].set(packed.mins, packed.firstPanel * BLOCKS * 16);
          first += run;
        }
        const all = rows(0, total, 2 ** bits);
        for (let row = 0; row < panels * 16; row++) {
          for (let b = 0; b < BLOCKS; b++) {
            const at = (Math.floor(row / 16) * BLOCKS + b) * 16 + (row % 16);
            const from = row * BLOCKS + b;
            const wanted = row < total ? [all.scales[from], all.mins[from]] : [0, 0];
            assert.deepEqual([factors[0][at], factors[1][at]], wanted);
          }
          for (let column = 0; column < BLOCKS * 32; column++) {
            const wanted = row < total ? all.quants[row * BLOCKS * 32 + column] : 0;
            assert.equal(quantAt(data, bits, row, column), wanted, `row ${row}, column ${column}`);
          }
        }
      }),
      { numRuns: 20 },
    );
  });
}
