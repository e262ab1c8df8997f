import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { startApp } from '../helpers/http-app.js';

const A = 0x61;
const B = 0x62;

function post(app: FastifyInstance, parameters: object, url = '/generate'): Promise<Response> {
  return app.inject({ method: 'POST', url, payload: { inputs: 'hi', parameters } });
}

test('best_of answers with the run of the highest mean log-probability, and shows the others in order', async (t) => {
  let drawn = 10n;
  const { app, engine } = startApp(t, {
    drawSeed: () => {
      drawn += 1n;
      return drawn;
    },
  });
  engine.onSubmit = null;
  const pending = post(app, { best_of: 3, temperature: 0.7, details: true, max_new_tokens: 2 }).then((reply) => reply);
  await engine.call(2);
  const [first, second, third] = engine.calls;
  // Sums rank the first above the second, means do not; the third is as good as the second and comes later.
  third?.admit().token(A, -0.5).token(B, -0.5).finish('length');
  first?.admit().token(SPECIAL['</s>'], -0.75).finish('eos_token');
  second?.admit().token(B, -0.5).token(B, -0.5).finish('length');
  const { generated_text, details } = (await pending).json();
  assert.equal(generated_text, 'bb');
  assert.equal(details.seed, 12);
  assert.equal(details.generated_tokens, 2);
  assert.deepEqual(
    details.best_of_sequences.map((run: Record<string, unknown>) => [
      run.generated_text,
      run.seed,
      run.generated_tokens,
    ]),
    [
      ['', 11, 1],
      ['ab', 13, 2],
    ],
  );
  assert.deepEqual(Object.keys(details.best_of_sequences[0]), [
    'generated_text',
    'finish_reason',
    'generated_tokens',
    'seed',
    'prefill',
    'tokens',
  ]);
  assert.ok(engine.calls.every(({ request }) => request.logprobs?.of === 'processed'));
});

test('best_of chooses without details too, and one failure ends all runs', async (t) => {
  const { app, engine } = startApp(t);
  let run = 0;
  engine.onSubmit = (call) => {
    run += 1;
    call
      .admit()
      .token(run === 2 ? B : A, -1 / run)
      .finish('length');
  };
  const reply = await post(app, { best_of: 2, do_sample: true, max_new_tokens: 1 });
  assert.equal(reply.body, '{"generated_text":"b"}');
  engine.onSubmit = null;
  const failing = post(app, { best_of: 2, do_sample: true }).then((failed) => failed);
  (await engine.call(3)).fail('ERR_STEP_FAILED', 'no');
  assert.equal((await failing).statusCode, 424);
  assert.equal(engine.calls[2]?.aborted, true);
});

test('decoder_input_details lists the prompt with its log-probabilities, the first null, and implies details', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => {
    call.admit().prompt({ logprobs: Float32Array.of(Number.NaN, -1.5, -0.25), top: null });
    call.token(A).finish('length');
  };
  const { details } = (await post(app, { decoder_input_details: true, max_new_tokens: 1 })).json();
  assert.deepEqual(engine.calls[0]?.request.promptLogprobs, { top: 0 });
  assert.deepEqual(details.prefill, [
    { id: SPECIAL['<s>'], text: '<s>', logprob: null },
    { id: 0x68, text: 'h', logprob: -1.5 },
    { id: 0x69, text: 'i', logprob: -0.25 },
  ]);
});

test('return_k_alternatives shows what else could have come, in replies and in streams', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => {
    const top = { ids: Uint32Array.of(B, A), logprobs: Float32Array.of(-0.125, Number.NEGATIVE_INFINITY) };
    call.admit().token(A, -2, top).token(B, -1, top).finish('length');
  };
  const alternative_tokens = [
    { id: B, text: 'b', logprob: -0.125 },
    // LoRAX's client takes numbers only.
    { id: A, text: 'a', logprob: -3.4028234663852886e38 },
  ];
  const expected = [
    { id: A, text: 'a', logprob: -2, special: false, alternative_tokens, skipped: false },
    { id: B, text: 'b', logprob: -1, special: false, alternative_tokens, skipped: false },
  ];
  const parameters = { return_k_alternatives: 2, details: true, max_new_tokens: 2 };
  assert.deepEqual((await post(app, parameters)).json().details.tokens, expected);
  const stream = await post(app, parameters, '/generate_stream');
  const events = stream.body.trimEnd().split('\n\n');
  assert.deepEqual(
    events.map((event) => JSON.parse(event.slice('data: '.length)).token),
    expected,
  );
  assert.ok(engine.calls.every(({ request }) => request.logprobs?.top === 2));
  assert.equal((await post(app, { return_k_alternatives: 2, max_new_tokens: 2 })).body, '{"generated_text":"ab"}');
  assert.equal(engine.calls.at(-1)?.request.logprobs, null);
});

test('penalties and typical_p reach the engine with LoRAX’s scope', async (t) => {
  const { app, engine } = startApp(t);
  await post(app, { frequency_penalty: -2, presence_penalty: 0.5, typical_p: 0.25, repetition_penalty: 1.5 });
  const { sampling } = engine.calls[0]?.request ?? {};
  assert.deepEqual(
    [sampling?.frequencyPenalty, sampling?.presencePenalty, sampling?.typicalP, sampling?.repetitionPenalty],
    [-2, 0.5, 0.25, 1.5],
  );
  assert.equal(sampling?.penaltyScope, 'sequence');
  assert.equal(sampling?.greedy, false);
});

/** `response_format` and the schema it stands for; null = none. */
const FORMATS: readonly (readonly [object, object | 'arbitrary' | null])[] = [
  [{ type: 'text' }, null],
  [{ type: 'Text', schema: null }, null],
  [{ type: 'json_object', schema: null }, null],
  [{ type: 'json_object' }, 'arbitrary'],
  [{ type: 'JsonSchema' }, 'arbitrary'],
  [{ type: 'json_object', schema: { type: 'array' } }, { type: 'array' }],
  [{ type: 'json_schema', schema: {} }, {}],
];

for (const [format, schema] of FORMATS) {
  test(`response_format ${JSON.stringify(format)}`, async (t) => {
    const { app, engine } = startApp(t);
    await post(app, { response_format: format });
    const constraint = engine.calls[0]?.request.constraint;
    if (schema === null) {
      assert.equal(constraint, null);
      return;
    }
    assert.ok(constraint?.kind === 'json_schema');
    const read = JSON.parse(constraint.schema);
    if (schema !== 'arbitrary') assert.deepEqual(read, schema);
    else assert.deepEqual([read.title, read.type], ['ArbitraryJsonModel', 'object']);
  });
}

test('long integers in a schema keep their digits', async (t) => {
  const { app, engine } = startApp(t);
  const schema = '{"type":"integer","maximum":12345678901234567890}';
  const payload = `{"inputs":"hi","parameters":{"response_format":{"type":"json_schema","schema":${schema}}}}`;
  const headers = { 'content-type': 'application/json' };
  await app.inject({ method: 'POST', url: '/generate', headers, payload });
  const constraint = engine.calls[0]?.request.constraint;
  assert.equal(constraint?.kind === 'json_schema' && constraint.schema, schema);
});

test('details name the adapter that answered, in lists and streams too', async (t) => {
  const { app } = startApp(t);
  const adapter = { name: 'sql', digest: 'd'.repeat(64), tier: 'host' };
  const payload = { inputs: ['a', 'b'], parameters: { adapter_names: ['sql', '__base__'], details: true } };
  const list = await app.inject({ method: 'POST', url: '/generate', payload });
  const [first, second] = list.json();
  assert.deepEqual(first.details.adapter, adapter);
  assert.equal('adapter' in second.details, false);
  const stream = await post(app, { adapter_id: 'sql', details: true }, '/generate_stream');
  const last = JSON.parse(stream.body.trimEnd().split('\n\n').at(-1)?.slice('data: '.length) ?? '');
  assert.deepEqual(last.details.adapter, adapter);
});
