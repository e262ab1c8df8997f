import { parse as parseLossless } from 'lossless-json';
import { LoramuxError } from '../core/errors.js';

/** A number that a double may not hold has at least this many digits in a row. */
const LONG_NUMBER = /\d{16}/;
const INTEGER = /^-?\d+$/;

/** Index just past the JSON string that opens at `open`, or the end of an unclosed one. */
function endOfString(text: string, open: number): number {
  for (let close = text.indexOf('"', open + 1); close !== -1; close = text.indexOf('"', close + 1)) {
    let backslashes = 0;
    while (text[close - 1 - backslashes] === '\\') backslashes += 1;
    if (backslashes % 2 === 0) return close + 1;
  }
  return text.length;
}

/** True when a number outside of the strings may be too long for a double. Prompts may hold any digits. */
function hasLongNumber(text: string): boolean {
  if (!LONG_NUMBER.test(text)) return false;
  for (let at = 0; at < text.length; ) {
    const open = text.indexOf('"', at);
    if (LONG_NUMBER.test(text.slice(at, open === -1 ? text.length : open))) return true;
    if (open === -1) return false;
    at = endOfString(text, open);
  }
  return false;
}

/** Integers that a double would change become BigInts, other numbers stay numbers. */
function parseNumber(literal: string): number | bigint {
  const value = Number(literal);
  return INTEGER.test(literal) && !Number.isSafeInteger(value) ? BigInt(literal) : value;
}

/**
 * Parses a JSON request body without losing digits of 64-bit integers. Only bodies that hold such an integer take the
 * lossless parser, which is many times slower than the built-in one. ERR_BAD_REQUEST says where it is malformed.
 */
export function parseJsonBody(body: Buffer): unknown {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    return hasLongNumber(text) ? parseLossless(text, undefined, parseNumber) : JSON.parse(text);
  } catch (cause) {
    const detail = cause instanceof RangeError ? 'it is nested too deeply' : String((cause as Error).message);
    throw new LoramuxError('ERR_BAD_REQUEST', `Failed to parse the request body as JSON: ${detail}`, undefined, {
      cause,
    });
  }
}
