import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Constraint } from '../../src/core/constraint.js';
import { BASE_NAME } from '../../src/core/names.js';
import { NO_CONSTRAINT } from '../../src/core/step.js';
import { demoModel } from '../helpers/demo-model.js';
import { DirectEngine } from '../helpers/direct-engine.js';

const PERSON: Constraint = {
  kind: 'json_schema',
  schema: JSON.stringify({
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 20 },
      age: { type: 'integer', minimum: 0, maximum: 120 },
      languages: { type: 'array', items: { enum: ['English', 'French', 'German'] }, minItems: 1, maxItems: 3 },
    },
    required: ['name', 'age', 'languages'],
    additionalProperties: false,
  }),
};
const PROMPT = 'Describe a person as JSON.\n';

let engine: DirectEngine;
before(async () => {
  engine = await DirectEngine.open({ model: await demoModel(), adapterRoots: [] });
});
after(() => engine.close());

test('the demo model writes JSON of a schema, beside a free row that is what it is alone', async () => {
  const ids = [...(await engine.tokenizer.encode(PROMPT, false))];
  const stop = engine.model.manifest.eosTokenIds;
  const bound = { ...engine.request(BASE_NAME, ids, 120, stop), constraint: PERSON };
  const free = engine.request(BASE_NAME, ids, 24, stop);
  const [constrained, beside] = await engine.run([bound, free]);
  const [alone] = await engine.run([free]);
  assert.deepEqual(beside?.tokens, alone?.tokens);
  const text = engine.tokenizer.decode(Uint32Array.from(constrained?.tokens ?? []), true);
  const person = JSON.parse(text) as { name: unknown; age: unknown; languages: unknown };
  assert.equal(typeof person.name, 'string');
  assert.ok(Number.isInteger(person.age));
  assert.ok(Array.isArray(person.languages) && person.languages.length >= 1);
});

test('masks of a 49k vocabulary cost little beside a step', async (t) => {
  const seconds: number[] = [];
  const ids = [...(await engine.tokenizer.encode(PROMPT, false))];
  const stop = engine.model.manifest.eosTokenIds;
  const kinds: Constraint[] = [PERSON, { kind: 'json_object' }, { kind: 'regex', pattern: '[A-Z][a-z ]{10,60}\\.' }];
  const request = (constraint: Constraint) => ({ ...engine.request(BASE_NAME, ids, 40, stop), constraint });
  await engine.run(kinds.map(request), {
    onStep: ({ sampling }, { maskSeconds }) => {
      const rows = sampling.filter(({ constraint }) => constraint !== NO_CONSTRAINT).length;
      if (rows > 0) seconds.push(maskSeconds / rows);
    },
  });
  seconds.sort((a, b) => a - b);
  const at = (share: number): number => (seconds[Math.floor(share * (seconds.length - 1))] ?? 0) * 1e6;
  t.diagnostic(`${seconds.length} steps, µs a row: median ${at(0.5).toFixed(0)}, p99 ${at(0.99).toFixed(0)}`);
  assert.ok(at(0.5) < 5_000, 'a mask takes some tens of microseconds');
});
