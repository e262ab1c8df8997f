import { LoramuxError } from '../core/errors.js';

export type JsonObject = Readonly<Record<string, unknown>>;

/** ERR_VALIDATION for one field. */
export function invalidField(field: string, message: string): LoramuxError {
  return new LoramuxError('ERR_VALIDATION', message, { field });
}

/** The value as messages show it: short, and never a whole prompt. */
function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'string') return value.length <= 40 ? JSON.stringify(value) : 'a long string';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

function wrongType(field: string, expected: string, value: unknown): LoramuxError {
  return invalidField(field, `\`${field}\` must be ${expected}, got ${shown(value)}`);
}

/** A half of a surrogate pair is no text: it has no UTF-8 form. */
function isUnicode(value: string): boolean {
  return !/\p{Surrogate}/u.test(value);
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function readObject(field: string, value: unknown): JsonObject {
  if (!isJsonObject(value)) throw wrongType(field, 'an object', value);
  return value;
}

export function readBoolean(field: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== 'boolean') throw wrongType(field, 'true or false', value);
  return value;
}

export function readString(field: string, value: unknown): string {
  if (typeof value !== 'string') throw wrongType(field, 'a string', value);
  if (!isUnicode(value)) throw invalidField(field, `\`${field}\` must be valid Unicode, got half a surrogate pair`);
  return value;
}

export function readOptionalString(field: string, value: unknown): string | null {
  return value === undefined || value === null ? null : readString(field, value);
}

export function readStrings(field: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw wrongType(field, 'a list of strings', value);
  return value.map((item: unknown, at) => readString(`${field}[${at}]`, item));
}

/** A finite number, or null when absent. */
export function readNumber(field: string, value: unknown): number | null {
  if (value === undefined || value === null) return null;
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isFinite(number)) throw wrongType(field, 'a number or null', value);
  return number;
}

/** An integer of at most `max`, or null when absent. Lower bounds have messages of their own at the callers. */
export function readInteger(field: string, value: unknown, max: number): number | null {
  const number = readNumber(field, value);
  if (number === null) return null;
  if (!Number.isInteger(number) || number > max) {
    throw wrongType(field, `an integer of at most ${max} or null`, value);
  }
  return number;
}

const MAX_UINT64 = 2n ** 64n - 1n;

/** An unsigned 64-bit integer as a number, BigInt or decimal string, or null when absent. */
export function readUint64(field: string, value: unknown): bigint | null {
  if (value === undefined || value === null) return null;
  const exact =
    typeof value === 'bigint' ||
    (typeof value === 'number' && Number.isSafeInteger(value)) ||
    (typeof value === 'string' && /^\d{1,20}$/.test(value));
  const integer = exact ? BigInt(value) : -1n;
  if (integer < 0n || integer > MAX_UINT64) {
    throw wrongType(field, 'an integer from 0 to 18446744073709551615 or null', value);
  }
  return integer;
}
