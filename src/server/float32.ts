const FLOAT32_MAX = 3.4028234663852886e38;

/**
 * The float32 `value` as the shortest decimal that reads back as the same float32 (−0.41 instead of
 * −0.4099999964237213). Infinities become the largest finite float32, because JSON has none.
 */
export function shortestFloat32(value: number): number {
  const single = Math.fround(value);
  if (!Number.isFinite(single)) return single < 0 ? -FLOAT32_MAX : FLOAT32_MAX;
  // 6 digits always survive a float32, 9 always identify one.
  for (let digits = 6; digits < 9; digits += 1) {
    const short = Number(single.toPrecision(digits));
    if (Math.fround(short) === single) return short;
  }
  return Number(single.toPrecision(9));
}
