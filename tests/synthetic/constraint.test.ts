import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import type { Constraint } from '../../src/core/constraint.js';
import { BASE_NAME } from '../../src/core/names.js';
import { constrained, END_ID, endedText } from '../helpers/constrained.js';
import type { DirectEngine } from '../helpers/direct-engine.js';
import { fuzzRuns } from '../helpers/fuzz.js';
import { openSynthetic } from '../helpers/synthetic.js';

const SEEDS = [1, 2, 3, 4];
const text = { type: 'string', maxLength: 6 };
const SCHEMAS: Readonly<Record<string, object>> = {
  'an object': { type: 'object', properties: { name: text, age: { type: 'integer' } }, required: ['name', 'age'] },
  'closed object with an option': {
    type: 'object',
    properties: { a: { type: 'boolean' }, b: { type: 'null' }, c: text },
    required: ['c'],
    additionalProperties: false,
  },
  'an array of numbers': { type: 'array', items: { type: 'number' }, minItems: 1, maxItems: 3 },
  'a tuple': { type: 'array', prefixItems: [text, { type: 'integer' }], items: false, minItems: 2 },
  'a range': { type: 'integer', minimum: -17, maximum: 230 },
  multiples: { type: 'integer', multipleOf: 7, minimum: 0, maximum: 1000 },
  'an enumeration': { enum: ['red', 'green', 3, null, { deep: [1] }] },
  'a constant': { const: { unit: 'é"\\', list: [true, 0.5] } },
  'a pattern': { type: 'string', pattern: '^[A-Z]{2}-\\d{3}$' },
  'a date': { type: 'string', format: 'date' },
  'an address': { type: 'string', format: 'ipv4' },
  'one of two types': { anyOf: [{ type: 'integer', minimum: 5, maximum: 9 }, { type: 'boolean' }] },
  'a tagged union': {
    oneOf: [
      {
        type: 'object',
        properties: { kind: { const: 'a' }, a: text },
        required: ['kind', 'a'],
        additionalProperties: false,
      },
      { type: 'object', properties: { kind: { const: 'b' } }, required: ['kind'], additionalProperties: false },
    ],
  },
  'an intersection': { allOf: [{ type: 'integer', minimum: 3 }, { maximum: 12 }] },
  'a tree': {
    $ref: '#/$defs/node',
    $defs: {
      node: {
        type: 'object',
        properties: { left: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/leaf' }] } },
        required: ['left'],
        additionalProperties: false,
      },
      leaf: { type: 'object', properties: { v: { type: 'boolean' } }, required: ['v'], additionalProperties: false },
    },
  },
  'a map': {
    type: 'object',
    patternProperties: { '^k\\d$': { type: 'boolean' } },
    additionalProperties: false,
    maxProperties: 2,
  },
};
const PATTERNS = [
  '\\d{3}-\\d{4}',
  '^(yes|no|maybe)$',
  '[a-f0-9]{8}',
  'a?b{2,4}(cd|é)+x',
  '"/\\\\[/]"',
  '(?:\\w{1,5} ){2}\\w',
  '',
];

let engine: DirectEngine;
before(async () => {
  engine = await openSynthetic('llama-gqa-tied');
});
after(() => engine.close());

const schema = (of: unknown): Constraint => ({ kind: 'json_schema', schema: JSON.stringify(of) });

/** The texts that some seeds come to under one constraint, in one batch; those that ended. */
async function texts(constraint: Constraint, seeds = SEEDS): Promise<string[]> {
  const outcomes = await engine.run(seeds.map((seed) => constrained(engine, constraint, seed)));
  const ended = outcomes.map(({ tokens }) => endedText(engine, tokens));
  return ended.filter((one) => one !== null);
}

for (const [name, of] of Object.entries(SCHEMAS)) {
  test(`random weights write JSON of the schema: ${name}`, async () => {
    const valid = new Ajv2020({ strict: false, validateFormats: false }).compile(of);
    const written = await texts(schema(of));
    assert.ok(written.length > 0, 'none ended');
    for (const one of written) assert.ok(valid(JSON.parse(one)), `${one}: ${JSON.stringify(valid.errors)}`);
  });
}

test('random schemas: whatever ends is valid', async () => {
  const leaf = fc.oneof(
    fc.constant({ type: 'boolean' }),
    fc.constant({ type: 'null' }),
    fc
      .tuple(fc.integer({ min: -500, max: 500 }), fc.nat(700))
      .map(([minimum, span]) => ({ type: 'integer', minimum, maximum: minimum + span })),
    fc.nat(5).map((maxLength) => ({ type: 'string', maxLength })),
    fc.uniqueArray(fc.string({ maxLength: 4 }), { minLength: 1, maxLength: 4 }).map((values) => ({ enum: values })),
  );
  const { any } = fc.letrec((tie) => ({
    any: fc.oneof({ maxDepth: 2 }, leaf, tie('array'), tie('object'), tie('union')),
    array: fc.record({
      type: fc.constant('array'),
      items: tie('any'),
      minItems: fc.nat(1),
      maxItems: fc.integer({ min: 1, max: 2 }),
    }),
    object: fc.dictionary(fc.string({ minLength: 1, maxLength: 4 }), tie('any'), { maxKeys: 3 }).map((properties) => ({
      type: 'object',
      properties,
      required: Object.keys(properties).slice(0, 2),
      additionalProperties: false,
    })),
    union: fc.array(tie('any'), { minLength: 1, maxLength: 2 }).map((anyOf) => ({ anyOf })),
  }));
  let ended = 0;
  await fc.assert(
    fc.asyncProperty(any, fc.nat(2 ** 31), async (of, seed) => {
      const valid = new Ajv2020({ strict: false }).compile(of as object);
      for (const one of await texts(schema(of), [seed])) {
        ended += 1;
        assert.ok(valid(JSON.parse(one)), one);
      }
    }),
    { numRuns: fuzzRuns(60) },
  );
  assert.ok(ended > 0);
});

test('any object is an object', async () => {
  const written = await texts({ kind: 'json_object' }, [...Array(16).keys()]);
  assert.ok(written.length > 0, 'none ended');
  for (const one of written) assert.equal(Object.prototype.toString.call(JSON.parse(one)), '[object Object]');
});

for (const pattern of PATTERNS) {
  test(`random weights write what all of a pattern matches: ${pattern}`, async () => {
    const whole = new RegExp(`^(?:${pattern})$`, 'u');
    const written = await texts({ kind: 'regex', pattern });
    assert.ok(written.length > 0, 'none ended');
    for (const one of written) assert.match(one, whole);
  });
}

test('a choice is one of its texts, whichever prefixes they share', async () => {
  const choices = ['a', 'ab', 'abc', 'the', 'then', '"\\x41"', 'zwölf', '\u007f\u2028😀'];
  const written = await texts({ kind: 'choice', choices }, [...Array(24).keys()]);
  assert.equal(written.length, 24);
  for (const one of written) assert.ok(choices.includes(one), one);
  assert.ok(new Set(written).size > 3);
});

test('a grammar writes its language', async () => {
  const grammar = 'start: "(" start ")" | pair\npair: KEY "=" /[0-9]+/\nKEY: "x" | "y"\n';
  const written = await texts({ kind: 'grammar', grammar }, [...Array(8).keys()]);
  assert.ok(written.length > 0);
  for (const one of written) {
    const [, open = '', close = ''] = /^(\(*)[xy]=\d+(\)*)$/.exec(one) ?? assert.fail(one);
    assert.equal(open.length, close.length);
  }
});

test('rows of a mixed batch are what each is alone', async () => {
  const kinds: (Constraint | null)[] = [
    schema(SCHEMAS['an object']),
    null,
    { kind: 'regex', pattern: '[ab]{40}' },
    null,
  ];
  const requests = [...kinds, ...kinds].map((kind, at) => constrained(engine, kind, at, 60));
  const together = await engine.run(requests);
  for (const [at, request] of requests.entries()) {
    const [alone] = await engine.run([request]);
    assert.deepEqual(together[at]?.tokens, alone?.tokens, `request ${at}`);
  }
});

test('greedy rows obey too', async () => {
  const request = {
    ...engine.request(BASE_NAME, [7, 30], 40, [END_ID]),
    constraint: schema(SCHEMAS['a tagged union']),
  };
  const [outcome] = await engine.run([request]);
  assert.ok(outcome !== undefined);
  const written = endedText(engine, outcome.tokens);
  if (written !== null) JSON.parse(written);
  else assert.equal(outcome.tokens.length, 40);
});

test('a preempted request goes on where it was', async () => {
  const small = await openSynthetic('llama-gqa-tied', { kvBlocks: 12, maxSequences: 8 });
  try {
    const requests = [...Array(6).keys()].map((seed) =>
      constrained(small, { kind: 'regex', pattern: '[a-z]{60}' }, seed, 80),
    );
    const crowded = await small.run(requests);
    for (const [at, request] of requests.entries()) {
      const [alone] = await engine.run([request]);
      assert.deepEqual(crowded[at]?.tokens, alone?.tokens);
      assert.match(endedText(small, crowded[at]?.tokens ?? []) ?? '', /^[a-z]{60}$/);
    }
  } finally {
    await small.close();
  }
});

test('the least length holds back the end, unless the constraint has nothing more to say', async () => {
  const held = { ...constrained(engine, { kind: 'regex', pattern: 'a{1,30}' }, 1), minNewTokens: 12 };
  const over = { ...constrained(engine, { kind: 'choice', choices: ['yes'] }, 1), minNewTokens: 12 };
  const [long, short] = await engine.run([held, over]);
  assert.ok((endedText(engine, long?.tokens ?? [])?.length ?? 0) >= 12);
  assert.equal(endedText(engine, short?.tokens ?? []), 'yes');
});

test('no matcher is left', () => assert.equal(engine.engine.constraintCount(), 0));
