import { invalidModel } from '../model-errors.js';
import { u16 } from '../sources/encodings.js';
import { halfTable } from '../sources/float16.js';
import { readFloat32, type TensorRows } from '../sources/tensor.js';

const BLOCK = 32;

/** Rows in MatMulNBits blocks of 32: value = (q − 2^(bits−1)) · scale + min. */
export interface QuantisedRows {
  /** One byte a weight at 8 bits; at 4 bits element 2j is the low nibble of byte j. */
  readonly data: Uint8Array;
  /** float32, one per block. */
  readonly scales: Float32Array;
  /** float32, one per block; all zero for symmetric formats. */
  readonly mins: Float32Array;
}

/**
 * Quantises rows first … first + count. Sources in blocks of 32 with quants that fit keep them exactly (Q8_0 and Q4_0 in
 * w8, Q4_0 and Q4_1 in w4); others are fitted: w8 symmetric to the largest magnitude, w4 between minimum and maximum.
 * ERR_MODEL_INVALID names a tensor with weights that are not finite.
 */
export async function quantiseRows(
  tensor: TensorRows,
  format: 'w8' | 'w4',
  first: number,
  count: number,
): Promise<QuantisedRows> {
  const repack = REPACKERS[format][tensor.encoding.name];
  if (repack === undefined) {
    const values = await readFloat32(tensor, first, count);
    return format === 'w8' ? fitSymmetric(values) : fitMinMax(values);
  }
  const out = allocate((count * tensor.cols) / BLOCK, format);
  repack(await tensor.readRows(first, count), out);
  requireFinite(out, tensor);
  return out;
}

type Repacker = (bytes: Uint8Array, out: QuantisedRows) => void;

const REPACKERS: Readonly<Record<'w8' | 'w4', Readonly<Record<string, Repacker>>>> = {
  w8: { Q8_0: repackQ8, Q4_0: widenQ4 },
  w4: {
    Q4_0: (bytes, out) => repackQ4(bytes, 18, out),
    Q4_1: (bytes, out) => repackQ4(bytes, 20, out),
  },
};

function allocate(blocks: number, format: 'w8' | 'w4'): QuantisedRows {
  return {
    data: new Uint8Array(blocks * (format === 'w8' ? BLOCK : BLOCK / 2)),
    scales: new Float32Array(blocks),
    mins: new Float32Array(blocks),
  };
}

function repackQ8(bytes: Uint8Array, { data, scales }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0, at = 0; block < scales.length; block++, at += 34) {
    scales[block] = half[u16(bytes, at)] as number;
    // Two's complement to offset binary: the stored zero point is 128.
    for (let i = 0; i < BLOCK; i++) data[block * BLOCK + i] = (bytes[at + 2 + i] as number) ^ 0x80;
  }
}

function widenQ4(bytes: Uint8Array, { data, scales }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0, at = 0; block < scales.length; block++, at += 18) {
    scales[block] = half[u16(bytes, at)] as number;
    for (let i = 0; i < BLOCK / 2; i++) {
      const pair = bytes[at + 2 + i] as number;
      data[block * BLOCK + i] = 120 + (pair & 15);
      data[block * BLOCK + 16 + i] = 120 + (pair >> 4);
    }
  }
}

/** ggml keeps elements j and j + 16 in byte j, MatMulNBits 2j and 2j + 1. A stored minimum counts from q = 0. */
function repackQ4(bytes: Uint8Array, blockBytes: 18 | 20, { data, scales, mins }: QuantisedRows): void {
  const half = halfTable();
  for (let block = 0, at = 0; block < scales.length; block++, at += blockBytes) {
    const scale = half[u16(bytes, at)] as number;
    scales[block] = scale;
    if (blockBytes === 20) mins[block] = (half[u16(bytes, at + 2)] as number) + 8 * scale;
    const quants = at + blockBytes - 16;
    for (let j = 0; j < 8; j++) {
      const even = bytes[quants + 2 * j] as number;
      const odd = bytes[quants + 2 * j + 1] as number;
      data[block * 16 + j] = (even & 15) | ((odd & 15) << 4);
      data[block * 16 + 8 + j] = (even >> 4) | (odd & 0xf0);
    }
  }
}

function fitSymmetric(values: Float32Array): QuantisedRows {
  const out = allocate(values.length / BLOCK, 'w8');
  for (let block = 0; block < out.scales.length; block++) {
    const start = block * BLOCK;
    let largest = 0;
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[start + i] as number));
    const scale = Math.fround(largest / 127);
    out.scales[block] = scale;
    for (let i = 0; i < BLOCK; i++) out.data[start + i] = 128 + quant(values[start + i] as number, scale, -127, 127);
  }
  return out;
}

function fitMinMax(values: Float32Array): QuantisedRows {
  const out = allocate(values.length / BLOCK, 'w4');
  for (let block = 0; block < out.scales.length; block++) {
    const start = block * BLOCK;
    let lowest = values[start] as number;
    let highest = lowest;
    for (let i = 1; i < BLOCK; i++) {
      lowest = Math.min(lowest, values[start + i] as number);
      highest = Math.max(highest, values[start + i] as number);
    }
    const scale = Math.fround((highest - lowest) / 15);
    out.scales[block] = scale;
    out.mins[block] = lowest + 8 * scale;
    for (let i = 0; i < BLOCK; i += 2) {
      const low = quant((values[start + i] as number) - lowest, scale, 0, 15);
      const high = quant((values[start + i + 1] as number) - lowest, scale, 0, 15);
      out.data[(start + i) / 2] = low | (high << 4);
    }
  }
  return out;
}

function quant(value: number, scale: number, least: number, most: number): number {
  return scale === 0 ? Math.max(least, 0) : Math.min(most, Math.max(least, Math.round(value / scale)));
}

function requireFinite({ scales, mins }: QuantisedRows, tensor: TensorRows): void {
  for (const values of [scales, mins]) {
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0)
      throw invalidModel(
        tensor.file,
        `tensor ${tensor.name}: expected finite block scales, found ${values[bad]} in block ${bad}: the file is damaged or was badly converted`,
        tensor.name,
      );
  }
}
