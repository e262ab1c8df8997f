import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type AdapterConfig, parseAdapterConfig } from '../../../src/adapters/config.js';
import { IGNORED_KEYS, REFUSED_KEYS } from '../../../src/adapters/config-rules.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { fuzzRuns } from '../../helpers/fuzz.js';

const FILE = 'adapter_config.json';
const RUNS = { numRuns: fuzzRuns(2_000) };
/** No part of a hostile file of a few hundred bytes may blow an answer up. */
const LONGEST_MESSAGE = 4_000;

/** The configuration, or null when it was refused as it should be. */
function read(bytes: Uint8Array): AdapterConfig | null {
  try {
    return parseAdapterConfig(bytes, FILE);
  } catch (thrown) {
    assert.ok(thrown instanceof LoramuxError, String(thrown));
    assert.equal(thrown.code, 'ERR_ADAPTER_INVALID');
    assert.ok(thrown.message.startsWith(`${FILE}: `), thrown.message);
    assert.ok(thrown.message.length <= LONGEST_MESSAGE, `a message of ${thrown.message.length} characters`);
    assert.ok((thrown.details?.offenders ?? []).length > 0, 'a refusal names what is wrong');
    return null;
  }
}

/** Whatever was accepted is within the limits that the rest of the loader relies on. */
function assertWithinLimits(config: AdapterConfig): void {
  const isRank = (rank: number): boolean => Number.isInteger(rank) && rank >= 1 && rank <= 256;
  assert.ok(isRank(config.rank), `rank ${config.rank}`);
  assert.ok(Number.isFinite(config.alpha), `alpha ${config.alpha}`);
  for (const flag of [config.rslora, config.dora]) assert.equal(typeof flag, 'boolean');
  for (const [pattern, rank] of config.rankPattern) assert.ok(pattern.length <= 512 && isRank(rank));
  for (const [pattern, alpha] of config.alphaPattern) assert.ok(pattern.length <= 512 && Number.isFinite(alpha));
  for (const selector of [config.targets, config.excludes]) {
    if (selector?.kind === 'names') assert.ok(selector.names.every((name) => name.length <= 512));
    if (selector?.kind === 'pattern') assert.ok(selector.pattern.length <= 512);
  }
  for (const index of config.layers?.indices ?? []) assert.ok(Number.isInteger(index) && index >= 0);
  assert.ok(config.baseModel === null || config.baseModel !== '');
}

function check(text: string | Uint8Array): AdapterConfig | null {
  const config = read(typeof text === 'string' ? new TextEncoder().encode(text) : text);
  if (config !== null) assertWithinLimits(config);
  return config;
}

const number = fc.oneof(
  fc.constantFrom(
    '0',
    '-0',
    '1',
    '8',
    '16',
    '256',
    '257',
    '-1',
    '1.5',
    '1e999',
    '-1e999',
    '1e-400',
    '9007199254740993',
  ),
  fc.constantFrom('4294967296', '18446744073709551616', 'NaN', 'Infinity', '01', '+1', '0x10', '1e'),
  fc.double().map(String),
);
const word = fc.oneof(
  fc.constantFrom(
    'q_proj',
    'all-linear',
    'lm_head',
    'embed_tokens',
    'LORA',
    'CAUSAL_LM',
    'none',
    'all',
    'pissa',
    'eva',
  ),
  fc.constantFrom('', '__proto__', 'constructor', '(a+)+$', '(?P<n>x)', '\\', '\u0000', '\ud800', 'x'.repeat(513)),
  fc.string({ maxLength: 12 }),
);
const quoted = word.map((text) => JSON.stringify(text));
const scalar = fc.oneof(fc.constantFrom('true', 'false', 'null'), number, quoted);
const key = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('r', 'lora_alpha', 'use_dora', 'use_rslora', 'target_modules', 'bias') },
  { weight: 4, arbitrary: fc.constantFrom('rank_pattern', 'alpha_pattern', 'exclude_modules', 'init_lora_weights') },
  { weight: 4, arbitrary: fc.constantFrom('layers_to_transform', 'layers_pattern', 'task_type', 'lora_bias') },
  { weight: 2, arbitrary: fc.constantFrom(...REFUSED_KEYS.keys(), ...IGNORED_KEYS) },
  { weight: 1, arbitrary: word },
);
const list = fc.array(scalar, { maxLength: 4 }).map((items) => `[${items.join(',')}]`);
const object = fc
  .array(fc.tuple(quoted, fc.oneof(scalar, list)), { maxLength: 4 })
  .map((fields) => `{${fields.map(([name, value]) => `${name}:${value}`).join(',')}}`);
const value = fc.oneof({ weight: 3, arbitrary: scalar }, list, object);
const config = fc
  .array(fc.tuple(key, value), { maxLength: 6 })
  .map((fields) => ['"peft_type":"LORA"', ...fields.map(([name, text]) => `${JSON.stringify(name)}:${text}`)])
  .map((fields) => `{${fields.join(',')}}`);
const edit = fc.record({
  at: fc.nat(400),
  remove: fc.nat(6),
  insert: fc.oneof(fc.constant(''), fc.constantFrom(...'{}[]",:\\-e.'), fc.string({ maxLength: 4 })),
});

test('arbitrary bytes are refused, or read within the limits', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => void check(bytes)),
    RUNS,
  );
});

test('arbitrary values of known and unknown keys are refused, or read within the limits', () => {
  let accepted = 0;
  fc.assert(
    fc.property(config, (text) => {
      if (check(text) !== null) accepted += 1;
    }),
    RUNS,
  );
  assert.ok(
    accepted >= RUNS.numRuns / 50,
    `${accepted} of ${RUNS.numRuns} accepted: the generator makes too few good ones`,
  );
});

test('edited configurations are refused, or read within the limits', () => {
  fc.assert(
    fc.property(config, fc.array(edit, { minLength: 1, maxLength: 4 }), (text, edits) => {
      const edited = edits.reduce((current, { at, remove, insert }) => {
        const start = at % (current.length + 1);
        return current.slice(0, start) + insert + current.slice(start + remove);
      }, text);
      check(edited);
    }),
    RUNS,
  );
});
