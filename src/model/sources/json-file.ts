import { readFile, stat } from 'node:fs/promises';
import { invalidModel } from '../model-errors.js';

const LARGEST_JSON = 256 * 2 ** 20;

/** A JSON object read from a model directory, with typed access. Errors are ERR_MODEL_INVALID naming file and field. */
export class JsonFields {
  constructor(
    readonly path: string,
    private readonly values: Readonly<Record<string, unknown>>,
    private readonly prefix = '',
  ) {}

  /** All fields as they are. */
  get all(): Readonly<Record<string, unknown>> {
    return this.values;
  }

  /** The field, with null taken as absent. */
  raw(key: string): unknown {
    return Object.hasOwn(this.values, key) ? (this.values[key] ?? undefined) : undefined;
  }

  /** Whether the key is written at all, even as null. */
  has(key: string): boolean {
    return Object.hasOwn(this.values, key);
  }

  size(key: string, fallback?: number): number {
    const value = this.raw(key) ?? fallback;
    const isSize = typeof value === 'number' && Number.isInteger(value) && value >= 1 && value < 2 ** 31;
    return isSize ? value : this.refuse(key, 'an integer of 1 to 2147483647');
  }

  number(key: string, fallback?: number): number {
    const value = this.raw(key) ?? fallback;
    return typeof value === 'number' && Number.isFinite(value) ? value : this.refuse(key, 'a finite number');
  }

  optionalNumber(key: string): number | null {
    return this.raw(key) === undefined ? null : this.number(key);
  }

  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    return value > 0 ? value : this.refuse(key, 'a number above 0');
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.refuse(key, 'true or false');
  }

  string(key: string, fallback?: string): string {
    const value = this.raw(key) ?? fallback;
    return typeof value === 'string' ? value : this.refuse(key, 'text');
  }

  object(key: string): JsonFields | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    return isRecord(value) ? new JsonFields(this.path, value, `${this.name(key)}.`) : this.refuse(key, 'an object');
  }

  /** Token ids given as one integer or a list; empty when absent. */
  ids(key: string): number[] {
    const value = this.raw(key) ?? [];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0;
    return list.every(isId) ? list : this.refuse(key, 'a token id or a list of them');
  }

  /** Full name of a field, for messages. */
  name(key: string): string {
    return `${this.prefix}${key}`;
  }

  refuse(key: string, expected: string): never {
    const found = JSON.stringify(this.raw(key)) ?? 'nothing';
    throw invalidModel(
      this.path,
      `${this.name(key)}: expected ${expected}, found ${found.slice(0, 80)}`,
      this.name(key),
    );
  }
}

/** Reads a JSON object; undefined when there is no such file. */
export async function readJsonFile(path: string): Promise<JsonFields | undefined> {
  const text = await readTextFile(path);
  if (text === undefined) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw invalidModel(path, `expected JSON: ${(error as Error).message}`);
  }
  if (!isRecord(parsed)) throw invalidModel(path, 'expected a JSON object');
  return new JsonFields(path, parsed);
}

/** Reads a text file of at most 256 MiB; undefined when there is no such file. */
export async function readTextFile(path: string): Promise<string | undefined> {
  const stats = await stat(path).catch(() => undefined);
  if (stats === undefined) return undefined;
  if (stats.size > LARGEST_JSON)
    throw invalidModel(path, `expected at most ${LARGEST_JSON} bytes, found ${stats.size}`);
  return readFile(path, 'utf8');
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
