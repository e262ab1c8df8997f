/** JSON Schema, draft 2020-12, as OpenAPI 3.1 has it. */
export type JsonSchema = Readonly<Record<string, unknown>>;

/** What is written about one route: documentation only, the readers of its fields decide. Kept equal to them by tests. */
export interface RouteDoc {
  /** `operationId`; unique on its listener. */
  readonly id: string;
  readonly tag: string;
  readonly summary: string;
  /** Of path parameters that are no adapter names. */
  readonly params?: Readonly<Record<string, JsonSchema>>;
  /** Query parameters, all of them optional. */
  readonly query?: Readonly<Record<string, JsonSchema>>;
  /** Schemas of the body by media type. */
  readonly body?: Readonly<Record<string, JsonSchema>>;
  /** Replies that are no errors. */
  readonly replies: Readonly<Record<number, ReplyDoc>>;
  /** Statuses of errors of its own; those of every route (keys, bodies) are added. */
  readonly errors: readonly number[];
  /** Of the errors' bodies, by name of the component; without it the listener's own. */
  readonly errorSchema?: ErrorSchema;
}

export type ErrorSchema = 'LoraxError' | 'OpenAiError' | 'VllmError' | 'AdminError';

export interface ReplyDoc {
  readonly text: string;
  /** Schemas by media type; without it the reply has no body. */
  readonly content?: Readonly<Record<string, JsonSchema>>;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    doc?: RouteDoc;
  }
}

export const JSON_TYPE = 'application/json';
export const TEXT_TYPE = 'text/plain';
export const EVENTS_TYPE = 'text/event-stream';

/** Replies of server-sent events: the schema of one event, whose data is JSON text. */
export function eventsOf(description: string): Readonly<Record<string, JsonSchema>> {
  const event = { type: 'object', properties: { data: STRING, event: STRING }, required: ['data'] };
  return { [EVENTS_TYPE]: { description, ...event } };
}

/** A shared schema of the document. */
export function ref(name: string): JsonSchema {
  return { $ref: `#/components/schemas/${name}` };
}

export function object(
  properties: Readonly<Record<string, JsonSchema>>,
  required: readonly string[] = Object.keys(properties),
): JsonSchema {
  return { type: 'object', properties, required, additionalProperties: false };
}

export function array(items: JsonSchema, more: JsonSchema = {}): JsonSchema {
  return { type: 'array', items, ...more };
}

/** `schema`, which has one `type` or is an enum, or null. */
export function nullable(schema: JsonSchema): JsonSchema {
  if (Array.isArray(schema.enum)) return { ...schema, enum: [...schema.enum, null] };
  if (typeof schema.type === 'string') return { ...schema, type: [schema.type, 'null'] };
  return { anyOf: [schema, { type: 'null' }] };
}

export function described(description: string, schema: JsonSchema): JsonSchema {
  return { description, ...schema };
}

export function json(schema: JsonSchema): Readonly<Record<string, JsonSchema>> {
  return { [JSON_TYPE]: schema };
}

export const STRING = { type: 'string' } as const;
export const BOOLEAN = { type: 'boolean' } as const;
export const NUMBER = { type: 'number' } as const;
export const COUNT = { type: 'integer', minimum: 0 } as const;

const PART = '[A-Za-z0-9][A-Za-z0-9._-]{0,127}';
export const ADAPTER_NAME = { type: 'string', pattern: `^${PART}(?:/${PART})?$` } as const;
export const DIGEST = { type: 'string', pattern: '^[0-9a-f]{64}$' } as const;
