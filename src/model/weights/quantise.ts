import type { QuantisedFormat } from '../../core/model-manifest.js';
import { invalidModel } from '../model-errors.js';
import { u16 } from '../sources/encodings.js';
import { halfAtLeast, halfAtMost, halfBits, halfTable } from '../sources/float16.js';
import { readFloat32, type TensorRows } from '../sources/tensor.js';

const BLOCK = 32;

/** Rows in blocks of 32: value = (q − 128) · scale at 8 bits, q · scale + min in w4, (q − 8) · scale in w4-rows. */
export interface QuantisedRows {
  /** One byte a weight, at 4 bits below 16. */
  readonly quants: Uint8Array;
  /** Float16 bits, one per block. */
  readonly scales: Uint16Array;
  /** Float16 bits, one per block; all zero but in w4. */
  readonly mins: Uint16Array;
}

/**
 * Quantises rows first … first + count. Sources in blocks of 32 with quants that fit keep them exactly (Q8_0 and Q4_0 in
 * 8 bits, Q4_0 in 4, Q4_1 in w4); others are fitted: 8 bits symmetric to the largest magnitude, w4 between minimum and
 * maximum, w4-rows around zero.
 * ERR_MODEL_INVALID names a tensor with weights that are not finite, or whose scales are no halves.
 */
export async function quantiseRows(
  tensor: TensorRows,
  format: QuantisedFormat,
  first: number,
  count: number,
): Promise<QuantisedRows> {
  const blocks = (count * tensor.cols) / BLOCK;
  const out = {
    quants: new Uint8Array(blocks * BLOCK),
    scales: new Uint16Array(blocks),
    mins: new Uint16Array(blocks),
  };
  const repack = REPACKERS[format][tensor.encoding.name];
  if (repack !== undefined) repack(await tensor.readRows(first, count), out);
  else FITS[format](await readFloat32(tensor, first, count), out);
  requireFinite(out, tensor);
  return out;
}

type Repacker = (bytes: Uint8Array, out: QuantisedRows) => void;

const EIGHT_BITS: Readonly<Record<string, Repacker>> = {
  Q8_0: repackQ8,
  Q4_0: (bytes, out) => unpackQ4(bytes, 18, 120, out),
};
const REPACKERS: Readonly<Record<QuantisedFormat, Readonly<Record<string, Repacker>>>> = {
  w8: EIGHT_BITS,
  w4: { Q4_0: repackQ4, Q4_1: (bytes, out) => unpackQ4(bytes, 20, 0, out) },
  'w8-rows': EIGHT_BITS,
  'w4-rows': { Q4_0: (bytes, out) => unpackQ4(bytes, 18, 0, out) },
};
const FITS: Readonly<Record<QuantisedFormat, (values: Float32Array, out: QuantisedRows) => void>> = {
  w8: fitSymmetric,
  w4: fitMinMax,
  'w8-rows': fitSymmetric,
  'w4-rows': fitAroundZero,
};

function repackQ8(bytes: Uint8Array, { quants, scales }: QuantisedRows): void {
  for (let block = 0, at = 0; block < scales.length; block++, at += 34) {
    scales[block] = u16(bytes, at);
    // Two's complement to offset binary: the zero point is 128.
    for (let i = 0; i < BLOCK; i++) quants[block * BLOCK + i] = (bytes[at + 2 + i] as number) ^ 0x80;
  }
}

/** Its zero point is 8: a minimum of −8 scales. */
function repackQ4(bytes: Uint8Array, out: QuantisedRows): void {
  unpackQ4(bytes, 18, 0, out);
  const half = halfTable();
  out.scales.forEach((scale, block) => {
    out.mins[block] = halfBits(-8 * (half[scale] as number));
  });
}

/** ggml keeps elements j and j + 16 in byte j. */
function unpackQ4(
  bytes: Uint8Array,
  blockBytes: 18 | 20,
  offset: number,
  { quants, scales, mins }: QuantisedRows,
): void {
  for (let block = 0, at = 0; block < scales.length; block++, at += blockBytes) {
    scales[block] = u16(bytes, at);
    if (blockBytes === 20) mins[block] = u16(bytes, at + 2);
    for (let j = 0; j < BLOCK / 2; j++) {
      const pair = bytes[at + blockBytes - 16 + j] as number;
      quants[block * BLOCK + j] = offset + (pair & 15);
      quants[block * BLOCK + 16 + j] = offset + (pair >> 4);
    }
  }
}

function fitSymmetric(values: Float32Array, { quants, scales }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0; block < scales.length; block++) {
    const start = block * BLOCK;
    let largest = 0;
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[start + i] as number));
    const bits = halfAtLeast(largest / 127);
    const scale = half[bits] as number;
    scales[block] = bits;
    for (let i = 0; i < BLOCK; i++) quants[start + i] = 128 + quant(values[start + i] as number, scale, -127, 127);
  }
}

function fitMinMax(values: Float32Array, { quants, scales, mins }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0; block < scales.length; block++) {
    const start = block * BLOCK;
    let lowest = values[start] as number;
    let highest = lowest;
    for (let i = 1; i < BLOCK; i++) {
      lowest = Math.min(lowest, values[start + i] as number);
      highest = Math.max(highest, values[start + i] as number);
    }
    const minBits = halfAtMost(lowest);
    const min = half[minBits] as number;
    const scaleBits = halfAtLeast((highest - min) / 15);
    const scale = half[scaleBits] as number;
    mins[block] = minBits;
    scales[block] = scaleBits;
    for (let i = 0; i < BLOCK; i++) quants[start + i] = quant((values[start + i] as number) - min, scale, 0, 15);
  }
}

/**
 * Where the largest magnitude of a block may come to lie, on the side of zero that has a quant more: no weight is then off
 * by more than a step.
 */
const EXTREMES = [8, 7.5, 7];

/** Of the scales that put the largest magnitude at one of EXTREMES, the one whose squared errors sum to least. */
function fitAroundZero(values: Float32Array, { quants, scales }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0; block < scales.length; block++) {
    const start = block * BLOCK;
    const end = start + BLOCK;
    let extreme = 0;
    for (let i = start; i < end; i++) {
      const value = values[i] as number;
      if (Math.abs(value) > Math.abs(extreme)) extreme = value;
    }
    quants.fill(8, start, end);
    if (extreme === 0) continue;
    let least = Number.POSITIVE_INFINITY;
    for (const place of EXTREMES) {
      // A positive extreme takes a negative scale: −8 is the quant that 7 has no counterpart of.
      const bits = halfAtLeast(Math.abs(extreme) / place) | (extreme > 0 ? 0x8000 : 0);
      const scale = half[bits] as number;
      const inverse = 1 / scale;
      let error = 0;
      for (let i = start; i < end; i++) {
        const value = values[i] as number;
        const off = value - (nibble(value * inverse) - 8) * scale;
        error += off * off;
      }
      if (error >= least) continue;
      least = error;
      scales[block] = bits;
    }
    const inverse = 1 / (half[scales[block] as number] as number);
    for (let i = start; i < end; i++) quants[i] = nibble((values[i] as number) * inverse);
  }
}

/** The quant nearest to a weight in steps, which is −8 or more. */
function nibble(steps: number): number {
  return Math.min(15, Math.floor(steps + 8.5));
}

function quant(value: number, scale: number, least: number, most: number): number {
  return scale === 0 ? Math.max(least, 0) : Math.min(most, Math.max(least, Math.round(value / scale)));
}

function requireFinite({ scales, mins }: QuantisedRows, tensor: TensorRows): void {
  const half = halfTable();
  for (const values of [scales, mins]) {
    const bad = values.findIndex((bits) => !Number.isFinite(half[bits]));
    if (bad >= 0)
      throw invalidModel(
        tensor.file,
        `tensor ${tensor.name}: expected block scales that a float16 holds, found ${half[values[bad] as number]} in block ${bad}: the file is damaged or was badly converted, or takes --precision f32`,
        tensor.name,
      );
  }
}
