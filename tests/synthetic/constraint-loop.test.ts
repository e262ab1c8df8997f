import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Constraint } from '../../src/core/constraint.js';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import { LoopEngine } from '../helpers/loop-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';

const MAX_QUEUE = 4;
const ENDLESS: Constraint = { kind: 'regex', pattern: '[ab]+' };

let engine: LoopEngine;
before(async () => {
  engine = await LoopEngine.open({
    model: await prepareLocal(join(SYNTHETIC, syntheticModel('llama-gqa-tied').path), 'f32'),
    tokenCount: SYNTHETIC_TOKENS,
    adapterRoots: [],
    threads: 1,
    adapterMemoryBytes: 2 ** 20,
    kvMemoryBytes: 2 ** 22,
    maxModelLen: null,
    maxBatchTokens: 64,
    maxPrefillRows: 64,
    maxSequences: 8,
    maxQueue: MAX_QUEUE,
    prefixCache: true,
    speculation: false,
    launchAhead: true,
  });
});
after(() => engine.stop());

let nextId = 1;
function request(constraint: Constraint | null, maxNewTokens = 20): GenerateRequest {
  return {
    id: nextId++,
    adapter: BASE_NAME,
    promptIds: Uint32Array.of(7, 30, 99),
    maxNewTokens,
    stopIds: [2],
    sampling: { ...GREEDY_SAMPLING, greedy: false, temperature: 3, seed: 5n },
    ...PLAIN_REQUEST,
    constraint,
  };
}

test('an impossible schema is refused before it is queued, and says why', async () => {
  const impossible = request({ kind: 'json_schema', schema: '{"type":"string","minLength":5,"maxLength":2}' });
  engine.submit(impossible);
  const { error, tokens } = await engine.outcome(impossible.id);
  assert.equal(error?.code, 'ERR_VALIDATION');
  assert.equal(error?.details?.field, 'constraint');
  assert.match(error?.message ?? '', /JSON Schema: Unsatisfiable schema: minLength \(5\)/);
  assert.deepEqual(tokens, []);
  assert.equal(engine.native.constraintCount(), 0);
});

for (const [what, constraint, why] of [
  ['text that is not JSON', { kind: 'json_schema', schema: '{' }, /expected JSON/],
  [
    'a keyword that is not supported',
    { kind: 'json_schema', schema: '{"type":"array","uniqueItems":true}' },
    /uniqueItems/,
  ],
  [
    'an overlapping oneOf',
    { kind: 'json_schema', schema: '{"oneOf":[{"type":"string"},{"maxLength":3,"type":"string"}]}' },
    /anyOf/,
  ],
  [
    'a number beyond the arithmetic',
    { kind: 'json_schema', schema: '{"type":"integer","multipleOf":999999937}' },
    /overflow/,
  ],
  ['a schema over 64 KiB', { kind: 'json_schema', schema: `{"const":"${'x'.repeat(66_000)}"}` }, /65536 bytes/],
  ['look-ahead', { kind: 'regex', pattern: '(?=a)b' }, /look-ahead/],
  ['a pattern that is cut off', { kind: 'regex', pattern: 'a\\' }, /backslash/],
  ['a pattern that nothing matches', { kind: 'regex', pattern: '[^\\s\\S]' }, /nothing can match/],
  ['a grammar without a start', { kind: 'grammar', grammar: 'a: "b"' }, /start/],
  [
    'a grammar nested beyond reason',
    { kind: 'grammar', grammar: `start: "a" %if ${'not('.repeat(9_000)}` },
    /64 parentheses/,
  ],
  ['no choice', { kind: 'choice', choices: [] }, /at least one/],
] as const) {
  test(`refused: ${what}`, async () => {
    const refused = request(constraint);
    engine.submit(refused);
    const { error } = await engine.outcome(refused.id);
    assert.equal(error?.code, 'ERR_VALIDATION');
    assert.match(error?.message ?? '', why);
  });
}

test('a matcher goes when its request ends, is aborted or is refused', async () => {
  const whole = request({ kind: 'choice', choices: ['yes'] });
  engine.submit(whole);
  assert.equal((await engine.outcome(whole.id)).error, null);
  const left = request(ENDLESS, 200);
  engine.submit(left);
  await engine.until(() => engine.tokensOf(left.id).length > 2);
  assert.equal(engine.native.constraintCount(), 1);
  engine.abort(left.id);
  await engine.until(() => engine.native.constraintCount() === 0);
  const early = request({ kind: 'regex', pattern: '[bc]+' });
  engine.submit(early);
  engine.abort(early.id);
  const tooLong = request(ENDLESS, 100_000);
  engine.submit(tooLong);
  assert.ok((await engine.outcome(tooLong.id)).error !== null);
  await engine.until(() => engine.native.constraintCount() === 0);
  assert.deepEqual(engine.tokensOf(early.id), []);
});

test('requests whose constraint is being compiled count as waiting', async () => {
  const many = Array.from({ length: 3 * MAX_QUEUE }, (_, at) => request({ kind: 'regex', pattern: `[ab]{${at + 1}}` }));
  for (const one of many) engine.submit(one);
  const outcomes = await Promise.all(many.map(({ id }) => engine.outcome(id)));
  const codes = outcomes.map(({ error }) => error?.code ?? 'ok');
  assert.deepEqual(new Set(codes), new Set(['ok', 'ERR_QUEUE_FULL']));
  assert.equal(engine.native.constraintCount(), 0);
});

test('the time of masks is reported for steps that have any', async () => {
  engine.facts.length = 0;
  const free = request(null);
  engine.submit(free);
  await engine.outcome(free.id);
  const bound = request(ENDLESS);
  engine.submit(bound);
  await engine.outcome(bound.id);
  const steps = engine.facts.filter((fact) => fact.kind === 'step');
  const masked = steps.filter(({ maskSeconds }) => maskSeconds !== null);
  assert.equal(masked.length, 20);
  assert.ok(steps.length > masked.length);
  for (const { maskSeconds, sampleSeconds } of masked) {
    assert.ok((maskSeconds ?? 0) > 0);
    assert.ok((maskSeconds ?? 0) <= sampleSeconds);
  }
});
