import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { startApp } from '../helpers/http-app.js';

async function tokenize(t: TestContext, payload: string | object): Promise<{ status: number; body: unknown }> {
  const { app } = startApp(t);
  const headers = { 'content-type': 'application/json' };
  const reply = await app.inject({ method: 'POST', url: '/tokenize', headers, payload });
  assert.match(String(reply.headers['content-type']), /^application\/json/);
  return { status: reply.statusCode, body: reply.json() };
}

test('POST /tokenize lists the tokens of a text with their places in characters', async (t) => {
  const start = { id: 256, text: '<s>', start: 0, stop: 0 };
  const a = { id: 97, text: '61', start: 0, stop: 1 };
  const smile = [0xf0, 0x9f, 0x98, 0x80].map((id) => ({ id, text: id.toString(16), start: 1, stop: 2 }));
  const end = { id: 98, text: '62', start: 2, stop: 3 };
  assert.deepEqual(await tokenize(t, { inputs: 'a😀b' }), { status: 200, body: [start, a, ...smile, end] });
  const without = await tokenize(t, { inputs: 'a😀b', add_special_tokens: false });
  assert.deepEqual(without.body, [a, ...smile, end]);
  assert.deepEqual((await tokenize(t, { inputs: '', add_special_tokens: null })).body, [start]);
  assert.deepEqual((await tokenize(t, { inputs: '', add_special_tokens: false })).body, []);
});

test('a text of many tokens is answered whole, without holding up what else runs', async (t) => {
  const { app } = startApp(t);
  const inputs = 'x'.repeat(500_000);
  const payload = { inputs, add_special_tokens: false };
  let turns = 0;
  const timer = setInterval(() => {
    turns += 1;
  }, 1);
  const reply = await app.inject({ method: 'POST', url: '/tokenize', payload });
  clearInterval(timer);
  const tokens = reply.json() as { start: number }[];
  assert.equal(tokens.length, inputs.length);
  assert.ok(tokens.every(({ start }, at) => start === at));
  assert.ok(turns > 20, `only ${turns} turns of the event loop`);
});

const REFUSED: readonly (readonly [string | object, number, RegExp])[] = [
  ['', 400, /it is empty/],
  ['{', 400, /JSON/],
  [[], 422, /`body` must be an object/],
  [{}, 422, /`inputs` must be a string, got nothing/],
  [{ inputs: ['a'] }, 422, /`inputs` must be a string, got a list/],
  ['{"inputs":"\\ud800"}', 422, /half a surrogate/],
  [{ inputs: 'a', add_special_tokens: 1 }, 422, /`add_special_tokens` must be true or false/],
  [{ inputs: 'a', model: 'x' }, 422, /unknown field `model`: remove it/],
];

for (const [payload, status, message] of REFUSED) {
  test(`POST /tokenize of ${JSON.stringify(payload)} is a ${status}`, async (t) => {
    const reply = await tokenize(t, payload);
    assert.equal(reply.status, status);
    const { error, error_type: type } = reply.body as { error: string; error_type: string };
    assert.match(error, message);
    assert.equal(type, 'validation');
  });
}
