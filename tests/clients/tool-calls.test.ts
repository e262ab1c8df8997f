import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import OpenAI from 'openai';
import type { ChatCompletionFunctionTool } from 'openai/resources';
import { isIdle, untilState } from '../model/client.js';
import { target } from './server.js';

const RUNS = 50;
const MODELS = ['', 'support-json', 'sql', 'sentiment', 'pirate'];

/** Arguments of bounded size, by the parts of JSON Schema that agents use. */
const PARAMETERS: Readonly<Record<string, object>> = {
  book_table: {
    type: 'object',
    properties: {
      place: { type: 'string', minLength: 2, maxLength: 12 },
      seats: { type: 'integer', minimum: 1, maximum: 12 },
      outside: { type: 'boolean' },
    },
    required: ['place', 'seats'],
    additionalProperties: false,
  },
  set_alarm: {
    type: 'object',
    properties: {
      at: { type: 'string', pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$' },
      days: { type: 'array', items: { $ref: '#/$defs/day' }, minItems: 1, maxItems: 3 },
    },
    required: ['at', 'days'],
    additionalProperties: false,
    $defs: { day: { enum: ['mon', 'tue', 'wed'] } },
  },
  cancel: { type: 'object', properties: {}, additionalProperties: false },
};
const TOOLS: ChatCompletionFunctionTool[] = Object.entries(PARAMETERS).map(([name, parameters]) => ({
  type: 'function',
  function: { name, parameters: parameters as Record<string, unknown> },
}));

test(`forced calls are valid in all of ${RUNS} seeded runs, mixed with free rows`, async (t) => {
  const server = await target(t);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const ajv = new Ajv2020();
  const counts = new Map<string, number>();
  const free = MODELS.map((model) =>
    client.completions.create({ model, prompt: 'Once upon a time', max_tokens: 64, temperature: 1, seed: 1 }),
  );
  await Promise.all(
    Array.from({ length: RUNS }, async (_, seed) => {
      const reply = await client.chat.completions.create({
        model: MODELS[seed % MODELS.length] ?? '',
        messages: [{ role: 'user', content: 'Book a table for two and wake me up in time.' }],
        tools: TOOLS,
        tool_choice: 'required',
        parallel_tool_calls: false,
        temperature: 1,
        seed,
      });
      const [choice] = reply.choices;
      assert.equal(choice?.finish_reason, 'tool_calls', `seed ${seed}: ${JSON.stringify(choice)}`);
      const [call, ...more] = choice.message.tool_calls ?? [];
      assert.ok(call?.type === 'function' && more.length === 0);
      const { name, arguments: text } = call.function;
      counts.set(name, (counts.get(name) ?? 0) + 1);
      const schema = PARAMETERS[name];
      assert.ok(schema !== undefined, name);
      assert.ok(ajv.validate(schema, JSON.parse(text)), `seed ${seed}: ${text}: ${ajv.errorsText()}`);
    }),
  );
  for (const reply of await Promise.all(free)) assert.ok((reply.usage?.completion_tokens ?? 0) > 0);
  console.log(`calls by function: ${JSON.stringify(Object.fromEntries(counts))}`);
  assert.ok(counts.size > 1, 'the model chooses among the functions');
  await untilState(server, isIdle, 60_000);
});
