import type { FloatType } from '../graph/weight-layout.js';
import { invalidModel } from '../model-errors.js';
import { narrowToBrain, narrowToHalf } from '../sources/float16.js';
import { placeOf, readFloat32, type TensorRows } from '../sources/tensor.js';

/** A type of 16 bits: how the file spells it, its exponent's bits, and how float32 is rounded to it. */
interface ShortFloat {
  readonly encoding: string;
  readonly exponentMask: number;
  readonly narrow: (bits: number) => number;
  /** What a model may take whose weights are too large for this type. */
  readonly wider: string;
}

const SHORT_FLOATS: Readonly<Record<Exclude<FloatType, 'float32'>, ShortFloat>> = {
  float16: { encoding: 'F16', exponentMask: 0x7c00, narrow: narrowToHalf, wider: '--precision bf16 or f32' },
  bfloat16: { encoding: 'BF16', exponentMask: 0x7f80, narrow: narrowToBrain, wider: '--precision f32' },
};

/**
 * Rows first … first + count as `type`: the file's own bytes where it holds that type, else each weight rounded to the
 * nearest, halves to even. ERR_MODEL_INVALID names a tensor with weights that are not finite, or too large for the type.
 */
export async function readFloatRows(
  tensor: TensorRows,
  type: FloatType,
  first: number,
  count: number,
): Promise<Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>> {
  if (type === 'float32') return readFloat32(tensor, first, count);
  const short = SHORT_FLOATS[type];
  const out =
    tensor.encoding.name === short.encoding
      ? new Uint16Array((await tensor.readRows(first, count)).slice().buffer)
      : narrowed(await readFloat32(tensor, first, count), short.narrow);
  for (let i = 0; i < out.length; i++) {
    if (((out[i] as number) & short.exponentMask) !== short.exponentMask) continue;
    throw invalidModel(
      tensor.file,
      `tensor ${tensor.name}: expected weights that ${type} holds, found an infinity or NaN ${placeOf(tensor, first, i)}: the file is damaged, or takes ${short.wider}`,
      tensor.name,
    );
  }
  return out;
}

function narrowed(values: Float32Array<ArrayBuffer>, narrow: ShortFloat['narrow']): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = narrow(bits[i] as number);
  return out;
}
