import { isDeepStrictEqual } from 'node:util';
import { invalidField, type JsonObject } from '../fields.js';

/**
 * Fields of the LoRAX contract that this server does not carry out, with the values that ask for nothing. Null, the
 * documented default and a neutral value are accepted; everything else is refused by name, never ignored.
 */
const UNSUPPORTED: Readonly<Record<string, readonly unknown[]>> = {
  apply_chat_template: [false],
  watermark: [false],
};

/** Names of the fields that are known but not supported. */
export const UNSUPPORTED_FIELDS: readonly string[] = Object.keys(UNSUPPORTED);

/**
 * Refuses fields that are neither `supported` nor asking for nothing. `at` is the path of the object, `''` for the
 * body itself.
 */
export function refuseUnknownFields(object: JsonObject, supported: ReadonlySet<string>, at: string): void {
  for (const [name, value] of Object.entries(object)) {
    if (supported.has(name)) continue;
    const neutral = at !== '' && Object.hasOwn(UNSUPPORTED, name) ? UNSUPPORTED[name] : undefined;
    const field = at === '' ? name : `${at}.${name}`;
    if (neutral === undefined) throw invalidField(name, `unknown field \`${field}\`: remove it`);
    if (value !== null && !neutral.some((candidate) => isDeepStrictEqual(candidate, value))) {
      throw invalidField(name, `\`${field}\` is not supported by this server: leave it out or null`);
    }
  }
}
