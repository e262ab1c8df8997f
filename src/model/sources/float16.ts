let table: Float32Array | undefined;

function widen(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Every IEEE 754 half as float32, indexed by its 16 bits: float32 [65536], 256 KiB, built on first use. */
export function halfTable(): Float32Array {
  table ??= Float32Array.from({ length: 0x10000 }, (_, bits) => widen(bits));
  return table;
}

const scratch = new DataView(new ArrayBuffer(4));

/** The bits of the half nearest to a number; infinity from 65520 on. */
export function halfBits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  scratch.setFloat32(0, magnitude);
  const exponent = (scratch.getUint32(0) >> 23) - 127;
  // A fraction that rounds up to 1 carries into the exponent; subnormals are multiples of 2^−24.
  const bits =
    exponent < -14
      ? Math.round(magnitude * 2 ** 24)
      : (exponent + 15) * 1024 + Math.round((magnitude / 2 ** exponent - 1) * 1024);
  return sign | (Number.isNaN(value) ? 0x7e00 : Math.min(bits, 0x7c00));
}

/** The bits of the largest half that is at most `value`. */
export function halfAtMost(value: number): number {
  const bits = halfBits(value);
  if ((halfTable()[bits] as number) <= value || Number.isNaN(value)) return bits;
  return value < 0 ? bits + 1 : bits - 1;
}

/** The bits of the smallest half that is at least `value`, which is not negative. */
export function halfAtLeast(value: number): number {
  const bits = halfBits(value);
  return (halfTable()[bits] as number) < value ? bits + 1 : bits;
}
