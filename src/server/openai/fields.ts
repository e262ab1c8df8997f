import { LoramuxError } from '../../core/errors.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';

/**
 * Readers of single fields. `path` is the field as replies name it (`stream_options.include_usage`). Null counts as
 * absent everywhere, because OpenAI's clients send it for what is not set.
 */
type Path = string;

/** The value as messages show it: short, and never a whole prompt. */
function shown(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (typeof value === 'string') return value.length <= 40 ? JSON.stringify(value) : 'a long string';
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : String(value);
}

export function wrongType(path: Path, expected: string, value: unknown): FieldError {
  return new FieldError('invalid_type', path, `'${path}' must be ${expected}, got ${shown(value)}`);
}

export function wrongValue(path: Path, expected: string, value: unknown): FieldError {
  return new FieldError('invalid_value', path, `'${path}' must be ${expected}, got ${shown(value)}`);
}

export function isAbsent(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

export function requireField(path: Path, value: unknown): void {
  if (isAbsent(value)) throw new FieldError('missing_required_parameter', path, `'${path}' is required`);
}

/** ERR_BAD_REQUEST for a request without a body. */
export function requireBody(body: unknown): void {
  if (body === undefined) throw new LoramuxError('ERR_BAD_REQUEST', 'The body must be a JSON object: it is empty');
}

export function readObject(path: Path, value: unknown): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw wrongType(path, 'an object', value);
}

export function readArray(path: Path, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw wrongType(path, 'an array', value);
}

export function readBoolean(path: Path, value: unknown, fallback: boolean): boolean {
  if (isAbsent(value)) return fallback;
  if (typeof value !== 'boolean') throw wrongType(path, 'true or false', value);
  return value;
}

/** Text with a UTF-8 form: no half of a surrogate pair. */
export function readString(path: Path, value: unknown): string {
  if (typeof value !== 'string') throw wrongType(path, 'a string', value);
  if (/\p{Surrogate}/u.test(value)) {
    throw new FieldError('invalid_value', path, `'${path}' must be valid Unicode, got half a surrogate pair`);
  }
  return value;
}

export function readOptionalString(path: Path, value: unknown): string | null {
  return isAbsent(value) ? null : readString(path, value);
}

/** A finite number, or null when absent. */
export function readNumber(path: Path, value: unknown): number | null {
  if (isAbsent(value)) return null;
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isFinite(number)) throw wrongType(path, 'a number', value);
  return number;
}

/** A number from `min` to `max`, or null when absent. */
export function readNumberIn(path: Path, value: unknown, min: number, max: number): number | null {
  const number = readNumber(path, value);
  if (number === null || (number >= min && number <= max)) return number;
  throw wrongValue(path, `from ${min} to ${max}`, value);
}

/** An integer from `min` to `max`, or null when absent. */
export function readIntegerIn(path: Path, value: unknown, min: number, max: number): number | null {
  const number = readNumber(path, value);
  if (number === null) return null;
  if (!Number.isInteger(number)) throw wrongType(path, 'an integer', value);
  if (number >= min && number <= max) return number;
  throw wrongValue(path, `from ${min} to ${max}`, value);
}

/** Refuses fields of an inner object that are not `known`. */
export function refuseOthers(path: Path, object: JsonObject, known: readonly string[]): void {
  const stranger = Object.keys(object).find((name) => !known.includes(name));
  if (stranger === undefined) return;
  const message = `Unknown parameter: '${path}.${stranger}': expected ${known.join(', ')}`;
  throw new FieldError('unknown_parameter', `${path}.${stranger}`, message);
}
