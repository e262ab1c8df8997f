import { open } from 'node:fs/promises';
import type { Offender } from '../../core/errors.js';

/** Bits that are all set in NaN and ±infinity, of the last 16 of a float in little-endian order. */
const EXPONENT: Readonly<Record<string, { readonly bytes: number; readonly mask: number }>> = {
  F16: { bytes: 2, mask: 0x7c00 },
  BF16: { bytes: 2, mask: 0x7f80 },
  F32: { bytes: 4, mask: 0x7f80 },
  F64: { bytes: 8, mask: 0x7ff0 },
};
const CHUNK_BYTES = 2 ** 20;

interface Entry {
  readonly dtype: string;
  readonly data_offsets: readonly [begin: number, end: number];
}

/**
 * Tensors with NaN or infinity in a safetensors file whose header was checked before. Reads the whole file in pieces;
 * dtypes that hold no floats are passed over.
 */
export async function findNonFinite(path: string): Promise<Offender[]> {
  const file = await open(path, 'r');
  try {
    const prefix = Buffer.alloc(8);
    await file.read(prefix, 0, 8, 0);
    const headerBytes = Number(prefix.readBigUInt64LE());
    const header = Buffer.alloc(headerBytes);
    await file.read(header, 0, headerBytes, 8);
    const entries = JSON.parse(header.toString('utf8')) as Record<string, Entry>;
    const offenders: Offender[] = [];
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (const [tensor, entry] of Object.entries(entries)) {
      const exponent = tensor === '__metadata__' ? undefined : EXPONENT[entry.dtype];
      if (exponent === undefined) continue;
      const [begin, end] = entry.data_offsets;
      for (let at = begin; at < end; at += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, end - at);
        await file.read(chunk, 0, length, 8 + headerBytes + at);
        const index = nonFiniteAt(chunk, length, exponent);
        if (index < 0) continue;
        const element = (at - begin) / exponent.bytes + index;
        offenders.push({ tensor, expected: 'finite values', found: `NaN or infinity at element ${element}` });
        break;
      }
    }
    return offenders;
  } finally {
    await file.close();
  }
}

/** Index of the first element of `chunk` that is not finite, or −1. */
function nonFiniteAt(chunk: Buffer, length: number, { bytes, mask }: { bytes: number; mask: number }): number {
  for (let at = bytes - 2; at < length; at += bytes) {
    const high = (chunk[at] as number) | ((chunk[at + 1] as number) << 8);
    if ((high & mask) === mask) return (at - (bytes - 2)) / bytes;
  }
  return -1;
}
