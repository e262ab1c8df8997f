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

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The bits of the half nearest to a float32 number, the even one of two; infinity from 65520 on. */
export function halfBits(value: number): number {
  scratch[0] = value;
  return narrowToHalf(scratchBits[0] as number);
}

/** `halfBits` of a float32 given by its bits. */
export function narrowToHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  const exponent = magnitude >>> 23;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (exponent > 142) return sign | 0x7c00;
  // Normal halves drop 13 bits below an exponent that counts from 112 less; subnormal ones are multiples of 2^−24.
  if (exponent >= 113) return sign | shiftToEven(magnitude - (112 << 23), 13);
  if (exponent < 102) return sign;
  return sign | shiftToEven((magnitude & 0x7fffff) | 0x800000, 126 - exponent);
}

/** The bits of the bfloat16 nearest to a float32 given by its bits, the even one of two. */
export function narrowToBrain(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return shiftToEven(bits & 0x7fffffff, 16) | ((bits >>> 16) & 0x8000);
}

/** n / 2^places, rounded, halves to even. A carry out of the fraction is the next exponent. */
function shiftToEven(n: number, places: number): number {
  const quotient = n >>> places;
  const rest = n - quotient * 2 ** places;
  const half = 2 ** (places - 1);
  return rest > half || (rest === half && (quotient & 1) === 1) ? quotient + 1 : quotient;
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
