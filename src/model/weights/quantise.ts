import { invalidModel } from '../model-errors.js';
import { u16 } from '../sources/encodings.js';
import { halfAtLeast, halfAtMost, halfBits, halfTable } from '../sources/float16.js';
import { readFloat32, type TensorRows } from '../sources/tensor.js';

const BLOCK = 32;

/** Rows in blocks of 32: value = (q − 128) · scale at 8 bits, q · scale + min at 4. */
export interface QuantisedRows {
  /** One byte a weight, at 4 bits below 16. */
  readonly quants: Uint8Array;
  /** Float16 bits, one per block. */
  readonly scales: Uint16Array;
  /** Float16 bits, one per block; all zero at 8 bits. */
  readonly mins: Uint16Array;
}

/**
 * Quantises rows first … first + count. Sources in blocks of 32 with quants that fit keep them exactly (Q8_0 and Q4_0 in
 * w8, Q4_0 and Q4_1 in w4); others are fitted: w8 symmetric to the largest magnitude, w4 between minimum and maximum.
 * ERR_MODEL_INVALID names a tensor with weights that are not finite, or whose scales are no halves.
 */
export async function quantiseRows(
  tensor: TensorRows,
  format: 'w8' | 'w4',
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
  else (format === 'w8' ? fitSymmetric : fitMinMax)(await readFloat32(tensor, first, count), out);
  requireFinite(out, tensor);
  return out;
}

type Repacker = (bytes: Uint8Array, out: QuantisedRows) => void;

const REPACKERS: Readonly<Record<'w8' | 'w4', Readonly<Record<string, Repacker>>>> = {
  w8: { Q8_0: repackQ8, Q4_0: (bytes, out) => unpackQ4(bytes, 18, 120, out) },
  w4: { Q4_0: repackQ4, Q4_1: (bytes, out) => unpackQ4(bytes, 20, 0, out) },
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
