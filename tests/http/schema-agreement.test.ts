import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readLoadRequest } from '../../src/server/admin/requests.js';
import { parseJsonBody } from '../../src/server/json-body.js';
import { PARAMETER_FIELDS, parseGenerateBody } from '../../src/server/lorax/generate-body.js';
import { readTokenizeBody } from '../../src/server/lorax/tokenize-route.js';
import { UNSUPPORTED_FIELDS } from '../../src/server/lorax/unsupported.js';
import { COMPLETION_FIELDS, readCompletionBody } from '../../src/server/openai/completion-body.js';
import { readLoraLoad } from '../../src/server/openai/vllm-lora-body.js';
import { LOAD } from '../../src/server/schemas/admin.js';
import { PARAMETERS, TOKENIZE_FIELDS } from '../../src/server/schemas/lorax.js';
import { COMPLETION } from '../../src/server/schemas/openai.js';
import type { JsonSchema } from '../../src/server/schemas/route-doc.js';
import { LOAD_LORA } from '../../src/server/schemas/vllm.js';
import { type OpenApiDocument, validatorOf } from '../helpers/openapi.js';
import { LIMITS } from '../helpers/scripted-engine.js';

/** The schemas are documentation; the readers decide. Here both are asked about the same values, field by field. */

const NO_COMPONENTS = { openapi: '3.1.0', paths: {}, components: { schemas: {} } } satisfies OpenApiDocument;

/** Values at the edges of what any field takes. */
const EDGES: readonly unknown[] = [
  ...[null, true, false, 0, 1, -1, 2, 3, 8, 10, 16, 17, 20, 21, 100, 128, 129, 500, 511, 512],
  ...[0.5, 1.5, -0.5, -2, -2.5, 2.5, 1e-9, 1e300, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53],
  ...[
    '',
    'a',
    'a/b',
    'a/b/c',
    'a b',
    '@',
    '.a',
    '__base__',
    '12',
    '-1',
    'left',
    'local',
    'hub',
    'linear',
    'x'.repeat(129),
  ],
  ...['{}', '[', 'peft_ties', 'frequency', 'text', 'json_object', 'dir:/x', 'tiny'],
  ...[
    [],
    [''],
    ['a'],
    ['a', 'b'],
    [1],
    [1, 2],
    [[1]],
    [[]],
    [null],
    ['a', 1],
    [0.5],
    [-1],
    Array(11).fill('a'),
    Array(17).fill('a'),
  ],
  ...[{}, { a: 1 }, { 5: 1 }, { 5: 200 }, { 5: null }, { type: 'text' }, { type: 'json_object', schema: null }],
  ...[
    { type: 'json_object', schema: {} },
    { type: 'yaml' },
    { type: 'text', other: 1 },
    [{ id: 'a' }],
    [{ id: 'a', weight: 2 }],
  ],
  ...[
    [{ id: 'a', weight: '2' }],
    [{ id: 'a', other: 1 }],
    [{ weight: 1 }],
    Array.from({ length: 9 }, (_, at) => ({ id: `a${at}` })),
  ],
  ...[
    { ids: ['a'], weights: [1] },
    { ids: [], weights: [] },
    { ids: ['a'] },
    { ids: ['a'], weights: [1], density: -1 },
  ],
  ...[{ ids: ['a', 'b'], weights: [1, 2], merge_strategy: 'ties', majority_sign_method: 'frequency', density: 0.5 }],
  ...[
    { ids: ['a'], weights: [1], merge_strategy: 'sum' },
    { ids: ['__base__'], weights: [1] },
    { ids: 'a', weights: 1 },
  ],
  ...[{ include_usage: true }, { include_usage: 1 }, { include_obfuscation: true }, { include_obfuscation: false }],
  ...[{ regex: 'a' }, { json: {} }, { choice: ['a'] }, { choice: [] }, { grammar: '' }, { json_object: true }],
  ...[{ json: 5 }, { regex: 'a', structural_tag: 'x' }, { regex: 'a', disable_fallback: false }],
  ...[
    { type: 'dir', location: '/x' },
    { type: 'dir' },
    { type: 'hub', location: 'a/b', token: 't' },
    { type: 'ftp', location: 'x' },
  ],
];

interface Surface {
  readonly name: string;
  readonly fields: Readonly<Record<string, JsonSchema>>;
  /** Throws what the reader throws about a body in which `field` has `value`. */
  read(field: string, value: unknown): void;
  /** Rules that no schema of one field can say: what the reader refuses though the schema allows it. */
  stricter(field: string, value: unknown): boolean;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const given = (value: unknown, names: readonly string[]): number =>
  isObject(value)
    ? names.filter((name) => value[name] !== undefined && value[name] !== null && value[name] !== false).length
    : 0;

const GENERATE: Surface = {
  name: 'parameters of a generate call',
  fields: PARAMETERS,
  read: (field, value) => {
    const list = field === 'adapter_names' && Array.isArray(value);
    const body = { inputs: list ? value.map(() => 'x') : 'x', parameters: { [field]: value } };
    parseGenerateBody(body, { streaming: false, maxInputLength: 511, maxBestOf: 2, requestSources: ['hub', 's3'] });
  },
  stricter: (field, value) => {
    switch (field) {
      case 'adapter_names':
        return Array.isArray(value) && value.length === 0;
      case 'api_token':
        return typeof value === 'string' && value !== '';
      case 'best_of':
        return Number(value) > 1;
      case 'truncate':
        return Number(value) > 511;
      case 'response_format':
        return isObject(value) && value.type === 'text' && isObject(value.schema);
      case 'merged_adapters': {
        if (!isObject(value) || !Array.isArray(value.ids) || !Array.isArray(value.weights)) return false;
        const { ids, weights, merge_strategy: strategy, density } = value;
        if (ids.length !== weights.length) return true;
        if (ids.length === 1 || typeof strategy !== 'string' || !/ties|dare/.test(strategy)) return false;
        return strategy.startsWith('peft') ? !(Number(density) > 0 && Number(density) <= 1) : Number(density) < 0;
      }
      default:
        return false;
    }
  },
};

const COMPLETIONS: Surface = {
  name: 'fields of completions',
  fields: COMPLETION,
  read: (field, value) => {
    const streaming = field === 'stream_options' ? { stream: true } : {};
    const limits = { ...LIMITS, maxModelLen: 512 };
    const context = {
      ...{ limits, base: ['tiny'] as const, maxChoices: 16, maxBestOf: 2, drawSeed: () => 1n },
      requestSources: ['hub', 's3'] as const,
    };
    readCompletionBody({ model: 'tiny', prompt: 'x', max_tokens: 20, ...streaming, [field]: value }, context);
  },
  stricter: (field, value) => {
    switch (field) {
      case 'api_token':
        return typeof value === 'string' && value !== '';
      case 'model':
        // 404 for what can be no name.
        return typeof value === 'string';
      case 'best_of':
        return Number(value) > 2;
      case 'n':
        return Number(value) > 16;
      case 'min_tokens':
        return Number(value) > 20;
      case 'max_tokens':
        return value === 0;
      case 'truncate_prompt_tokens':
        return Number(value) > 511;
      case 'seed':
        return Number(value) >= 2 ** 64 || Number(value) < -(2 ** 63);
      case 'repetition_penalty':
        return Math.fround(Number(value)) === 0 || !Number.isFinite(Math.fround(Number(value)));
      case 'typical_p':
        return Math.fround(Number(value)) === 0;
      case 'prompt':
      case 'stop_token_ids':
        return (
          JSON.stringify(value)
            ?.match(/\d+/g)
            ?.some((id) => Number(id) >= LIMITS.vocabSize) === true
        );
      case 'logit_bias':
        return isObject(value) && Object.keys(value).some((id) => Number(id) >= LIMITS.vocabSize);
      case 'guided_json':
        return typeof value === 'string';
      case 'structured_outputs':
        return (
          given(value, ['json', 'regex', 'choice', 'grammar', 'json_object']) !== 1 ||
          (isObject(value) && typeof value.json === 'string')
        );
      default:
        return false;
    }
  },
};

const LOADS: Surface = {
  name: 'fields of a load',
  fields: LOAD,
  read: (field, value) => {
    readLoadRequest({ name: 'a', source: 'dir:/x', [field]: value });
  },
  // Forms of sources are told in words.
  stricter: (field) => field === 'source',
};

const LORA_LOADS: Surface = {
  name: "fields of vLLM's loads",
  fields: LOAD_LORA,
  read: (field, value) => {
    readLoraLoad({ lora_name: 'a', lora_path: '/x', [field]: value }, ['tiny']);
  },
  stricter: (field, value) => {
    if (field === 'base_model_name') return typeof value === 'string' && value !== '' && value !== 'tiny';
    return field === 'lora_path' || (field === 'lora_name' && value === 'tiny');
  },
};

/** Any JSON value, often one of the edges. */
const VALUE = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...EDGES) }, fc.jsonValue({ maxDepth: 2 }));

const TOKENIZING: Surface = {
  name: 'fields of tokenize',
  fields: TOKENIZE_FIELDS,
  read: (field, value) => {
    readTokenizeBody({ inputs: 'x', [field]: value });
  },
  stricter: () => false,
};

for (const surface of [GENERATE, COMPLETIONS, TOKENIZING, LORA_LOADS, LOADS]) {
  test(`${surface.name}: schema and reader take the same values`, () => {
    let taken = 0;
    for (const [field, schema] of Object.entries(surface.fields)) {
      const validate = validatorOf(NO_COMPONENTS, schema);
      const agree = (value: unknown): void => {
        const bySchema = validate(value);
        let failure: unknown = null;
        try {
          // As bodies are read: integers beyond 2^53 are BigInts.
          surface.read(field, parseJsonBody(Buffer.from(JSON.stringify(value))));
        } catch (thrown) {
          failure = thrown;
        }
        const what = `${field}: ${JSON.stringify(value)?.slice(0, 200)} (${failure instanceof Error ? failure.message : 'taken'})`;
        if (failure === null) taken += 1;
        if (!bySchema) assert.notEqual(failure, null, `the reader takes what the schema refuses: ${what}`);
        else if (!surface.stricter(field, value))
          assert.equal(failure, null, `the reader refuses what the schema allows: ${what}`);
      };
      for (const value of EDGES) agree(value);
      fc.assert(fc.property(VALUE, agree), { seed: 5, numRuns: 200 });
    }
    assert.ok(taken > 3 * Object.keys(surface.fields).length);
  });
}

test('the schemas have every field that the readers know, and no other', () => {
  assert.deepEqual(Object.keys(PARAMETERS).sort(), [...PARAMETER_FIELDS, ...UNSUPPORTED_FIELDS].sort());
  const { served, neutral, refused } = COMPLETION_FIELDS;
  assert.deepEqual(
    Object.keys(COMPLETION).sort(),
    [...served, ...Object.keys(neutral), ...Object.keys(refused)].sort(),
  );
  for (const field of Object.keys(COMPLETION)) {
    assert.doesNotThrow(() => validatorOf(NO_COMPONENTS, COMPLETION[field] ?? {}), field);
  }
});

test('pairs of fields that are each allowed are allowed together, unless a rule of words speaks of them', () => {
  const simple = Object.entries(PARAMETERS).filter(
    ([field]) => !/^(?:adapter|merged|api_token|best_of|seed|truncate|response_format)/.test(field),
  );
  const allowed = simple.flatMap(([field, schema]) => {
    const validate = validatorOf(NO_COMPONENTS, schema);
    return EDGES.filter((value) => validate(value)).map((value) => [field, value] as const);
  });
  const subset = fc.uniqueArray(fc.constantFrom(...allowed), { maxLength: 8, selector: ([field]) => field });
  fc.assert(
    fc.property(subset, (fields) => {
      const body = { inputs: 'x', parameters: Object.fromEntries(fields) };
      parseGenerateBody(body, { streaming: false, maxInputLength: 511, maxBestOf: 2, requestSources: [] });
    }),
    { seed: 6, numRuns: 500 },
  );
});
