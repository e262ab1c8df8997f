import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from '../../helpers/http-app.js';
import { ADD, chat, chatEngine, promptOf } from './chat-support.js';
import { assertError } from './support.js';

const USER = { role: 'user', content: 'hi' };
const CALL = { id: 'call_1', type: 'function', function: { name: 'add', arguments: '{"a": 1}' } };
const SCHEMA = { type: 'object', properties: { a: { type: 'integer' } } };

/** A body's fields, and how they are refused. */
const REFUSED: readonly (readonly [fields: object, code: string, param: string])[] = [
  [{ messages: null }, 'missing_required_parameter', 'messages'],
  [{ messages: [] }, 'invalid_value', 'messages'],
  [{ messages: 'hi' }, 'invalid_type', 'messages'],
  [{ messages: ['hi'] }, 'invalid_type', 'messages[0]'],
  [{ messages: [{ content: 'hi' }] }, 'missing_required_parameter', 'messages[0].role'],
  [{ messages: [{ role: 'robot', content: 'hi' }] }, 'invalid_value', 'messages[0].role'],
  [{ messages: [{ role: 'function', content: 'hi' }] }, 'unsupported_parameter', 'messages[0].role'],
  [{ messages: [USER, { role: 'user' }] }, 'missing_required_parameter', 'messages[1].content'],
  [{ messages: [{ role: 'user', content: 3 }] }, 'invalid_type', 'messages[0].content'],
  [{ messages: [{ role: 'user', content: 'a\uD800' }] }, 'invalid_value', 'messages[0].content'],
  [{ messages: [{ ...USER, mood: 'good' }] }, 'unknown_parameter', 'messages[0].mood'],
  [
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
    'unsupported_content',
    'messages[0].content[0].type',
  ],
  [
    { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
    'missing_required_parameter',
    'messages[0].content[0].text',
  ],
  [{ messages: [{ role: 'tool', content: 'x' }] }, 'missing_required_parameter', 'messages[0].tool_call_id'],
  [{ messages: [{ role: 'assistant', content: null }] }, 'missing_required_parameter', 'messages[0].content'],
  [{ messages: [{ role: 'assistant', content: 'x', refusal: 'no' }] }, 'unsupported_parameter', 'messages[0].refusal'],
  [
    { messages: [{ role: 'assistant', tool_calls: [{ ...CALL, id: null }] }] },
    'missing_required_parameter',
    'messages[0].tool_calls[0].id',
  ],
  [
    { messages: [{ role: 'assistant', tool_calls: [{ ...CALL, type: 'custom' }] }] },
    'invalid_value',
    'messages[0].tool_calls[0].type',
  ],
  [{ top_logprobs: 2 }, 'invalid_value', 'top_logprobs'],
  [{ logprobs: true, top_logprobs: 21 }, 'invalid_value', 'top_logprobs'],
  [{ logprobs: 2 }, 'invalid_type', 'logprobs'],
  [{ max_tokens: 0 }, 'invalid_value', 'max_tokens'],
  [{ max_completion_tokens: 2.5 }, 'invalid_type', 'max_completion_tokens'],
  [{ n: 17 }, 'invalid_value', 'n'],
  [{ store: true }, 'unsupported_parameter', 'store'],
  [{ modalities: ['text', 'audio'] }, 'unsupported_parameter', 'modalities'],
  [{ reasoning_effort: 'high' }, 'unsupported_parameter', 'reasoning_effort'],
  [{ service_tier: 'flex' }, 'unsupported_parameter', 'service_tier'],
  [{ functions: [] }, 'unsupported_parameter', 'functions'],
  [{ audio: {} }, 'unsupported_parameter', 'audio'],
  [{ prompt: 'hi' }, 'unknown_parameter', 'prompt'],
  [{ best_of: 2 }, 'unsupported_parameter', 'best_of'],
  [{ safety_identifier: 'x'.repeat(65) }, 'invalid_value', 'safety_identifier'],
  [{ metadata: { a: 1 } }, 'invalid_type', 'metadata.a'],
  [{ metadata: { a: 'x'.repeat(513) } }, 'invalid_value', 'metadata.a'],
  [{ chat_template_kwargs: [] }, 'invalid_type', 'chat_template_kwargs'],
  [{ response_format: { type: 'xml' } }, 'invalid_value', 'response_format.type'],
  [{ response_format: { type: 'text', more: 1 } }, 'unknown_parameter', 'response_format.more'],
  [{ response_format: { type: 'json_schema' } }, 'missing_required_parameter', 'response_format.json_schema'],
  [
    { response_format: { type: 'json_schema', json_schema: { name: 'a b', schema: SCHEMA } } },
    'invalid_value',
    'response_format.json_schema.name',
  ],
  [
    { response_format: { type: 'json_schema', json_schema: { name: 'a' } } },
    'missing_required_parameter',
    'response_format.json_schema.schema',
  ],
  [
    { response_format: { type: 'json_object' }, structured_outputs: { regex: 'a' } },
    'invalid_value',
    'response_format',
  ],
  [{ response_format: { type: 'json_object' }, tools: [ADD], tool_choice: 'required' }, 'invalid_value', 'tools'],
  [{ tools: [] }, 'invalid_value', 'tools'],
  [{ tools: [ADD, ADD] }, 'invalid_value', 'tools'],
  [{ tools: [{ type: 'custom' }] }, 'unsupported_parameter', 'tools[0].type'],
  [{ tools: [{ type: 'function' }] }, 'missing_required_parameter', 'tools[0].function'],
  [{ tools: [{ type: 'function', function: { name: 'a b' } }] }, 'invalid_value', 'tools[0].function.name'],
  [
    { tools: [{ type: 'function', function: { name: 'a', parameters: 'x' } }] },
    'invalid_type',
    'tools[0].function.parameters',
  ],
  [{ tool_choice: 'auto' }, 'invalid_value', 'tool_choice'],
  [{ tools: [ADD], tool_choice: 'always' }, 'invalid_value', 'tool_choice'],
  [{ tools: [ADD], tool_choice: { type: 'allowed_tools' } }, 'unsupported_parameter', 'tool_choice.type'],
  [
    { tools: [ADD], tool_choice: { type: 'function', function: { name: 'sub' } } },
    'invalid_value',
    'tool_choice.function.name',
  ],
];

test('every refusal names its field', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  for (const [fields, code, param] of REFUSED) assertError(await chat(app, fields), 400, code, param);
  assert.equal(engine.calls.length, 0);
});

test('null is absent, neutral values are taken', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const absent = Object.fromEntries(
    [
      'tools',
      'tool_choice',
      'response_format',
      'metadata',
      'logprobs',
      'top_logprobs',
      'stop',
      'user',
      'audio',
      'n',
    ].map((name) => [name, null] as const),
  );
  const neutral = { store: false, modalities: ['text'], verbosity: 'medium', reasoning_effort: 'none' };
  const reply = await chat(app, { ...absent, ...neutral, parallel_tool_calls: true, tool_choice: 'none' });
  assert.equal(reply.statusCode, 200, reply.body);
  const { constraint, logprobs } = engine.calls[0]?.request ?? {};
  assert.deepEqual([constraint, logprobs], [null, null]);
});

test("a reply's own message can be sent back", async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const message = { role: 'assistant', content: null, refusal: null, annotations: [], audio: null, tool_calls: [CALL] };
  const broken = { ...CALL, function: { name: 'add', arguments: '{"a": ' } };
  const messages = [
    USER,
    message,
    { role: 'tool', tool_call_id: 'call_1', content: '2' },
    { role: 'assistant', content: 'well', tool_calls: [broken] },
  ];
  assert.equal((await chat(app, { messages })).statusCode, 200);
  const shown = (call: string): string => `[{"id": "call_1", "type": "function", "function": ${call}}]`;
  const first = shown('{"name": "add", "arguments": {"a": 1}}');
  const second = shown('{"name": "add", "arguments": "{\\"a\\": "}');
  assert.equal(promptOf(engine), `user:hi;assistant:${first};tool:2;assistant:well${second};A:`);
});

test("what OpenAI's packages add to a message that they parsed comes back with it, and only there", async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const call = { ...CALL, function: { ...CALL.function, parsed_arguments: { a: 1 } } };
  const message = { role: 'assistant', content: '{"b": 2}', parsed: { b: 2 }, tool_calls: [call] };
  assert.equal((await chat(app, { messages: [USER, message] })).statusCode, 200);
  const plain = { role: 'assistant', content: '{"b": 2}', tool_calls: [CALL] };
  assert.equal((await chat(app, { messages: [USER, plain] })).statusCode, 200);
  assert.deepEqual(engine.calls[0]?.request.promptIds, engine.calls[1]?.request.promptIds);
  const reply = await chat(app, { messages: [{ ...USER, parsed: null }] });
  assert.equal(reply.json().error.param, 'messages[0].parsed');
});

test('forms of the answer become constraints', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const constraintOf = async (fields: object): Promise<unknown> => {
    const reply = await chat(app, fields);
    assert.equal(reply.statusCode, 200, reply.body);
    return engine.calls.at(-1)?.request.constraint;
  };
  assert.equal(await constraintOf({ response_format: { type: 'text' } }), null);
  assert.deepEqual(await constraintOf({ response_format: { type: 'json_object' } }), { kind: 'json_object' });
  const json_schema = { name: 'answer', description: 'x', strict: true, schema: SCHEMA };
  assert.deepEqual(await constraintOf({ response_format: { type: 'json_schema', json_schema } }), {
    kind: 'json_schema',
    schema: JSON.stringify(SCHEMA),
  });
  assert.deepEqual(await constraintOf({ structured_outputs: { choice: ['a', 'b'] } }), {
    kind: 'choice',
    choices: ['a', 'b'],
  });
});

test("a schema that the engine refuses is the field's fault", async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.fail('ERR_VALIDATION', 'no such keyword', { field: 'constraint' });
  const format = { type: 'json_schema', json_schema: { name: 'a', schema: SCHEMA } };
  const reply = await chat(app, { response_format: format });
  assert.equal(assertError(reply, 400, 'invalid_value', 'response_format.json_schema.schema'), 'no such keyword');
});
