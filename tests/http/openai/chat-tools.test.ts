import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from '../../helpers/http-app.js';
import { ADD, chat, chatChunks, chatEngine, NOW, promptOf, TEMPLATE } from './chat-support.js';
import { assertError } from './support.js';

const TOOLS = { tools: [ADD, NOW] };
const CALLS =
  'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": "é😀"}}\n</tool_call>\n<tool_call>\n{"name": "now"}\n</tool_call>';

interface Call {
  readonly id: string;
  readonly type: string;
  readonly function: { readonly name: string; readonly arguments: string };
}

function functionsOf(calls: readonly Call[]): readonly Call['function'][] {
  assert.equal(new Set(calls.map(({ id }) => id)).size, calls.length);
  assert.ok(calls.every(({ id, type }) => /^call_[0-9a-f]{24}$/.test(id) && type === 'function'));
  return calls.map((call) => call.function);
}

test('calls in the text become tool_calls, whole and streamed', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.answer(CALLS);
  const reply = await chat(app, TOOLS);
  assert.match(promptOf(engine), /^T2 user:hi/);
  const { message, finish_reason } = reply.json().choices[0];
  const expected = [
    { name: 'add', arguments: '{"a": "é😀"}' },
    { name: 'now', arguments: '{}' },
  ];
  assert.equal(finish_reason, 'tool_calls');
  assert.equal(message.content, 'Let me see.');
  assert.deepEqual(functionsOf(message.tool_calls), expected);

  const chunks = chatChunks(await chat(app, { ...TOOLS, stream: true }));
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.equal(choices.map(({ delta }) => delta.content ?? '').join(''), 'Let me see.');
  const deltas = choices.flatMap(({ delta }) => delta.tool_calls ?? []);
  const first = deltas.filter(({ id }) => id !== undefined);
  assert.deepEqual(
    first.map(({ index, type, function: called }) => [index, type, called]),
    [
      [0, 'function', { name: 'add', arguments: '' }],
      [1, 'function', { name: 'now', arguments: '' }],
    ],
  );
  const argumentsOf = (index: number): string =>
    deltas
      .filter((delta) => delta.index === index)
      .map((delta) => delta.function.arguments)
      .join('');
  assert.deepEqual(
    [argumentsOf(0), argumentsOf(1)],
    expected.map((called) => called.arguments),
  );
  assert.ok(deltas.length > 6, 'arguments come as they are written');
  assert.equal(choices.at(-1)?.finish_reason, 'tool_calls');
});

test('an answer without calls is text, and an unfinished call ends by length', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const plain = (await chat(app, TOOLS)).json().choices[0];
  assert.deepEqual([plain.message.content, plain.finish_reason], ['ok', 'stop']);
  assert.equal('tool_calls' in plain.message, false);
  const cut = '<tool_call>{"name": "add", "arguments": {"a": 1';
  engine.onSubmit = (call) => call.admit().tokens(cut).finish('length');
  const long = (await chat(app, { ...TOOLS, max_tokens: Buffer.byteLength(cut) })).json().choices[0];
  assert.equal(long.finish_reason, 'length');
  assert.deepEqual(functionsOf(long.message.tool_calls), [{ name: 'add', arguments: '{"a": 1' }]);
  assert.equal(long.message.content, null);
});

test('parallel_tool_calls: false keeps the first call', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.answer(CALLS);
  const reply = await chat(app, { ...TOOLS, parallel_tool_calls: false });
  assert.deepEqual(
    functionsOf(reply.json().choices[0].message.tool_calls).map(({ name }) => name),
    ['add'],
  );
});

test('tool_choice none hides the tools', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.answer(CALLS);
  const reply = await chat(app, { ...TOOLS, tool_choice: 'none' });
  assert.match(promptOf(engine), /^user:hi/);
  assert.equal(reply.json().choices[0].message.content, CALLS);
});

test('a required call is a list by its form', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.answer('[{"name": "add", "arguments": {"a": 2}}, {"name": "now", "arguments": {}}]');
  const reply = await chat(app, { ...TOOLS, tool_choice: 'required' });
  const { message, finish_reason } = reply.json().choices[0];
  assert.equal(finish_reason, 'tool_calls');
  assert.equal(message.content, null);
  assert.deepEqual(functionsOf(message.tool_calls), [
    { name: 'add', arguments: '{"a": 2}' },
    { name: 'now', arguments: '{}' },
  ]);
  const { constraint } = engine.calls[0]?.request ?? {};
  assert.ok(constraint?.kind === 'json_schema');
  const schema = JSON.parse(constraint.schema);
  assert.deepEqual([schema.type, schema.minItems, schema.maxItems], ['array', 1, undefined]);
  assert.deepEqual(
    schema.items.anyOf.map(({ properties }: { properties: { name: { const: string } } }) => properties.name.const),
    ['add', 'now'],
  );
  await chat(app, { ...TOOLS, tool_choice: 'required', parallel_tool_calls: false });
  const single = engine.calls[1]?.request.constraint;
  assert.equal(single?.kind === 'json_schema' && JSON.parse(single.schema).maxItems, 1);
});

test('references within a schema still lead somewhere when it is one of several', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const parameters = { $defs: { n: { type: 'number' } }, type: 'object', properties: { a: { $ref: '#/$defs/n' } } };
  const tools = [NOW, { type: 'function', function: { name: 'ref', parameters } }];
  await chat(app, { tools, tool_choice: 'required' });
  const { constraint } = engine.calls[0]?.request ?? {};
  assert.ok(constraint?.kind === 'json_schema');
  const pointer = /"\$ref":"#([^"]+)"/.exec(constraint.schema)?.[1] ?? '';
  const found = pointer
    .slice(1)
    .split('/')
    .reduce((node, key) => node[key], JSON.parse(constraint.schema));
  assert.deepEqual(found, { type: 'number' });
});

test('a named call is the arguments, and ends as text does', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.answer('{"a":3}');
  const named = { ...TOOLS, tool_choice: { type: 'function', function: { name: 'add' } } };
  const { message, finish_reason } = (await chat(app, named)).json().choices[0];
  assert.equal(finish_reason, 'stop');
  assert.deepEqual(functionsOf(message.tool_calls), [{ name: 'add', arguments: '{"a":3}' }]);
  assert.deepEqual(engine.calls[0]?.request.constraint, {
    kind: 'json_schema',
    schema: JSON.stringify(ADD.function.parameters),
  });
  const deltas = chatChunks(await chat(app, { ...named, stream: true }))
    .flatMap(({ choices }) => choices)
    .flatMap(({ delta }) => delta.tool_calls ?? []);
  assert.deepEqual(deltas[0]?.function, { name: 'add', arguments: '' });
  assert.equal(deltas.map((delta) => delta.function.arguments).join(''), '{"a":3}');
});

test('Mistral: calls in brackets, and ids that its templates take', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine(TEMPLATE.replace('<tool_call>', '[TOOL_CALLS]')) });
  engine.onSubmit = (call) => call.answer('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]');
  const [call] = (await chat(app, TOOLS)).json().choices[0].message.tool_calls;
  assert.match(call.id, /^[0-9a-z]{9}$/);
  assert.deepEqual(call.function, { name: 'add', arguments: '{"a": 1}' });
});

test('the operator names the format, or switches it off', async (t) => {
  const named = startApp(t, { engine: chatEngine(), openai: { toolCallFormat: 'llama3' } });
  named.engine.onSubmit = (call) => call.answer('{"name": "add", "parameters": {"a": 1}}');
  const reply = await chat(named.app, TOOLS);
  assert.deepEqual(functionsOf(reply.json().choices[0].message.tool_calls), [{ name: 'add', arguments: '{"a": 1}' }]);
  const off = startApp(t, { engine: chatEngine(), openai: { toolCallFormat: 'none' } });
  assertError(await chat(off.app, TOOLS), 400, 'unsupported_parameter', 'tools');
  assert.equal((await chat(off.app, { ...TOOLS, tool_choice: 'required' })).statusCode, 200);
});

test('templates without tools refuse them, unless the call is forced', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine('{{ messages[0].content }}') });
  assert.match(assertError(await chat(app, TOOLS), 400, 'unsupported_parameter', 'tools'), /takes no tools/);
  engine.onSubmit = (call) => call.answer('[{"name": "now", "arguments": {}}]');
  const forced = await chat(app, { ...TOOLS, tool_choice: 'required' });
  assert.equal(forced.json().choices[0].message.tool_calls[0].function.name, 'now');
  const unknown = startApp(t, { engine: chatEngine('{{ tools }}') });
  assert.match(assertError(await chat(unknown.app, TOOLS), 400, 'unsupported_parameter', 'tools'), /tool-call-format/);
});
