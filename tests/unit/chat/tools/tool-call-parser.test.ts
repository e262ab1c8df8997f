import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type AnswerPart, ToolCallParser } from '../../../../src/chat/tools/tool-call-parser.js';
import { type ToolFormat, toolFormatOf } from '../../../../src/chat/tools/tool-format.js';

type Format = ToolFormat | 'list';

const NAMES = ['add', 'get_weather'];

/** Text and calls of an answer, however it was cut. */
interface Answer {
  text: string;
  calls: { name: string; arguments: string }[];
}

function gathered(parts: readonly AnswerPart[]): Answer {
  const answer: Answer = { text: '', calls: [] };
  for (const part of parts) {
    if (part.kind === 'text') answer.text += part.text;
    else if (part.kind === 'call') {
      assert.equal(part.index, answer.calls.length);
      answer.calls.push({ name: part.name, arguments: '' });
    } else {
      const call = answer.calls[part.index];
      assert.ok(call !== undefined && part.index === answer.calls.length - 1, 'arguments belong to the last call');
      call.arguments += part.text;
    }
  }
  return answer;
}

function parse(format: Format, pieces: readonly string[], maxCalls?: number): Answer {
  const parser = new ToolCallParser(format, NAMES, maxCalls);
  const parts = pieces.flatMap((piece) => parser.push(piece));
  return gathered([...parts, ...parser.end()]);
}

const ADD = { name: 'add', arguments: '{"a": 1, "b": {"c": "}\\"]"}}' };
const WEATHER = { name: 'get_weather', arguments: '{"place": "Zürich </tool_call> 😀"}' };
const CALLS = [ADD, WEATHER].map((call) => `{"name": "${call.name}", "arguments": ${call.arguments}}`);
const [add = '', weather = ''] = CALLS;

const CASES: readonly (readonly [what: string, format: Format, text: string, answer: Answer])[] = [
  ['no call', 'hermes', 'Hello <tool> {"a": 1} ', { text: 'Hello <tool> {"a": 1} ', calls: [] }],
  ['one call', 'hermes', `<tool_call>\n${add}\n</tool_call>`, { text: '', calls: [ADD] }],
  [
    'text, two calls, text',
    'hermes',
    `Let me see.\n<tool_call>\n${add}\n</tool_call>\n<tool_call>${weather}</tool_call>\nDone. `,
    { text: 'Let me see.\nDone.', calls: [ADD, WEATHER] },
  ],
  ['two calls in one tag', 'hermes', `<tool_call>${add}\n${weather}</tool_call>`, { text: '', calls: [ADD, WEATHER] }],
  ['no closing tag', 'hermes', `<tool_call>\n${add}`, { text: '', calls: [ADD] }],
  [
    'a name of its own',
    'hermes',
    '<tool_call>{"name": "x"}</tool_call>',
    { text: '', calls: [{ name: 'x', arguments: '{}' }] },
  ],
  [
    'arguments first',
    'hermes',
    `<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>`,
    { text: '', calls: [{ name: 'add', arguments: '{"a": 1}' }] },
  ],
  [
    'arguments as text',
    'hermes',
    '<tool_call>{"name":"add","arguments":"{\\"a\\":1}"}</tool_call>',
    { text: '', calls: [{ name: 'add', arguments: '{"a":1}' }] },
  ],
  [
    'arguments null',
    'hermes',
    '<tool_call>{"name":"add","arguments":null}</tool_call>',
    { text: '', calls: [{ name: 'add', arguments: '{}' }] },
  ],
  [
    'cut in the arguments',
    'hermes',
    '<tool_call>{"name": "add", "arguments": {"a": [1, 2',
    { text: '', calls: [{ name: 'add', arguments: '{"a": [1, 2' }] },
  ],
  ['cut in the name', 'hermes', '<tool_call>{"name": "ad', { text: '{"name": "ad', calls: [] }],
  ['JSON that is no call', 'hermes', '<tool_call>{"a": 1}</tool_call>', { text: '{"a": 1}', calls: [] }],
  ['a list', 'mistral', `[TOOL_CALLS] [${add}, ${weather}]`, { text: '', calls: [ADD, WEATHER] }],
  ['text before', 'mistral', `Sure. [TOOL_CALLS][${add}]`, { text: 'Sure.', calls: [ADD] }],
  ['a bare object', 'llama3', ` ${add.replace('arguments', 'parameters')}`, { text: '', calls: [ADD] }],
  ['a tag', 'llama3', `<|python_tag|>${add}; ${weather}`, { text: '', calls: [ADD, WEATHER] }],
  [
    'an unknown name is JSON',
    'llama3',
    '{"name": "Bob", "parameters": {}}',
    { text: '{"name": "Bob", "parameters": {}}', calls: [] },
  ],
  ['braces in text', 'llama3', `So ${add}`, { text: `So ${add}`, calls: [] }],
  ['a whole answer', 'list', `[${add},\n${weather}]`, { text: '', calls: [ADD, WEATHER] }],
];

for (const [what, format, text, answer] of CASES) {
  test(`${format}: ${what}, whole and in any pieces`, () => {
    assert.deepEqual(parse(format, [text]), answer);
    assert.deepEqual(parse(format, [...text]), answer);
    const cuts = fc.array(fc.nat({ max: text.length }), { maxLength: 6 }).map((list) => list.sort((a, b) => a - b));
    fc.assert(
      fc.property(cuts, (ends) => {
        const pieces = [...ends, text.length].map((end, at) => text.slice(ends[at - 1] ?? 0, end));
        assert.deepEqual(parse(format, pieces), answer);
      }),
      { numRuns: 50 },
    );
  });
}

describe('any answer', () => {
  const piece = fc.constantFrom(
    ...[
      '<tool_call>',
      '</tool_call>',
      '[TOOL_CALLS]',
      '<|python_tag|>',
      '{"name": "add", "arguments": ',
      '{"a": "',
      '"',
      '}',
    ],
    ...['\\', '[', ']', ',', ':', ' \n', 'text', '<', 'é😀', '{', 'null', ';'],
  );
  const anyAnswer = fc.array(piece, { maxLength: 20 });

  for (const format of ['hermes', 'mistral', 'llama3', 'list'] as const) {
    test(`${format}: pieces give what the whole gives, and calls come in order`, () => {
      fc.assert(
        fc.property(anyAnswer, (pieces) => {
          assert.deepEqual(parse(format, pieces), parse(format, [pieces.join('')]));
        }),
      );
    });
  }
});

test('arguments come as they are written, once the name is known', () => {
  const parser = new ToolCallParser('hermes', NAMES);
  assert.deepEqual(parser.push('<tool_call>{"name": "ad'), []);
  assert.deepEqual(parser.push('d", "arguments": {"a'), [
    { kind: 'call', index: 0, name: 'add' },
    { kind: 'arguments', index: 0, text: '{"a' },
  ]);
  assert.deepEqual(parser.push('": 1'), [{ kind: 'arguments', index: 0, text: '": 1' }]);
  assert.deepEqual(parser.push('}}</tool'), [{ kind: 'arguments', index: 0, text: '}' }]);
  assert.deepEqual([...parser.push('_call>'), ...parser.end()], []);
  assert.equal(parser.calls, 1);
});

test('calls beyond the most that are wanted are left out', () => {
  const text = `<tool_call>${add}</tool_call><tool_call>${weather}</tool_call>`;
  assert.deepEqual(parse('hermes', [text], 1), { text: '', calls: [ADD] });
});

test('a template shows its format', () => {
  assert.equal(toolFormatOf('{{ "[TOOL_CALLS] [" }}'), 'mistral');
  assert.equal(toolFormatOf("{{ '<tool_call>\\n' }}"), 'hermes');
  assert.equal(toolFormatOf(`{{ '"parameters": ' }}`), 'llama3');
  assert.equal(toolFormatOf('{{ tools }}'), null);
});
