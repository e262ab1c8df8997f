import { invalidModel } from '../model-errors.js';

/** A metadata value; numeric and boolean arrays become float64. */
export type GgufValue = number | boolean | string | readonly string[] | Float64Array;

/** Thrown when the header goes on past the bytes at hand although the file does not end there. */
export class NeedMoreBytes extends Error {}

/** Elements of one metadata array; the largest real ones are the merges of a tokenizer, below 2^20. */
const MOST_ELEMENTS = 2 ** 24;
const STRING = 8;
const ARRAY = 9;

/** Fixed-size value types by their id: size in bytes and how to read one. */
const SCALARS: Readonly<Record<number, { bytes: number; read: (view: DataView, at: number) => number | boolean }>> = {
  0: { bytes: 1, read: (view, at) => view.getUint8(at) },
  1: { bytes: 1, read: (view, at) => view.getInt8(at) },
  2: { bytes: 2, read: (view, at) => view.getUint16(at, true) },
  3: { bytes: 2, read: (view, at) => view.getInt16(at, true) },
  4: { bytes: 4, read: (view, at) => view.getUint32(at, true) },
  5: { bytes: 4, read: (view, at) => view.getInt32(at, true) },
  6: { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  7: { bytes: 1, read: (view, at) => view.getUint8(at) !== 0 },
  10: { bytes: 8, read: (view, at) => Number(view.getBigUint64(at, true)) },
  11: { bytes: 8, read: (view, at) => Number(view.getBigInt64(at, true)) },
  12: { bytes: 8, read: (view, at) => view.getFloat64(at, true) },
};

/** Reads GGUF primitives one after the other. `what` names the place in errors (ERR_MODEL_INVALID). */
export class GgufCursor {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fileSize: number;
  readonly #path: string;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  #position = 0;

  /** @param bytes the beginning of a file of `fileSize` bytes. */
  constructor(bytes: Uint8Array, fileSize: number, path: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#fileSize = fileSize;
    this.#path = path;
  }

  get position(): number {
    return this.#position;
  }

  u32(what: string): number {
    return this.#view.getUint32(this.#take(4, what), true);
  }

  /** A u64 that counts something: at most `most`. */
  count(what: string, most = Number.MAX_SAFE_INTEGER): number {
    const value = Number(this.#view.getBigUint64(this.#take(8, what), true));
    if (value > most)
      throw invalidModel(this.#path, `${what}: expected at most ${most}, found ${value}: the file is damaged`);
    return value;
  }

  string(what: string): string {
    const length = this.count(`${what}, length`);
    const start = this.#take(length, what);
    try {
      return this.#decoder.decode(this.#bytes.subarray(start, start + length));
    } catch {
      throw invalidModel(this.#path, `${what}: expected UTF-8 text: the file is damaged`);
    }
  }

  value(what: string): GgufValue {
    const type = this.u32(`${what}, type`);
    if (type === STRING) return this.string(what);
    if (type === ARRAY) return this.#array(what);
    const scalar = this.#scalar(type, what);
    return scalar.read(this.#view, this.#take(scalar.bytes, what));
  }

  #array(what: string): readonly string[] | Float64Array {
    const type = this.u32(`${what}, element type`);
    const count = this.count(`${what}, element count`, MOST_ELEMENTS);
    if (type === STRING) {
      this.#require(8 * count, what);
      const strings: string[] = [];
      for (let i = 0; i < count; i++) strings.push(this.string(what));
      return strings;
    }
    const scalar = this.#scalar(type, what);
    const start = this.#take(scalar.bytes * count, what);
    return Float64Array.from({ length: count }, (_, i) => Number(scalar.read(this.#view, start + i * scalar.bytes)));
  }

  #scalar(type: number, what: string) {
    const scalar = SCALARS[type];
    if (scalar === undefined)
      throw invalidModel(
        this.#path,
        `${what}: expected a value type of 0 to 12 (arrays of arrays excluded), found ${type}`,
      );
    return scalar;
  }

  #take(length: number, what: string): number {
    this.#require(length, what);
    const start = this.#position;
    this.#position += length;
    return start;
  }

  #require(length: number, what: string): void {
    const end = this.#position + length;
    if (end > this.#fileSize) {
      throw invalidModel(
        this.#path,
        `${what} needs bytes up to ${end}, but the file ends at ${this.#fileSize}: it was cut short or is damaged, fetch it again`,
      );
    }
    if (end > this.#bytes.length) throw new NeedMoreBytes();
  }
}
