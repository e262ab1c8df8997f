import { parse as parseLossless } from 'lossless-json';
import { LoramuxError } from '../core/errors.js';

/** A number that a double may not hold has at least this many digits in a row. */
const LONG_NUMBER = /\d{16}/;
const INTEGER = /^-?\d+$/;

/** Integers that a double would change become BigInts, other numbers stay numbers. */
function parseNumber(literal: string): number | bigint {
  const value = Number(literal);
  return INTEGER.test(literal) && !Number.isSafeInteger(value) ? BigInt(literal) : value;
}

/** Parses a JSON request body without losing digits of 64-bit integers. ERR_BAD_REQUEST says where it is malformed. */
export function parseJsonBody(body: Buffer): unknown {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    return LONG_NUMBER.test(text) ? parseLossless(text, undefined, parseNumber) : JSON.parse(text);
  } catch (cause) {
    const detail = cause instanceof RangeError ? 'it is nested too deeply' : String((cause as Error).message);
    throw new LoramuxError('ERR_BAD_REQUEST', `Failed to parse the request body as JSON: ${detail}`, undefined, {
      cause,
    });
  }
}
