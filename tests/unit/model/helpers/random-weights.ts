/** A small, fast, seeded generator of numbers in [−1, 1). */
export function seededNoise(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

export function noise(count: number, seed: number): Float32Array {
  const next = seededNoise(seed);
  return Float32Array.from({ length: count }, next);
}

export function float32Bytes(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
