import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Writes a benchmark adapter again as `adapter.gguf` beside its PEFT files, which is what llama.cpp reads: the same
 * float16 factors, rows of B of query and key in llama.cpp's order.
 */

const MAGIC = 'GGUF';
const VERSION = 3;
const ALIGNMENT = 32;
const TYPE_F16 = 1;
const VALUE_F32 = 6;
const VALUE_TEXT = 8;

/** Last part of a module's name → llama.cpp's tensor. */
const TENSORS: Readonly<Record<string, string>> = {
  q_proj: 'attn_q',
  k_proj: 'attn_k',
  v_proj: 'attn_v',
  o_proj: 'attn_output',
  gate_proj: 'ffn_gate',
  up_proj: 'ffn_up',
  down_proj: 'ffn_down',
};

interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly [rows: number, cols: number];
  readonly data_offsets: readonly [begin: number, end: number];
}

interface GgufTensor {
  readonly name: string;
  readonly shape: readonly [rows: number, cols: number];
  readonly data: Uint8Array;
}

class Bytes {
  readonly #parts: Buffer[] = [];

  u32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value);
    return this.raw(part);
  }

  u64(value: number): this {
    const part = Buffer.alloc(8);
    part.writeBigUInt64LE(BigInt(value));
    return this.raw(part);
  }

  f32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeFloatLE(value);
    return this.raw(part);
  }

  text(value: string): this {
    return this.u64(Buffer.byteLength(value)).raw(Buffer.from(value));
  }

  raw(part: Buffer): this {
    this.#parts.push(part);
    return this;
  }

  concat(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Within each head of D rows, row r of the first half goes to 2r and row D/2 + r to 2r + 1. */
function permuteHeads(data: Uint8Array, rows: number, headDim: number): Uint8Array {
  const out = new Uint8Array(data.length);
  const rowBytes = data.length / rows;
  for (let row = 0; row < rows; row += 1) {
    const inHead = row % headDim;
    const half = headDim / 2;
    const to = row - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
    out.set(data.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return out;
}

function readTensors(file: string, headDim: number): GgufTensor[] {
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<string, HeaderEntry>;
  const start = 8 + headerBytes;
  return Object.entries(header).map(
    ([
      name,
      {
        dtype,
        shape,
        data_offsets: [begin, end],
      },
    ]) => {
      const [, layer, module = '', factor] = /\.layers\.(\d+)\..*?(\w+)\.lora_([AB])\.weight$/.exec(name) ?? [];
      const tensor = TENSORS[module];
      if (tensor === undefined || dtype !== 'F16')
        throw new Error(`${file}: no place in a GGUF adapter for ${name}, ${dtype}`);
      const stored = bytes.subarray(start + begin, start + end);
      const permuted = factor === 'B' && (module === 'q_proj' || module === 'k_proj');
      return {
        name: `blk.${layer}.${tensor}.weight.lora_${factor?.toLowerCase()}`,
        shape,
        data: permuted ? permuteHeads(stored, shape[0], headDim) : stored,
      };
    },
  );
}

function padded(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

/** @param headDim elements of one attention head of the base. */
export function writeGgufAdapter(directory: string, headDim: number): void {
  const target = join(directory, 'adapter.gguf');
  if (existsSync(target)) return;
  const config = JSON.parse(readFileSync(join(directory, 'adapter_config.json'), 'utf8')) as { lora_alpha: number };
  const tensors = readTensors(join(directory, 'adapter_model.safetensors'), headDim);
  const head = new Bytes().raw(Buffer.from(MAGIC)).u32(VERSION).u64(tensors.length).u64(4);
  for (const [key, value] of [
    ['general.type', 'adapter'],
    ['general.architecture', 'llama'],
    ['adapter.type', 'lora'],
  ] as const) {
    head.text(key).u32(VALUE_TEXT).text(value);
  }
  head.text('adapter.lora.alpha').u32(VALUE_F32).f32(config.lora_alpha);
  let offset = 0;
  for (const { name, shape, data } of tensors) {
    // GGUF counts dimensions from the innermost.
    head.text(name).u32(2).u64(shape[1]).u64(shape[0]).u32(TYPE_F16).u64(offset);
    offset += padded(data.length);
  }
  const header = head.concat();
  const parts: Uint8Array[] = [header, Buffer.alloc(padded(header.length) - header.length)];
  for (const { data } of tensors) parts.push(data, Buffer.alloc(padded(data.length) - data.length));
  writeFileSync(`${target}.${process.pid}`, Buffer.concat(parts));
  renameSync(`${target}.${process.pid}`, target);
}
