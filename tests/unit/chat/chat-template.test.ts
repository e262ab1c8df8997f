import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Chat, ChatTemplate } from '../../../src/chat/chat-template.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { FIXTURES } from '../../helpers/paths.js';

/** One rendering of Transformers. */
interface Case {
  readonly template: string;
  readonly title: string;
  readonly messages: Chat['messages'];
  readonly tools?: readonly unknown[];
  readonly add_generation_prompt?: boolean;
  readonly continue_final_message?: boolean;
  readonly kwargs?: Readonly<Record<string, unknown>>;
  readonly text?: string;
  readonly error?: string;
}

const CHAT = join(FIXTURES, 'chat');
const oracle = JSON.parse(readFileSync(join(CHAT, 'cases.json'), 'utf8')) as {
  readonly now: string;
  readonly special_tokens: Readonly<Record<string, string>>;
  readonly cases: readonly Case[];
};
const USER: Chat['messages'][number] = { role: 'user', content: 'Hello' };
const PLAIN: Chat = {
  messages: [USER],
  tools: null,
  toolFormat: null,
  addGenerationPrompt: true,
  continueFinalMessage: false,
  kwargs: {},
};

function templateOf(source: string): ChatTemplate {
  return new ChatTemplate(source, oracle.special_tokens, () => new Date(oracle.now));
}

function refuses(work: () => unknown, reason: RegExp): void {
  assert.throws(work, (error) => {
    assert.ok(error instanceof LoramuxError, String(error));
    assert.equal(error.code, 'ERR_TEMPLATE');
    assert.match(error.message, reason);
    return true;
  });
}

for (const name of new Set(oracle.cases.map(({ template }) => template))) {
  describe(`${name}, as Transformers renders it`, () => {
    const template = templateOf(readFileSync(join(CHAT, 'templates', name), 'utf8'));
    const cases = oracle.cases.filter((each) => each.template === name);
    for (const { title, ...given } of cases) {
      // Where Transformers leaves a developer to templates that know none, ours has the system speak.
      const said = template.source.includes('developer') ? title : title.replace('developer', 'system');
      const { text, error } = cases.find((each) => each.title === said) ?? {};
      assert.ok(text !== undefined || error !== undefined, `${said} is missing`);
      const chat: Chat = {
        messages: given.messages,
        tools: given.tools ?? null,
        toolFormat: null,
        addGenerationPrompt: given.add_generation_prompt ?? false,
        continueFinalMessage: given.continue_final_message ?? false,
        kwargs: given.kwargs ?? {},
      };
      test(title, () => {
        if (error === undefined) assert.equal(template.render(chat), text);
        else refuses(() => template.render(chat), new RegExp(error.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')));
      });
    }
  });
}

describe('a template that is not to be trusted', () => {
  const growing = (loops: number, body: string): string =>
    `{% set ns = namespace(x='aaaaaaaa', list=['a']) %}{% for i in range(${loops}) %}${body}{% endfor %}`;
  const hostile: readonly (readonly [what: string, source: string, reason: RegExp])[] = [
    ['a long range', '{{ range(10 ** 12) }}', /more than 65536 numbers/],
    ['an endless range', '{{ range(0, 1, 10 ** -300) }}', /more than 65536 numbers/],
    ['nested loops', '{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}', /too long|500 ms/],
    ['a text that doubles', growing(60, '{% set ns.x = ns.x ~ ns.x %}'), /more than 4194304 characters/],
    ['a list that doubles', growing(60, '{% set ns.list = ns.list + ns.list %}'), /more than 65536/],
    ['lists of one list', `${growing(40, '{% set ns.list = [ns.list, ns.list] %}')}{{ ns.list | tojson }}`, /500 ms/],
    ['a macro without end', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', /./],
    ['a step of zero', '{{ range(0, 1, 0) }}', /step of zero/],
    ['a directive that is unknown', "{{ strftime_now('%Q') }}", /%Q/],
    ['what it raises', "{{ raise_exception('no tools, please') }}", /no tools, please$/],
    ['a sum with nothing', '{{ messages[0].missing + 1 }}', /undefined/],
  ];
  for (const [what, source, reason] of hostile) {
    test(`is stopped: ${what}`, () => refuses(() => templateOf(source).render(PLAIN), reason));
  }

  test('sees data and nothing of the process', () => {
    const names = ['constructor', '__proto__', 'prototype', 'toString', 'hasOwnProperty'];
    const places = ['messages', 'messages[0]', "''", 'raise_exception', 'range', 'tools', 'loop', 'namespace()'];
    for (const place of places) {
      for (const name of names) {
        assert.equal(templateOf(`{{ ${place}.${name} is defined }}`).render(PLAIN), 'False', `${place}.${name}`);
      }
    }
    for (const name of ['process', 'globalThis', 'require', 'this', 'work']) {
      assert.equal(templateOf(`{{ ${name} is defined }}`).render(PLAIN), 'False', name);
    }
  });

  test('malformed or too long, it is refused when it is read', () => {
    refuses(() => templateOf('{% for x in messages %}'), /cannot be read/);
    refuses(() => templateOf(' '.repeat(2 ** 20 + 1)), /at most 1048576 characters/);
  });
});

test('variables of a request hide what a template could call, never its conversation', () => {
  const kwargs = { range: 'mine', messages: 'theirs', tools: 'theirs', add_generation_prompt: 'theirs' };
  const template = templateOf('{{ range }} {{ messages | length }} {{ tools }} {{ add_generation_prompt }}');
  assert.equal(template.render({ ...PLAIN, kwargs }), 'mine 1 None True');
});

test('a final message that cannot be continued is refused', () => {
  const open: Chat = { ...PLAIN, addGenerationPrompt: false, continueFinalMessage: true };
  refuses(() => templateOf('{{ messages[0].content }}').render({ ...open, messages: [{ role: 'user' }] }), /no text/);
  refuses(() => templateOf('nothing of it').render(open), /leaves the final message out/);
});

test('tools are refused where they would be left out, or their calls would not be found', () => {
  const chat: Chat = { ...PLAIN, tools: [{}], toolFormat: 'auto' };
  refuses(() => templateOf('{{ toolsmith }}').render(chat), /takes no tools/);
  refuses(() => templateOf('{{ tools }}').render(chat), /no format known here/);
  assert.equal(templateOf('{{ tools }}').render({ ...chat, toolFormat: 'hermes' }), '[{}]');
  assert.equal(templateOf('{{ tools }}<tool_call>').render(chat), '[{}]<tool_call>');
  assert.equal(templateOf('nothing').render({ ...chat, toolFormat: null }), 'nothing');
});

test('a developer is the system, for templates that do not know the role', () => {
  const chat: Chat = { ...PLAIN, messages: [{ role: 'developer', content: 'Be brief.' }] };
  assert.equal(templateOf('{{ messages[0].role }}').render(chat), 'system');
  assert.equal(templateOf('{# developer #}{{ messages[0].role }}').render(chat), 'developer');
});
