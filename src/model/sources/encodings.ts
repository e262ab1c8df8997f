import { halfTable } from './float16.js';

export type EncodingName = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1';

/** How a run of weights is stored. Blocks never straddle rows. */
export interface Encoding {
  readonly name: EncodingName;
  readonly blockElements: number;
  readonly blockBytes: number;
  /** Writes the exact float32 value of every element. `bytes` holds whole blocks; `out` one float per element. */
  decode(bytes: Uint8Array, out: Float32Array): void;
}

/** Block layouts are those of ggml: a half scale, for Q4_1 a half minimum, then the quants. */
export const ENCODINGS: Readonly<Record<EncodingName, Encoding>> = {
  F32: { name: 'F32', blockElements: 1, blockBytes: 4, decode: decodeF32 },
  F16: { name: 'F16', blockElements: 1, blockBytes: 2, decode: decodeF16 },
  BF16: { name: 'BF16', blockElements: 1, blockBytes: 2, decode: decodeBf16 },
  Q8_0: { name: 'Q8_0', blockElements: 32, blockBytes: 34, decode: decodeQ8 },
  Q4_0: { name: 'Q4_0', blockElements: 32, blockBytes: 18, decode: decodeQ4 },
  Q4_1: { name: 'Q4_1', blockElements: 32, blockBytes: 20, decode: decodeQ4WithMinimum },
};

/** Unsigned little-endian 16 bits at `at`; callers keep `at` inside `bytes`. */
export function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
}

function decodeF32(bytes: Uint8Array, out: Float32Array): void {
  new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
}

function decodeF16(bytes: Uint8Array, out: Float32Array): void {
  const half = halfTable();
  for (let i = 0; i < out.length; i++) out[i] = half[u16(bytes, 2 * i)] as number;
}

function decodeBf16(bytes: Uint8Array, out: Float32Array): void {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) bits[i] = u16(bytes, 2 * i) << 16;
}

function decodeQ8(bytes: Uint8Array, out: Float32Array): void {
  const half = halfTable();
  for (let at = 0, o = 0; o < out.length; at += 34, o += 32) {
    const scale = half[u16(bytes, at)] as number;
    for (let i = 0; i < 32; i++) out[o + i] = scale * (((bytes[at + 2 + i] as number) << 24) >> 24);
  }
}

function decodeQ4(bytes: Uint8Array, out: Float32Array): void {
  const half = halfTable();
  for (let at = 0, o = 0; o < out.length; at += 18, o += 32) {
    const scale = half[u16(bytes, at)] as number;
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i] as number;
      out[o + i] = scale * ((pair & 15) - 8);
      out[o + 16 + i] = scale * ((pair >> 4) - 8);
    }
  }
}

function decodeQ4WithMinimum(bytes: Uint8Array, out: Float32Array): void {
  const half = halfTable();
  for (let at = 0, o = 0; o < out.length; at += 20, o += 32) {
    const scale = half[u16(bytes, at)] as number;
    const minimum = half[u16(bytes, at + 2)] as number;
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 4 + i] as number;
      out[o + i] = scale * (pair & 15) + minimum;
      out[o + 16 + i] = scale * (pair >> 4) + minimum;
    }
  }
}
