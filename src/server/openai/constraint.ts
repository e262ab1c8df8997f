import type { Constraint } from '../../core/constraint.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import { isAbsent, readArray, readBoolean, readObject, readString, refuseOthers, wrongValue } from './fields.js';

/** What the output must look like, and the field that said so. */
export interface FieldConstraint {
  readonly constraint: Constraint;
  readonly path: string;
}

const KINDS = ['json', 'regex', 'choice', 'grammar', 'json_object'] as const;
/** vLLM's options of how a constraint is carried out, with what this server does. */
const OPTIONS: Readonly<Record<string, unknown>> = {
  disable_any_whitespace: false,
  disable_additional_properties: false,
  disable_fallback: false,
  whitespace_pattern: null,
  structural_tag: null,
};
const GUIDED = {
  guided_json: 'json',
  guided_regex: 'regex',
  guided_choice: 'choice',
  guided_grammar: 'grammar',
} as const;
const MAX_CHOICES = 1_024;

/** `structured_outputs`, or one of its older names `guided_…`; null when there is neither. FieldError for several. */
export function readConstraint(body: JsonObject): FieldConstraint | null {
  const guided = Object.entries(GUIDED).filter(([name]) => !isAbsent(body[name]));
  const found = guided.map(([name, kind]) => ({ path: name, constraint: constraintOf(kind, name, body[name]) }));
  const structured = isAbsent(body.structured_outputs) ? null : readStructured(body.structured_outputs);
  if (structured !== null) found.push(structured);
  const [first, second] = found;
  if (second === undefined) return first ?? null;
  throw severalConstraints(second.path);
}

/** FieldError: an output can be held to one form only. */
export function severalConstraints(path: string): FieldError {
  return new FieldError('invalid_value', path, `'${path}' comes on top of another constraint: give one of them`);
}

function readStructured(value: unknown): FieldConstraint {
  const path = 'structured_outputs';
  const object = readObject(path, value);
  refuseOthers(path, object, [...KINDS, ...Object.keys(OPTIONS)]);
  for (const [name, neutral] of Object.entries(OPTIONS)) {
    if (isAbsent(object[name]) || object[name] === neutral) continue;
    throw new FieldError(
      'unsupported_parameter',
      `${path}.${name}`,
      `'${path}.${name}' is not supported: leave it out`,
    );
  }
  const given = KINDS.filter((kind) => !isAbsent(object[kind]) && object[kind] !== false);
  const [kind, second] = given;
  if (kind === undefined || second !== undefined) {
    throw new FieldError('invalid_value', path, `'${path}' must hold exactly one of ${KINDS.join(', ')}`);
  }
  return { path: `${path}.${kind}`, constraint: constraintOf(kind, `${path}.${kind}`, object[kind]) };
}

function constraintOf(kind: (typeof KINDS)[number], path: string, value: unknown): Constraint {
  switch (kind) {
    case 'json':
      return { kind: 'json_schema', schema: schemaText(path, value) };
    case 'regex':
      return { kind: 'regex', pattern: readFilled(path, value) };
    case 'grammar':
      return { kind: 'grammar', grammar: readFilled(path, value) };
    case 'choice':
      return { kind: 'choice', choices: readChoices(path, value) };
    case 'json_object':
      readBoolean(path, value, true);
      return { kind: 'json_object' };
  }
}

/** A JSON Schema as text, which is how constraints carry it; given as an object, or as its text. */
export function schemaText(path: string, value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(readObject(path, value), plainBigInts);
  try {
    readObject(path, JSON.parse(value));
  } catch {
    throw wrongValue(path, 'a JSON Schema, or its text', value);
  }
  return value;
}

/** Integers beyond 2^53, which bodies hold as BigInt: a JSON Schema only compares numbers. */
export function plainBigInts(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? Number(value) : value;
}

function readFilled(path: string, value: unknown): string {
  const text = readString(path, value);
  if (text === '') throw wrongValue(path, 'a string that is not empty', value);
  return text;
}

function readChoices(path: string, value: unknown): readonly string[] {
  const choices = readArray(path, value).map((item, at) => readFilled(`${path}[${at}]`, item));
  if (choices.length >= 1 && choices.length <= MAX_CHOICES) return choices;
  throw wrongValue(path, `an array of 1 to ${MAX_CHOICES} strings`, value);
}
