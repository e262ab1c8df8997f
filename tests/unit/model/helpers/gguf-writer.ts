export type GgufField =
  | { readonly type: 'u32' | 'f32' | 'bool' | 'u64'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'f32s' | 'i32s'; readonly value: readonly number[] };

export interface GgufTensorInput {
  readonly name: string;
  /** Row-major: [out, in]. */
  readonly shape: readonly number[];
  readonly ggmlType: number;
  readonly bytes: Uint8Array;
}

const ALIGNMENT = 32;

class Bytes {
  readonly #parts: Buffer[] = [];
  length = 0;

  raw(part: Uint8Array): this {
    this.#parts.push(Buffer.from(part));
    this.length += part.length;
    return this;
  }

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

  string(value: string): this {
    const part = Buffer.from(value);
    return this.u64(part.length).raw(part);
  }

  pad(): this {
    return this.raw(new Uint8Array((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT));
  }

  field(field: GgufField): this {
    switch (field.type) {
      case 'u32':
        return this.u32(4).u32(field.value);
      case 'f32':
        return this.u32(6).f32(field.value);
      case 'bool':
        return this.u32(7).raw(Uint8Array.of(field.value));
      case 'u64':
        return this.u32(10).u64(field.value);
      case 'string':
        return this.u32(8).string(field.value);
      case 'strings':
        this.u32(9).u32(8).u64(field.value.length);
        for (const entry of field.value) this.string(entry);
        return this;
      case 'f32s':
        this.u32(9).u32(6).u64(field.value.length);
        for (const entry of field.value) this.f32(entry);
        return this;
      case 'i32s':
        this.u32(9).u32(5).u64(field.value.length);
        for (const entry of field.value) this.u32(entry);
        return this;
    }
  }

  done(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Serialises a GGUF file as the format describes it, independently of the reader. */
export function writeGguf(
  metadata: Readonly<Record<string, GgufField>>,
  tensors: readonly GgufTensorInput[],
  version = 3,
): Buffer {
  const out = new Bytes().raw(Buffer.from('GGUF')).u32(version).u64(tensors.length).u64(Object.keys(metadata).length);
  for (const [key, field] of Object.entries(metadata)) out.string(key).field(field);
  let offset = 0;
  for (const { name, shape, ggmlType, bytes } of tensors) {
    out.string(name).u32(shape.length);
    for (const size of [...shape].reverse()) out.u64(size);
    out.u32(ggmlType).u64(offset);
    offset += Math.ceil(bytes.length / ALIGNMENT) * ALIGNMENT;
  }
  out.pad();
  for (const { bytes } of tensors) out.raw(bytes).pad();
  return out.done();
}
