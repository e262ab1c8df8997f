/** Tensor types of initializers, by their ONNX element type id. */
export const ElementType = { float32: 1, uint8: 2, uint16: 4, int64: 7, float16: 10, bfloat16: 16 } as const;

/** What activations may be, and with them norms, biases and weights that are not quantised. */
export type FloatType = 'float32' | 'float16' | 'bfloat16';

export type StoredType = FloatType | 'uint8' | 'uint16';

const BYTES: Readonly<Record<StoredType, number>> = { float32: 4, float16: 2, bfloat16: 2, uint8: 1, uint16: 2 };

/** One initializer's bytes in `weights.bin`: little-endian, row-major. */
export interface Region {
  /** Initializer name in the graph. */
  readonly name: string;
  readonly type: StoredType;
  readonly shape: readonly number[];
  /** 4096-aligned. */
  readonly offset: number;
  readonly bytes: number;
}

/** Initializers begin at page boundaries, so that they can be mapped one by one. */
export const WEIGHT_ALIGNMENT = 4096;

/** Hands out consecutive, aligned regions of `weights.bin`. */
export class WeightLayout {
  readonly #regions: Region[] = [];
  #end = 0;

  add(name: string, type: StoredType, shape: readonly number[]): Region {
    const bytes = shape.reduce((product, size) => product * size, BYTES[type]);
    const offset = Math.ceil(this.#end / WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT;
    const region: Region = { name, type, shape, offset, bytes };
    this.#regions.push(region);
    this.#end = offset + bytes;
    return region;
  }

  /** Ascending by offset. */
  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** Size of the file in bytes. */
  get totalBytes(): number {
    return this.#end;
  }
}
