import type { TemplateMessage } from '../../chat/chat-template.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readArray,
  readObject,
  readOptionalString,
  readString,
  refuseOthers,
  requireField,
  wrongValue,
} from './fields.js';

/** Fields of messages in any role; beside them clients send back what a reply's message has, with null. */
const COMMON_KEYS = ['role', 'content', 'name'];
const ASSISTANT_KEYS = [
  ...COMMON_KEYS,
  'annotations',
  'audio',
  'function_call',
  // What OpenAI's packages made of `content`, and below of `arguments`; they send it along with what it was made of.
  'parsed',
  'reasoning_content',
  'refusal',
  'tool_calls',
];

/** The `messages` of a chat, checked, as templates take them. FieldError with the path of the first fault. */
export function readMessages(value: unknown): readonly TemplateMessage[] {
  requireField('messages', value);
  const list = readArray('messages', value);
  if (list.length === 0) throw wrongValue('messages', 'an array that is not empty', list);
  return list.map((item, at) => readMessage(`messages[${at}]`, readObject(`messages[${at}]`, item)));
}

function readMessage(path: string, message: JsonObject): TemplateMessage {
  requireField(`${path}.role`, message.role);
  const role = readString(`${path}.role`, message.role);
  switch (role) {
    case 'system':
    case 'developer':
    case 'user':
      refuseOthers(path, message, COMMON_KEYS);
      return { role, ...readName(path, message), content: readContent(path, message.content) };
    case 'assistant':
      return readAssistant(path, message);
    case 'tool': {
      refuseOthers(path, message, [...COMMON_KEYS, 'tool_call_id']);
      requireField(`${path}.tool_call_id`, message.tool_call_id);
      const tool_call_id = readString(`${path}.tool_call_id`, message.tool_call_id);
      return { role, ...readName(path, message), content: readContent(path, message.content), tool_call_id };
    }
    case 'function': {
      const text = `'${path}.role' function is no longer supported: send the result as role tool`;
      throw new FieldError('unsupported_parameter', `${path}.role`, text);
    }
    default:
      throw wrongValue(`${path}.role`, 'system, developer, user, assistant or tool', role);
  }
}

function readAssistant(path: string, message: JsonObject): TemplateMessage {
  refuseOthers(path, message, ASSISTANT_KEYS);
  for (const key of ['audio', 'function_call', 'refusal']) {
    if (isAbsent(message[key])) continue;
    throw new FieldError('unsupported_parameter', `${path}.${key}`, `'${path}.${key}' is supported as null only`);
  }
  if (!isAbsent(message.annotations) && readArray(`${path}.annotations`, message.annotations).length > 0) {
    throw new FieldError('unsupported_parameter', `${path}.annotations`, `'${path}.annotations' must be empty`);
  }
  const calls = isAbsent(message.tool_calls) ? [] : readArray(`${path}.tool_calls`, message.tool_calls);
  const thoughts = readOptionalString(`${path}.reasoning_content`, message.reasoning_content);
  return {
    role: 'assistant',
    ...readName(path, message),
    // Templates print text, and an answer of calls has none.
    content: calls.length > 0 && isAbsent(message.content) ? '' : readContent(path, message.content),
    ...(thoughts === null ? {} : { reasoning_content: thoughts }),
    ...(calls.length === 0 ? {} : { tool_calls: calls.map((call, at) => readCall(`${path}.tool_calls[${at}]`, call)) }),
  };
}

function readName(path: string, message: JsonObject): { readonly name?: string } {
  const name = readOptionalString(`${path}.name`, message.name);
  return name === null ? {} : { name };
}

/** Text, or parts of text, which stand on lines of their own. */
function readContent(path: string, value: unknown): string {
  requireField(`${path}.content`, value);
  if (typeof value === 'string') return readString(`${path}.content`, value);
  return readArray(`${path}.content`, value)
    .map((item, at) => readPart(`${path}.content[${at}]`, readObject(`${path}.content[${at}]`, item)))
    .join('\n');
}

function readPart(path: string, part: JsonObject): string {
  requireField(`${path}.type`, part.type);
  if (part.type !== 'text') {
    const type = readString(`${path}.type`, part.type);
    throw new FieldError(
      'unsupported_content',
      `${path}.type`,
      `'${path}.type' must be text, got ${type.slice(0, 40)}`,
    );
  }
  refuseOthers(path, part, ['type', 'text']);
  requireField(`${path}.text`, part.text);
  return readString(`${path}.text`, part.text);
}

/** A call of an earlier answer. Templates take the arguments as an object where they are one. */
function readCall(path: string, item: unknown): object {
  const call = readObject(path, item);
  refuseOthers(path, call, ['id', 'type', 'function', 'index']);
  if (!isAbsent(call.type) && call.type !== 'function') throw wrongValue(`${path}.type`, 'function', call.type);
  requireField(`${path}.id`, call.id);
  requireField(`${path}.function`, call.function);
  const called = readObject(`${path}.function`, call.function);
  refuseOthers(`${path}.function`, called, ['name', 'arguments', 'parsed_arguments']);
  requireField(`${path}.function.name`, called.name);
  requireField(`${path}.function.arguments`, called.arguments);
  const name = readString(`${path}.function.name`, called.name);
  const text = readString(`${path}.function.arguments`, called.arguments);
  return { id: readString(`${path}.id`, call.id), type: 'function', function: { name, arguments: objectOr(text) } };
}

/** The object that `text` is the JSON of, or the text itself: models do not always write JSON. */
function objectOr(text: string): unknown {
  try {
    const value: unknown = text.trim() === '' ? {} : JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : text;
  } catch {
    return text;
  }
}
