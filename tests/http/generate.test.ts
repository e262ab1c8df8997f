import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GREEDY_SAMPLING } from '../../src/core/request.js';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { startApp } from '../helpers/http-app.js';
import { ScriptedEngine } from '../helpers/scripted-engine.js';

test('a plain call answers the text alone, with the LoRAX headers', async (t) => {
  const { app, engine } = startApp(t);
  const reply = await app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'héy' } });
  assert.equal(reply.statusCode, 200);
  assert.equal(reply.body, '{"generated_text":"ok"}');
  assert.equal(reply.headers['content-type'], 'application/json; charset=utf-8');
  const expected = {
    'x-compute-type': 'cpu',
    'x-compute-characters': '3',
    'x-model-id': 'tiny',
    'x-prompt-tokens': '5',
    'x-generated-tokens': '3',
    'x-total-tokens': '8',
    'x-skipped-tokens': '0',
  };
  for (const [name, value] of Object.entries(expected)) assert.equal(reply.headers[name], value, name);
  for (const name of ['x-compute-time', 'x-total-time', 'x-validation-time', 'x-queue-time', 'x-inference-time']) {
    assert.match(String(reply.headers[name]), /^\d+$/, name);
  }
  assert.equal(reply.headers['x-adapter-id'], undefined);
  const request = engine.calls[0]?.request;
  assert.deepEqual([...(request?.promptIds ?? [])], [SPECIAL['<s>'], 0x68, 0xc3, 0xa9, 0x79]);
  assert.equal(request?.adapter, '__base__');
  assert.equal(request?.maxNewTokens, 59);
  assert.equal(request?.logprobs, null);
});

test('details list every token, the end token too, which is not in the text', async (t) => {
  const { app } = startApp(t);
  const payload = { inputs: 'hi', parameters: { details: true, adapter_id: 'org/sql' } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(
    reply.body,
    '{"generated_text":"ok","details":{"finish_reason":"eos_token","prompt_tokens":3,"generated_tokens":3,' +
      '"skipped_tokens":0,"seed":null,"prefill":[],"tokens":[' +
      '{"id":111,"text":"o","logprob":-0.5,"special":false,"skipped":false},' +
      '{"id":107,"text":"k","logprob":-0.5,"special":false,"skipped":false},' +
      '{"id":257,"text":"</s>","logprob":-0.5,"special":true,"skipped":false}],' +
      `"adapter":{"name":"org/sql","digest":"${'d'.repeat(64)}","tier":"host"}}}`,
  );
  assert.equal(reply.headers['x-adapter-id'], 'org/sql');
  assert.equal(reply.headers['x-adapter-source'], 'local');
  assert.equal(reply.headers['x-loramux-adapter-digest'], 'd'.repeat(64));
  assert.equal(reply.headers['x-loramux-adapter-tier'], 'host');
});

test('tokens that a right guess brought are told: skipped, counted in details, headers and metrics', async (t) => {
  const engine = new ScriptedEngine();
  engine.onSubmit = (call) => {
    call.admit().token(111).token(107, -0.5, null, true).token(108).finish('length');
  };
  const { app } = startApp(t, { engine });
  const payload = { inputs: 'hi', parameters: { details: true, max_new_tokens: 3 } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  const { details } = reply.json();
  assert.equal(details.skipped_tokens, 1);
  assert.deepEqual(
    details.tokens.map((token: { skipped: boolean }) => token.skipped),
    [false, true, false],
  );
  assert.equal(reply.headers['x-skipped-tokens'], '1');
  const { body } = await app.inject({ url: '/metrics' });
  assert.match(body, /^lorax_request_skipped_tokens_sum 1$/m);
});

for (const name of [null, '', '__base__', '__base_model__']) {
  test(`adapter_id ${JSON.stringify(name)} means the base model`, async (t) => {
    const { app, engine } = startApp(t);
    const payload = { inputs: 'hi', parameters: { adapter_id: name } };
    const reply = await app.inject({ method: 'POST', url: '/generate', payload });
    assert.equal(reply.statusCode, 200);
    assert.equal(engine.calls[0]?.request.adapter, '__base__');
  });
}

test('a 64-bit seed survives the way in and out, as a number and as a string', async (t) => {
  const { app, engine } = startApp(t);
  for (const seed of ['18446744073709551615', '"18446744073709551615"']) {
    const payload = `{"inputs":"hi","parameters":{"seed":${seed},"do_sample":true,"details":true}}`;
    const headers = { 'content-type': 'application/json' };
    const reply = await app.inject({ method: 'POST', url: '/generate', headers, payload });
    assert.equal(engine.calls.at(-1)?.request.sampling.seed, 18446744073709551615n);
    assert.match(reply.body, /"seed":18446744073709551615,/);
  }
});

test('a drawn seed is printed, so that the answer can be repeated', async (t) => {
  const { app, engine } = startApp(t, { drawSeed: () => 7n });
  const payload = { inputs: 'hi', parameters: { temperature: 0.7, details: true } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(reply.json().details.seed, 7);
  assert.deepEqual(engine.calls[0]?.request.sampling, {
    ...GREEDY_SAMPLING,
    greedy: false,
    temperature: 0.7,
    penaltyScope: 'sequence',
    seed: 7n,
  });
});

test('a stop string is found across tokens, stays in the text, and frees the engine', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('one two three').finish('length');
  const payload = { inputs: 'hi', parameters: { stop: ['zzz', 'e tw'], details: true } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(reply.json().generated_text, 'one tw');
  assert.equal(reply.json().details.finish_reason, 'stop_sequence');
  assert.equal(reply.json().details.generated_tokens, 6);
  assert.equal(engine.calls[0]?.aborted, true);
});

test('the length limit comes before the end token and the stop string', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('ab').finish('length');
  const payload = { inputs: 'hi', parameters: { max_new_tokens: 2, stop: ['b'], details: true } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(reply.json().details.finish_reason, 'length');
  assert.equal(reply.json().generated_text, 'ab');
});

test('return_full_text puts the prompt in front, truncate keeps its last tokens', async (t) => {
  const { app, engine } = startApp(t);
  const payload = { inputs: 'hello', parameters: { return_full_text: true, truncate: 2 } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(reply.json().generated_text, 'hellook');
  assert.deepEqual([...(engine.calls[0]?.request.promptIds ?? [])], [0x6c, 0x6f]);
});

test('ignore_eos_token leaves the engine without stop ids', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().token(SPECIAL['</s>']).tokens('on').finish('length');
  const payload = { inputs: 'hi', parameters: { ignore_eos_token: true, max_new_tokens: 3 } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.deepEqual(engine.calls[0]?.request.stopIds, []);
  assert.equal(reply.json().generated_text, 'on');
});

test('text that ends inside a character is completed with U+FFFD, not lost', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('a').token(0xe2).token(0x82).finish('length');
  const payload = { inputs: 'hi', parameters: { max_new_tokens: 3 } };
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(reply.json().generated_text, 'a\uFFFD');
});

test('adapter_names answer in order whatever finishes first', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const payload = { inputs: ['a', 'b', 'c'], parameters: { adapter_names: ['sql', '__base__', 'pirate'] } };
  const pending = app.inject({ method: 'POST', url: '/generate', payload }).then((reply) => reply);
  await engine.call(2);
  assert.deepEqual(
    engine.calls.map((call) => call.request.adapter),
    ['sql', '__base__', 'pirate'],
  );
  for (const call of [...engine.calls].reverse()) call.answer(`<${call.request.adapter}>`);
  const reply = await pending;
  assert.deepEqual(reply.json(), [
    { generated_text: '<sql>' },
    { generated_text: '<__base__>' },
    { generated_text: '<pirate>' },
  ]);
  assert.equal(reply.headers['x-prompt-tokens'], '6');
});

test('one failing prompt fails the call by name and ends the others', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const payload = { inputs: ['a', 'b'], parameters: { adapter_names: ['sql', 'gone'] } };
  const pending = app.inject({ method: 'POST', url: '/generate', payload }).then((reply) => reply);
  await engine.call(1);
  engine.calls[0]?.admit().tokens('x');
  engine.calls[1]?.fail('ERR_ADAPTER_NOT_FOUND', 'no adapter "gone"');
  const reply = await pending;
  assert.equal(reply.statusCode, 424);
  assert.deepEqual(reply.json(), {
    error: 'Request failed during generation: Server error: inputs[1]: no adapter "gone"',
    error_type: 'generation',
  });
  assert.equal(engine.calls[0]?.aborted, true);
});

test('a list longer than a batch is answered whole, and a model name outside of ASCII does no harm', async (t) => {
  const { app, engine } = startApp(t, { engine: new ScriptedEngine({ modelId: 'modèle\n', device: 'cpu (avx2)' }) });
  const inputs = Array.from({ length: 64 }, (_, at) => `p${at}`);
  const payload = { inputs, parameters: { adapter_names: inputs } };
  const warnings: Error[] = [];
  const onWarning = (warning: Error): number => warnings.push(warning);
  process.on('warning', onWarning);
  const reply = await app.inject({ method: 'POST', url: '/generate', payload });
  process.off('warning', onWarning);
  assert.equal(reply.json().length, 64);
  assert.equal(engine.calls.length, 64);
  assert.equal(reply.headers['x-model-id'], 'mod?le?');
  assert.equal(reply.headers['x-compute-type'], 'cpu');
  assert.deepEqual(warnings, []);
});
