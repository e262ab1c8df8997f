import { invalidModel, unsupportedModel } from '../model-errors.js';
import type { GgufValue } from './gguf-cursor.js';

/** Typed access to metadata; a missing required key or a value of another kind is ERR_MODEL_INVALID. */
export class Metadata {
  readonly #values: ReadonlyMap<string, GgufValue>;
  readonly #path: string;

  constructor(values: ReadonlyMap<string, GgufValue>, path: string) {
    this.#values = values;
    this.#path = path;
  }

  string(key: string, fallback?: string): string {
    const value = this.#values.get(key) ?? fallback;
    return typeof value === 'string' ? value : this.#refuse(key, 'text', value);
  }

  number(key: string, fallback?: number): number {
    const value = this.#values.get(key) ?? fallback;
    return typeof value === 'number' && Number.isFinite(value) ? value : this.#refuse(key, 'a finite number', value);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#values.get(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.#refuse(key, 'true or false', value);
  }

  /** A count of 1 to 2^31 − 1, or the fallback. */
  size(key: string, fallback?: number): number {
    const value = this.#values.get(key);
    if (value === undefined && fallback !== undefined) return fallback;
    const isSize = typeof value === 'number' && Number.isInteger(value) && value >= 1 && value < 2 ** 31;
    return isSize ? value : this.#refuse(key, 'an integer of 1 to 2147483647', value);
  }

  /** A size that may be given once per layer; layers that differ are ERR_MODEL_UNSUPPORTED. */
  perLayerSize(key: string, fallback?: number): number {
    const value = this.#values.get(key);
    if (!(value instanceof Float64Array)) return this.size(key, fallback);
    const first = value[0];
    if (first === undefined || !value.every((entry) => entry === first))
      throw unsupportedModel(this.#path, key, `[${value.subarray(0, 8)}…]`, 'one value for all layers');
    return first >= 1 && Number.isInteger(first) ? first : this.#refuse(key, 'an integer above 0', first);
  }

  strings(key: string): readonly string[] | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    return Array.isArray(value)
      ? (value as readonly string[])
      : this.#refuse(key, 'a list of texts', value as GgufValue);
  }

  numbers(key: string): Float64Array | undefined {
    const value = this.#values.get(key);
    return value === undefined || value instanceof Float64Array ? value : this.#refuse(key, 'a list of numbers', value);
  }

  #refuse(key: string, expected: string, value: GgufValue | undefined): never {
    const found = value === undefined ? 'nothing' : typeof value === 'object' ? 'a list' : JSON.stringify(value);
    throw invalidModel(this.#path, `key ${key}: expected ${expected}, found ${found}`, key);
  }
}
