import type { JsonObject } from '../fields.js';
import { type FieldConstraint, schemaText } from './constraint.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readBoolean,
  readObject,
  readOptionalString,
  readString,
  refuseOthers,
  requireField,
  wrongValue,
} from './fields.js';

/**
 * `response_format` as a constraint; null for plain text. A schema is enforced whether it is `strict` or not. FieldError.
 */
export function readResponseFormat(body: JsonObject): FieldConstraint | null {
  const path = 'response_format';
  if (isAbsent(body.response_format)) return null;
  const format = readObject(path, body.response_format);
  requireField(`${path}.type`, format.type);
  const type = readString(`${path}.type`, format.type);
  switch (type) {
    case 'text':
      refuseOthers(path, format, ['type']);
      return null;
    case 'json_object':
      refuseOthers(path, format, ['type']);
      return { path, constraint: { kind: 'json_object' } };
    case 'json_schema':
      refuseOthers(path, format, ['type', 'json_schema']);
      requireField(`${path}.json_schema`, format.json_schema);
      return readSchema(`${path}.json_schema`, readObject(`${path}.json_schema`, format.json_schema));
    default:
      throw wrongValue(`${path}.type`, 'text, json_object or json_schema', type);
  }
}

function readSchema(path: string, format: JsonObject): FieldConstraint {
  refuseOthers(path, format, ['name', 'description', 'schema', 'strict']);
  requireField(`${path}.name`, format.name);
  const name = readString(`${path}.name`, format.name);
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(name)) {
    throw wrongValue(`${path}.name`, '1 to 64 letters, digits, "_" and "-"', name);
  }
  readOptionalString(`${path}.description`, format.description);
  readBoolean(`${path}.strict`, format.strict, false);
  const schema = `${path}.schema`;
  if (isAbsent(format.schema)) {
    throw new FieldError(
      'missing_required_parameter',
      schema,
      `'${schema}' is required: use json_object for any object`,
    );
  }
  return {
    path: schema,
    constraint: { kind: 'json_schema', schema: schemaText(schema, readObject(schema, format.schema)) },
  };
}
