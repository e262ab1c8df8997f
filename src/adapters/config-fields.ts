import type { Offender } from '../core/errors.js';
import { describeJson, type JsonObject, type JsonValue } from './strict-json.js';

export const MAX_RANK = 256;
const MAX_PATTERN_LENGTH = 512;
export const MAX_PATTERNS = 10_000;
const MAX_LAYER_INDEX = 1_000_000;

/** Pairs of (Python regular expression, value) in the order of the file: the first that matches a module wins. */
export type ModulePatterns = readonly (readonly [pattern: string, value: number])[];

/** Reads typed fields and collects what is wrong, so that one answer lists every offender. */
export class FieldReader {
  readonly offenders: Offender[] = [];

  constructor(private readonly fields: JsonObject) {}

  /** The value, with a missing key read as null (PEFT then takes its default, so do we). */
  get(key: string): JsonValue {
    return this.fields.get(key) ?? null;
  }

  refuse(key: string, expected: string, found: JsonValue = this.get(key)): void {
    this.offenders.push({ key, expected, found: describeJson(found) });
  }

  checked<T extends JsonValue>(
    key: string,
    fallback: T,
    expected: string,
    accepts: (value: JsonValue) => value is T,
  ): T {
    if (!this.fields.has(key)) return fallback;
    const value = this.get(key);
    if (accepts(value)) return value;
    this.refuse(key, expected);
    return fallback;
  }

  patterns(key: string, expected: string, accepts: (value: JsonValue) => value is number): ModulePatterns {
    const value = this.get(key);
    if (value === null) return [];
    if (!(value instanceof Map)) {
      this.refuse(key, `an object of pattern → ${expected}`);
      return [];
    }
    if (value.size > MAX_PATTERNS) {
      this.offenders.push({ key, expected: `at most ${MAX_PATTERNS} patterns`, found: `${value.size}` });
      return [];
    }
    const pairs: [string, number][] = [];
    for (const [pattern, setting] of value as JsonObject) {
      if (pattern.length > MAX_PATTERN_LENGTH)
        this.refuse(key, `patterns of at most ${MAX_PATTERN_LENGTH} characters`, pattern);
      else if (accepts(setting)) pairs.push([pattern, setting]);
      else this.refuse(`${key}[${describeJson(pattern)}]`, expected, setting);
    }
    return pairs;
  }

  strings(key: string): readonly string[] | null {
    const value = this.get(key);
    const list = typeof value === 'string' ? [value] : value;
    if (list === null) return null;
    if (!Array.isArray(list) || !list.every((item) => typeof item === 'string')) {
      this.refuse(key, 'a string or a list of strings');
      return null;
    }
    if (list.length > MAX_PATTERNS || list.some((item) => item.length > MAX_PATTERN_LENGTH)) {
      this.refuse(key, `at most ${MAX_PATTERNS} entries of at most ${MAX_PATTERN_LENGTH} characters`);
      return null;
    }
    return list;
  }
}

export const isBoolean = (value: JsonValue): value is boolean => typeof value === 'boolean';
export const isFiniteNumber = (value: JsonValue): value is number =>
  typeof value === 'number' && Number.isFinite(value);
export const isRank = (value: JsonValue): value is number =>
  isFiniteNumber(value) && Number.isInteger(value) && value >= 1 && value <= MAX_RANK;
export const isTokenId = (value: JsonValue): value is number =>
  isFiniteNumber(value) && Number.isInteger(value) && value >= 0 && value < 2 ** 32;
export const isLayerIndex = (value: JsonValue): value is number =>
  isFiniteNumber(value) && Number.isInteger(value) && value >= 0 && value <= MAX_LAYER_INDEX;
