import type { ToolFormat } from '../../chat/tools/tool-format.js';
import type { JsonObject } from '../fields.js';
import { type FieldConstraint, plainBigInts, schemaText } from './constraint.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readArray,
  readBoolean,
  readObject,
  readOptionalString,
  readString,
  refuseOthers,
  requireField,
  wrongValue,
} from './fields.js';

const MAX_TOOLS = 128;
const NAME = /^[A-Za-z0-9_-]{1,64}$/;

/** A function that the model may call. */
interface Tool {
  readonly name: string;
  /** JSON text of the arguments' schema. */
  readonly schema: string;
  /** As the request gives it, for the template. */
  readonly given: JsonObject;
}

/** How calls come about: found in the answer's text, or forced by its form. */
export type ToolUse =
  | { readonly kind: 'none' }
  /** Where the model wants. */
  | { readonly kind: 'auto'; readonly format: ToolFormat | 'auto' }
  /** At least one call: the answer is a list of them. */
  | { readonly kind: 'required' }
  /** One call of this function: the answer is its arguments. */
  | { readonly kind: 'named'; readonly name: string };

export interface ToolChoice {
  readonly use: ToolUse;
  /** Names of the tools. */
  readonly names: readonly string[];
  /** For the template; null = none. */
  readonly shown: readonly JsonObject[] | null;
  readonly maxCalls: number;
  readonly constraint: FieldConstraint | null;
}

/** `tools`, `tool_choice` and `parallel_tool_calls`. `setting`: the operator's `--tool-call-format`. FieldError. */
export function readTools(body: JsonObject, setting: ToolFormat | 'auto' | 'none'): ToolChoice {
  const parallel = readBoolean('parallel_tool_calls', body.parallel_tool_calls, true);
  const tools = isAbsent(body.tools) ? [] : readToolList(body.tools);
  const use = readChoice(body.tool_choice, tools, setting);
  // A model that may not call anything does not see what there is.
  const shown = use.kind === 'none' ? null : tools.map(({ given }) => given);
  const maxCalls = parallel ? Number.POSITIVE_INFINITY : 1;
  return { use, names: tools.map(({ name }) => name), shown, maxCalls, constraint: constraintOf(use, tools, parallel) };
}

function readToolList(value: unknown): readonly Tool[] {
  const list = readArray('tools', value);
  if (list.length < 1 || list.length > MAX_TOOLS)
    throw wrongValue('tools', `an array of 1 to ${MAX_TOOLS} tools`, list);
  const tools = list.map((item, at) => readTool(`tools[${at}]`, readObject(`tools[${at}]`, item)));
  const names = new Set(tools.map(({ name }) => name));
  if (names.size === tools.length) return tools;
  throw new FieldError('invalid_value', 'tools', "'tools' must have different names");
}

function readTool(path: string, tool: JsonObject): Tool {
  refuseOthers(path, tool, ['type', 'function']);
  requireField(`${path}.type`, tool.type);
  if (tool.type !== 'function') {
    throw new FieldError('unsupported_parameter', `${path}.type`, `'${path}.type' must be function`);
  }
  requireField(`${path}.function`, tool.function);
  const called = readObject(`${path}.function`, tool.function);
  refuseOthers(`${path}.function`, called, ['name', 'description', 'parameters', 'strict']);
  const name = readFunctionName(`${path}.function.name`, called.name);
  readOptionalString(`${path}.function.description`, called.description);
  readBoolean(`${path}.function.strict`, called.strict, false);
  const parameters = `${path}.function.parameters`;
  const schema = isAbsent(called.parameters)
    ? '{"type":"object"}'
    : schemaText(parameters, readObject(parameters, called.parameters));
  return { name, schema, given: JSON.parse(JSON.stringify(tool, plainBigInts)) };
}

function readFunctionName(path: string, value: unknown): string {
  requireField(path, value);
  const name = readString(path, value);
  if (NAME.test(name)) return name;
  throw wrongValue(path, '1 to 64 letters, digits, "_" and "-"', value);
}

function readChoice(value: unknown, tools: readonly Tool[], setting: ToolFormat | 'auto' | 'none'): ToolUse {
  const choice = value ?? (tools.length === 0 ? 'none' : 'auto');
  if (choice === 'none') return { kind: 'none' };
  if (tools.length === 0) {
    throw new FieldError('invalid_value', 'tool_choice', "'tool_choice' chooses among 'tools', which are missing");
  }
  if (choice === 'required') return { kind: 'required' };
  if (choice !== 'auto') return { kind: 'named', name: readNamed(choice, tools) };
  if (setting !== 'none') return { kind: 'auto', format: setting };
  const message = "'tools' need a 'tool_choice' of required or a function here: calls in free text are switched off";
  throw new FieldError('unsupported_parameter', 'tools', message);
}

function readNamed(value: unknown, tools: readonly Tool[]): string {
  if (typeof value === 'string') throw wrongValue('tool_choice', 'none, auto, required or a function', value);
  const choice = readObject('tool_choice', value);
  if (choice.type !== 'function') {
    throw new FieldError('unsupported_parameter', 'tool_choice.type', "'tool_choice.type' must be function");
  }
  refuseOthers('tool_choice', choice, ['type', 'function']);
  requireField('tool_choice.function', choice.function);
  const called = readObject('tool_choice.function', choice.function);
  refuseOthers('tool_choice.function', called, ['name']);
  const name = readFunctionName('tool_choice.function.name', called.name);
  if (tools.some((tool) => tool.name === name)) return name;
  throw wrongValue('tool_choice.function.name', "the name of one of 'tools'", name);
}

/** The form that forces calls. */
function constraintOf(use: ToolUse, tools: readonly Tool[], parallel: boolean): FieldConstraint | null {
  switch (use.kind) {
    case 'none':
    case 'auto':
      return null;
    case 'named': {
      const at = tools.findIndex(({ name }) => name === use.name);
      const schema = tools[at]?.schema ?? '{}';
      return { constraint: { kind: 'json_schema', schema }, path: `tools[${at}].function.parameters` };
    }
    case 'required': {
      // References within a function's schema count from its own root.
      const call = ({ name, schema }: Tool, at: number): string => {
        const head = `"name":{"const":${JSON.stringify(name)}}`;
        const body = rebased(schema, `#/items/anyOf/${at}/properties/arguments`);
        return `{"type":"object","properties":{${head},"arguments":${body}},"required":["name","arguments"],"additionalProperties":false}`;
      };
      const size = `"minItems":1${parallel ? '' : ',"maxItems":1'}`;
      const schema = `{"type":"array",${size},"items":{"anyOf":[${tools.map(call).join(',')}]}}`;
      return { constraint: { kind: 'json_schema', schema }, path: 'tools' };
    }
  }
}

/** A schema whose local references are moved to where it stands now. */
function rebased(schema: string, root: string): string {
  return JSON.stringify(JSON.parse(schema), (key, value: unknown) =>
    key === '$ref' && typeof value === 'string' && value.startsWith('#') ? `${root}${value.slice(1)}` : value,
  );
}
