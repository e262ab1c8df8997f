import { LoramuxError } from '../../core/errors.js';
import { isJsonObject, type JsonObject } from '../fields.js';
import { parseJsonBody } from '../json-body.js';

/** Which route's body a `generate` holds. */
export type StreamApi = 'chat' | 'completions' | 'generate';

/** What clients say. */
export type ClientMessage =
  | {
      readonly type: 'generate';
      readonly id: string;
      readonly api: StreamApi;
      readonly body: JsonObject;
      /** null = as long as it takes. */
      readonly deadlineMs: number | null;
    }
  | { readonly type: 'cancel'; readonly id: string }
  | { readonly type: 'ping'; readonly t: unknown };

const APIS = ['chat', 'completions', 'generate'] as const;
const ID = /^[\w.:-]{1,64}$/;
const MAX_DEADLINE_MS = 24 * 3_600_000;
const FIELDS = {
  generate: ['type', 'id', 'api', 'body', 'deadline_ms'],
  cancel: ['type', 'id'],
  ping: ['type', 't'],
} as const;

/** Reads one text frame. ERR_BAD_REQUEST says what of the message is wrong; the body of a `generate` is not looked at. */
export function readClientMessage(frame: Buffer): ClientMessage {
  const message = parseFrame(frame);
  const { type } = message;
  switch (type) {
    case 'generate':
      refuseOthers(message, FIELDS.generate);
      return {
        type,
        id: readId(message.id),
        api: readApi(message.api),
        body: readBody(message.body),
        deadlineMs: readDeadline(message.deadline_ms),
      };
    case 'cancel':
      refuseOthers(message, FIELDS.cancel);
      return { type, id: readId(message.id) };
    case 'ping':
      refuseOthers(message, FIELDS.ping);
      return { type, t: message.t };
    default:
      throw wrong('type', `"type" must be one of ${Object.keys(FIELDS).join(', ')}`);
  }
}

function parseFrame(frame: Buffer): JsonObject {
  let value: unknown;
  try {
    value = parseJsonBody(frame);
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw wrong('message', `expected one JSON object in each frame: ${reason}`);
  }
  if (isJsonObject(value)) return value;
  throw wrong('message', 'expected one JSON object in each frame');
}

function refuseOthers(message: JsonObject, known: readonly string[]): void {
  const stranger = Object.keys(message).find((name) => !known.includes(name));
  if (stranger !== undefined) throw wrong(stranger, `unknown field "${stranger}": expected ${known.join(', ')}`);
}

function readId(value: unknown): string {
  if (typeof value === 'string' && ID.test(value)) return value;
  throw wrong('id', '"id" must be 1 to 64 letters, digits, ".", "_", ":" and "-"');
}

function readApi(value: unknown): StreamApi {
  const api = APIS.find((known) => known === value);
  if (api !== undefined) return api;
  throw wrong('api', `"api" must be one of ${APIS.join(', ')}`);
}

function readBody(value: unknown): JsonObject {
  if (!isJsonObject(value)) throw wrong('body', '"body" must be an object, as the route of "api" takes it');
  if (value.stream !== undefined && value.stream !== null && value.stream !== true) {
    throw wrong('body.stream', '"body.stream" must be true or left out: everything here is streamed');
  }
  return value;
}

function readDeadline(value: unknown): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= MAX_DEADLINE_MS) return value;
  throw wrong('deadline_ms', `"deadline_ms" must be a whole number from 1 to ${MAX_DEADLINE_MS}`);
}

function wrong(field: string, message: string): LoramuxError {
  return new LoramuxError('ERR_BAD_REQUEST', message, { field });
}
