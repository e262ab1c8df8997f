/** Rotary scaling that the graph supports; `llama3` rescales long wavelengths only. */
export type RopeScaling =
  | { readonly type: 'default' }
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  /** Base frequencies divided by a stored table [headDim / 2] (GGUF `rope_freqs`). */
  | { readonly type: 'divisors'; readonly divisors: Float32Array };

const f32 = Math.fround;

/**
 * Angle per position of rotary pair r: `θ^(−2r/R)`, rescaled. Every step rounds to float32, as the Hugging Face
 * reference computes it.
 * @param rotaryDims R, even.
 * @returns float32 values [R / 2].
 */
export function ropeInverseFrequencies(theta: number, rotaryDims: number, scaling: RopeScaling): number[] {
  return Array.from({ length: rotaryDims / 2 }, (_, pair) => {
    const base = f32(1 / f32(theta ** f32((2 * pair) / rotaryDims)));
    return rescale(base, pair, scaling);
  });
}

function rescale(base: number, pair: number, scaling: RopeScaling): number {
  switch (scaling.type) {
    case 'default':
      return base;
    case 'linear':
      return f32(base / scaling.factor);
    case 'divisors':
      return f32(base / (scaling.divisors[pair] as number));
    case 'llama3':
      return llama3Frequency(base, scaling);
  }
}

function llama3Frequency(base: number, scaling: Extract<RopeScaling, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const wavelength = f32((2 * Math.PI) / base);
  if (wavelength < originalMaxPositions / highFreqFactor) return base;
  if (wavelength > originalMaxPositions / lowFreqFactor) return f32(base / factor);
  const smooth = f32(f32(f32(originalMaxPositions / wavelength) - lowFreqFactor) / (highFreqFactor - lowFreqFactor));
  return f32(f32(f32(f32(1 - smooth) * base) / factor) + f32(smooth * base));
}
