import { stringify } from 'lossless-json';
import type { Constraint } from '../../core/constraint.js';
import { invalidField, isJsonObject, readObject, readString } from '../fields.js';

/** LoRAX's spellings. */
const TYPES: ReadonlyMap<string, 'text' | 'json'> = new Map([
  ['text', 'text'],
  ['Text', 'text'],
  ['json_object', 'json'],
  ['JsonObject', 'json'],
  ['json_schema', 'json'],
  ['JsonSchema', 'json'],
]);

/** What LoRAX takes where no schema is given: an object of scalars and objects. */
const ARBITRARY_OBJECT = JSON.stringify({
  title: 'ArbitraryJsonModel',
  type: 'object',
  additionalProperties: {
    anyOf: ['object', 'string', 'integer', 'number', 'boolean', 'null'].map((type) => ({ type })),
  },
});

/**
 * `response_format`: `{type, schema}`. Without a schema LoRAX's own, with the schema null none at all, and `text` means
 * free text. Throws ERR_VALIDATION; whether the schema can be met is the engine's to say.
 */
export function readResponseFormat(value: unknown): Constraint | null {
  if (value === undefined || value === null) return null;
  const object = readObject('response_format', value);
  for (const name of Object.keys(object)) {
    if (name !== 'type' && name !== 'schema')
      throw invalidField('response_format', `unknown field \`response_format.${name}\`: remove it`);
  }
  const type = TYPES.get(readString('response_format.type', object.type));
  if (type === undefined)
    throw invalidField('response_format', '`response_format.type` must be text, json_object or json_schema');
  const { schema } = object;
  if (schema !== undefined && schema !== null && !isJsonObject(schema))
    throw invalidField('response_format', '`response_format.schema` must be a JSON Schema object or null');
  if (type === 'text') {
    if (schema === undefined || schema === null) return null;
    throw invalidField('response_format', '`response_format.schema` means nothing for text: leave it out');
  }
  if (schema === null) return null;
  // Not JSON.stringify: bounds in a schema may be integers that only a BigInt holds.
  const text = schema === undefined ? ARBITRARY_OBJECT : stringify(schema);
  return { kind: 'json_schema', schema: text ?? ARBITRARY_OBJECT };
}
