import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import { UNSUPPORTED_FIELDS } from '../../src/server/lorax/unsupported.js';
import { startApp } from '../helpers/http-app.js';

/** Parameters that are refused, and what the message says after the prefix. */
const REFUSED: readonly (readonly [object, string | RegExp])[] = [
  [{ temperature: -1 }, '`temperature` must be non-negative'],
  [{ temperature: 'hot' }, '`temperature` must be a number or null, got "hot"'],
  [{ repetition_penalty: 0 }, '`repetition_penalty` must be strictly positive'],
  [{ top_p: 0 }, '`top_p` must be > 0.0 and < 1.0'],
  [{ top_p: 1.1 }, '`top_p` must be > 0.0 and < 1.0'],
  [{ top_k: 0 }, '`top_k` must be strictly positive'],
  [{ top_k: 1.5 }, '`top_k` must be an integer of at most 2147483647 or null, got 1.5'],
  [{ top_k: 2 ** 31 }, /`top_k` must be an integer/],
  [{ max_new_tokens: 0 }, '`max_new_tokens` must be strictly positive'],
  [{ max_new_tokens: -3 }, '`max_new_tokens` must be strictly positive'],
  [{ max_new_tokens: 2 ** 32 }, /`max_new_tokens` must be an integer/],
  [
    { max_new_tokens: 62 },
    '`inputs` tokens + `max_new_tokens` must be <= 64. Given: 3 `inputs` tokens and 62 `max_new_tokens`',
  ],
  [{ stop: Array(11).fill('a') }, '`stop` supports up to 10 stop sequences. Given: 11'],
  [{ stop: [''] }, '`stop` must not hold an empty string'],
  [{ stop: null }, '`stop` must be a list of strings, got null'],
  [{ stop: 'a' }, '`stop` must be a list of strings, got "a"'],
  [{ stop: [1] }, '`stop[0]` must be a string, got 1'],
  [{ truncate: 0 }, '`truncate` must be strictly positive and less than 63. Given: 0'],
  [{ truncate: 64 }, '`truncate` must be strictly positive and less than 63. Given: 64'],
  [{ seed: -1 }, /`seed` must be an integer from 0 to 18446744073709551615/],
  [{ seed: 1.5 }, /`seed` must be an integer/],
  [{ seed: '18446744073709551616' }, /`seed` must be an integer/],
  [{ do_sample: null }, '`do_sample` must be true or false, got null'],
  [{ details: 1 }, '`details` must be true or false, got 1'],
  [{ ignore_eos_token: null }, '`ignore_eos_token` must be true or false, got null'],
  [{ return_full_text: 'yes' }, '`return_full_text` must be true or false, got "yes"'],
  [{ adapter_id: 5 }, '`adapter_id` must be a string, got 5'],
  [{ adapter_id: '../etc' }, /`adapter_id` must be an adapter name/],
  [{ adapter_id: 'a\nb' }, /`adapter_id` must be an adapter name/],
  [{ adapter_names: ['a'] }, '`inputs` must be a list of strings, got "hi"'],
  [{ adapter_names: ['a'], adapter_id: 'a' }, 'at most one of `adapter_id` or `adapter_names` may be provided'],
  [{ best_of: 5, do_sample: true }, '`best_of` must be > 0 and <= 4. Given: 5'],
  [{ best_of: -1 }, '`best_of` must be > 0 and <= 4. Given: -1'],
  [{ best_of: 2 }, 'you must use sampling when `best_of` is > 1'],
  [{ best_of: 2, do_sample: true, seed: 1 }, '`seed` must not be set when `best_of` > 1'],
  [{ best_of: 'two' }, /`best_of` must be a number or null/],
  [{ frequency_penalty: 2.1 }, '`frequency_penalty` must be >= -2.0 and <= 2.0'],
  [{ presence_penalty: -2.1 }, '`presence_penalty` must be >= -2.0 and <= 2.0'],
  [{ typical_p: 0 }, '`typical_p` must be > 0.0 and < 1.0'],
  [{ typical_p: 1 }, '`typical_p` must be > 0.0 and < 1.0'],
  [{ return_k_alternatives: 0 }, '`return_k_alternatives` must be strictly positive'],
  [{ return_k_alternatives: 129 }, '`return_k_alternatives` must be <= 128. Given: 129'],
  [{ decoder_input_details: null }, '`decoder_input_details` must be true or false, got null'],
  [{ response_format: 'json' }, '`response_format` must be an object, got "json"'],
  [{ response_format: {} }, '`response_format.type` must be a string, got nothing'],
  [{ response_format: { type: 'yaml' } }, '`response_format.type` must be text, json_object or json_schema'],
  [
    { response_format: { type: 'json_schema', schema: '{}' } },
    '`response_format.schema` must be a JSON Schema object or null',
  ],
  [{ response_format: { type: 'text', schema: {} } }, '`response_format.schema` means nothing for text: leave it out'],
  [
    { response_format: { type: 'json_schema', json_schema: {} } },
    'unknown field `response_format.json_schema`: remove it',
  ],
  [{ nonsense: 1 }, 'unknown field `parameters.nonsense`: remove it'],
];

function post(app: FastifyInstance, body: unknown, url = '/generate'): Promise<Response> {
  const payload = typeof body === 'string' ? body : JSON.stringify(body);
  return app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json' }, payload });
}

function assertRefused(reply: Response, message: string | RegExp): void {
  assert.equal(reply.statusCode, 422, reply.body);
  const { error, error_type } = reply.json();
  assert.equal(error_type, 'validation');
  const prefix = 'Input validation error: ';
  assert.ok(error.startsWith(prefix), error);
  if (typeof message === 'string') assert.equal(error.slice(prefix.length), message);
  else assert.match(error, message);
}

for (const [parameters, message] of REFUSED) {
  test(`422 for ${JSON.stringify(parameters).slice(0, 60)}`, async (t) => {
    const { app, engine } = startApp(t);
    assertRefused(await post(app, { inputs: 'hi', parameters }), message);
    assert.equal(engine.calls.length, 0);
  });
}

const REFUSED_BODIES: readonly (readonly [unknown, string | RegExp])[] = [
  [{}, '`inputs` must be a string, got nothing'],
  [{ inputs: 5 }, '`inputs` must be a string, got 5'],
  [{ inputs: '' }, '`inputs` cannot be empty'],
  [{ inputs: ['a'] }, 'a list of `inputs` needs `parameters.adapter_names` with one name for each'],
  [{ inputs: [], parameters: { adapter_names: [] } }, '`inputs` cannot be empty'],
  [
    { inputs: ['a', 'b'], parameters: { adapter_names: ['x'] } },
    'number of `adapter_names` must match number of `inputs`. Given: 1 and 2',
  ],
  [{ inputs: ['a', ''], parameters: { adapter_names: ['x', 'y'] } }, '`inputs[1]` cannot be empty'],
  [{ inputs: ['a'], parameters: { adapter_names: ['x y'] } }, /`adapter_names\[0\]` must be an adapter name/],
  [
    { inputs: Array(257).fill('a'), parameters: { adapter_names: Array(257).fill('x') } },
    '`inputs` supports up to 256 prompts. Given: 257',
  ],
  [{ inputs: 'hi', parameters: null }, '`parameters` must be an object, got null'],
  [{ inputs: 'hi', parameters: [] }, '`parameters` must be an object, got a list'],
  [{ inputs: 'hi', nonsense: 1 }, 'unknown field `nonsense`: remove it'],
  [{ inputs: 'hi', watermark: false }, 'unknown field `watermark`: remove it'],
  ['{"inputs":"hi","__proto__":{}}', 'unknown field `__proto__`: remove it'],
  ['{"inputs":"hi","parameters":{"constructor":1}}', 'unknown field `parameters.constructor`: remove it'],
  ['{"inputs":"\\ud800"}', '`inputs` must be valid Unicode, got half a surrogate pair'],
  [{ inputs: 'hi', stream: true }, '`stream` must be false on this route: use /generate_stream instead'],
  [[], '`body` must be an object, got a list'],
  ['"x"', '`body` must be an object, got "x"'],
  [{ inputs: 'x'.repeat(63) }, '`inputs` must have less than 63 tokens. Given: 64'],
];

for (const [body, message] of REFUSED_BODIES) {
  test(`422 for the body ${JSON.stringify(body).slice(0, 60)}`, async (t) => {
    const { app } = startApp(t);
    assertRefused(await post(app, body), message);
  });
}

for (const field of UNSUPPORTED_FIELDS) {
  test(`${field} is refused by name, and accepted when it asks for nothing`, async (t) => {
    const { app } = startApp(t);
    const message = `\`parameters.${field}\` is not supported by this server: leave it out or null`;
    for (const value of [2, true, 'x', { type: 'json_object' }]) {
      assertRefused(await post(app, { inputs: 'hi', parameters: { [field]: value } }), message);
    }
    assert.equal((await post(app, { inputs: 'hi', parameters: { [field]: null } })).statusCode, 200);
  });
}

test('everything the LoRAX client sends by default is accepted', async (t) => {
  const { app } = startApp(t);
  const parameters = {
    adapter_id: null,
    adapter_source: null,
    merged_adapters: null,
    api_token: null,
    do_sample: false,
    max_new_tokens: 20,
    ignore_eos_token: false,
    repetition_penalty: null,
    frequency_penalty: 0,
    presence_penalty: 0.0,
    return_full_text: null,
    stop: [],
    seed: null,
    temperature: null,
    top_k: null,
    top_p: null,
    truncate: null,
    typical_p: null,
    best_of: null,
    watermark: false,
    details: true,
    decoder_input_details: false,
    return_k_alternatives: null,
    apply_chat_template: false,
    response_format: { type: 'text' },
  };
  assert.equal((await post(app, { inputs: 'hi', parameters, stream: false })).statusCode, 200);
  assert.equal((await post(app, { inputs: 'hi', parameters, stream: true }, '/generate_stream')).statusCode, 200);
});

test('a list of inputs does not stream', async (t) => {
  const { app } = startApp(t);
  const body = { inputs: ['a'], parameters: { adapter_names: ['x'] } };
  assertRefused(await post(app, body, '/generate_stream'), '`adapter_names` is not supported when streaming tokens');
});

/** LoRAX's rules in the order in which it checks them: a body that breaks one alone, and the message. */
const ORDER: readonly (readonly [object, string])[] = [
  [{ best_of: 5 }, '`best_of` must be > 0 and <= 4. Given: 5'],
  [
    { adapter_id: 'a', merged_adapters: { ids: [], weights: [] } },
    'at most one of `adapter_id` or `adapters` may be provided',
  ],
  [{ merged_adapters: { ids: [], weights: [1] } }, 'at least one adapter ID must be provided when setting `adapters`'],
  [{ merged_adapters: { ids: ['a'] } }, 'number of adapter IDs must match number of adapter weights'],
  [{ best_of: 2 }, 'you must use sampling when `best_of` is > 1'],
  [{ temperature: -1 }, '`temperature` must be non-negative'],
  [{ repetition_penalty: 0 }, '`repetition_penalty` must be strictly positive'],
  [{ frequency_penalty: 3 }, '`frequency_penalty` must be >= -2.0 and <= 2.0'],
  [{ presence_penalty: 3 }, '`presence_penalty` must be >= -2.0 and <= 2.0'],
  [{ top_p: 0 }, '`top_p` must be > 0.0 and < 1.0'],
  [{ typical_p: 0 }, '`typical_p` must be > 0.0 and < 1.0'],
  [{ top_k: 0 }, '`top_k` must be strictly positive'],
  [{ return_k_alternatives: 0 }, '`return_k_alternatives` must be strictly positive'],
  [{ max_new_tokens: 0 }, '`max_new_tokens` must be strictly positive'],
  [{ stop: Array(11).fill('a') }, '`stop` supports up to 10 stop sequences. Given: 11'],
  [{ best_of: 2, seed: 1, do_sample: true }, '`seed` must not be set when `best_of` > 1'],
  [{ truncate: 0 }, '`truncate` must be strictly positive and less than 63. Given: 0'],
];

test('of two rules that are broken, the one that LoRAX checks first is named', async (t) => {
  const { app } = startApp(t);
  let pairs = 0;
  for (const [at, [first, message]] of ORDER.entries()) {
    for (const [second] of ORDER.slice(at)) {
      // A pair that sets one field twice, or gives what the first misses, breaks only one.
      const keys = Object.keys(first);
      if (first !== second && Object.keys(second).some((key) => keys.includes(key))) continue;
      const sampled =
        message.startsWith('you must') && /temperature|top_|typical|do_sample/.test(JSON.stringify(second));
      if (sampled) continue;
      assertRefused(await post(app, { inputs: 'hi', parameters: { ...second, ...first } }), message);
      pairs += 1;
    }
  }
  assert.ok(pairs > 100, `only ${pairs} pairs`);
  const empty = { inputs: '', parameters: { truncate: 0 } };
  assertRefused(await post(app, empty), '`inputs` cannot be empty');
  const long = { inputs: 'x'.repeat(80), parameters: { max_new_tokens: 1 } };
  assertRefused(
    await post(app, long),
    '`inputs` tokens + `max_new_tokens` must be <= 64. Given: 81 `inputs` tokens and 1 `max_new_tokens`',
  );
});

test('streams refuse best_of and decoder_input_details before anything else', async (t) => {
  const { app } = startApp(t);
  for (const best_of of [0, 2, 100]) {
    const body = { inputs: 'hi', parameters: { best_of, decoder_input_details: true, temperature: -1 } };
    assertRefused(await post(app, body, '/generate_stream'), '`best_of` != 1 is not supported when streaming tokens');
  }
  assertRefused(
    await post(app, { inputs: 'hi', stream: true, parameters: { decoder_input_details: true, top_k: 0 } }, '/'),
    '`decoder_input_details` == true is not supported when streaming tokens',
  );
});

test('best_of 0 means one; a server that allows one refuses more in its own words', async (t) => {
  const { app, engine } = startApp(t, { maxBestOf: 1 });
  assert.equal((await post(app, { inputs: 'hi', parameters: { best_of: 0 } })).statusCode, 200);
  assert.equal(engine.calls.length, 1);
  assertRefused(
    await post(app, { inputs: 'hi', parameters: { best_of: 2 } }),
    '`best_of` != 1 is not allowed for this endpoint',
  );
});

/** Sampling rule: what is given, and whether it means greedy. */
const SAMPLING: readonly (readonly [object, boolean])[] = [
  [{}, true],
  [{ do_sample: true }, false],
  [{ temperature: 1 }, true],
  [{ temperature: 0 }, true],
  [{ temperature: 0.5 }, false],
  [{ temperature: 0, do_sample: true, top_k: 5 }, true],
  [{ temperature: 1e-60, do_sample: true }, true],
  [{ top_k: 5 }, false],
  [{ top_p: 1 }, true],
  [{ top_p: 0.9 }, false],
  [{ typical_p: 0.9 }, false],
  [{ frequency_penalty: 1, presence_penalty: 1 }, true],
  [{ repetition_penalty: 1.3 }, true],
  [{ seed: 5 }, true],
];

test('sampling happens exactly when LoRAX would sample', async (t) => {
  const { app, engine } = startApp(t);
  for (const [parameters, greedy] of SAMPLING) {
    const reply = await post(app, { inputs: 'hi', parameters: { ...parameters, details: true } });
    assert.equal(engine.calls.at(-1)?.request.sampling.greedy, greedy, JSON.stringify(parameters));
    assert.equal(reply.json().details.seed === null, greedy);
  }
});
