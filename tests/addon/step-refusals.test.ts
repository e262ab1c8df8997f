import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { RowPenalties, RowSampling, StepBatch } from '../../src/core/step.js';
import { compileRaw, GREEDY, openRaw, promptBatch, type RawEngine } from '../helpers/raw-engine.js';

const ROWS = [5, 6, 7] as const;
const MAX_ROWS = 256;
/** Limits of the engine under test: 8 sequences, 256 rows, 256 positions, 32 blocks of 16. */
const SLOTS = 32 * 16;

let raw: RawEngine;
let expected: number[];

before(async () => {
  raw = await openRaw();
  await compileRaw(raw);
  expected = [...(await raw.engine.step(promptBatch(ROWS))).tokens];
});
after(() => raw.engine.close());

const int = (...values: number[]): Int32Array => Int32Array.from(values);
const rowsOf = (count: number): number[] => Array.from({ length: count }, () => 1);
const sampling = (fields: Partial<RowSampling>): Partial<StepBatch> => ({ sampling: [{ ...GREEDY, ...fields }] });

const twoRows: Partial<StepBatch> = {
  sampling: [GREEDY, GREEDY],
  scoredTokens: int(-1, -1),
  scoredTops: int(0, 0),
};
const NOTHING: Partial<StepBatch> = {
  logitsRows: int(),
  sampling: [],
  scoredTokens: int(),
  scoredTops: int(),
  returnLogits: int(),
};
const penalised = (fields: Partial<RowPenalties>): Partial<StepBatch> => {
  const off = { repetition: 1, presence: 0, frequency: 0, scope: 'output', history: Uint32Array.of(5) } as const;
  return sampling({ penalties: { ...off, promptLength: 1, ...fields } });
};
const biased = (ids: number[], values: number[]): Partial<StepBatch> =>
  sampling({ bias: { ids: Uint32Array.from(ids), values: Float32Array.from(values) } });
const logprobs = (of: string, top: number): Partial<StepBatch> => sampling({ logprobs: { of: of as 'raw', top } });
const scored = (token: number, top: number): Partial<StepBatch> => ({
  sampling: [],
  scoredTokens: int(token),
  scoredTops: int(top),
});

/** What is changed of a good batch, and what the refusal must name. */
const REFUSED: readonly (readonly [what: string, change: Partial<StepBatch>, ...mentions: string[]])[] = [
  ['no rows', { tokens: int(), slotMapping: int() }, 'tokens', `1 to ${MAX_ROWS}`, '0'],
  ['more rows than the batch may have', promptBatch(rowsOf(MAX_ROWS + 1)), 'tokens', `${MAX_ROWS + 1}`],
  ['a token beyond the vocabulary', { tokens: int(5, 280, 7) }, 'tokens', '280'],
  ['a token of a slot that is not there', { tokens: int(5, 6, -9) }, 'tokens', 'slots below 8', '8'],
  ['the least integer as a token', { tokens: int(5, 6, -(2 ** 31)) }, 'tokens', `${2 ** 31 - 1}`],
  ['too few bounds of sequences', { cuSeqlens: int(0) }, 'cuSeqlens', '[0]'],
  ['bounds that end early', { cuSeqlens: int(0, 2) }, 'cuSeqlens', '[0, 2]'],
  ['bounds that begin late', { cuSeqlens: int(1, 3) }, 'cuSeqlens'],
  ['bounds that fall', { cuSeqlens: int(0, 4, 3), contextLens: int(4, 1), blockTables: int(0, 1) }, 'cuSeqlens'],
  ['a negative bound', { cuSeqlens: int(-1, 3) }, 'cuSeqlens'],
  [
    'a sequence without rows',
    { cuSeqlens: int(0, 3, 3), contextLens: int(3, 1), blockTables: int(0, 1) },
    'contextLens',
  ],
  ['no sequences', { cuSeqlens: int(0), contextLens: int(), blockTables: int() }, 'contextLens', '1 to 8', '0'],
  ['too many sequences', { contextLens: new Int32Array(9), blockTables: new Int32Array(9) }, 'contextLens', '9'],
  ['a context shorter than its rows', { contextLens: int(2) }, 'contextLens', 'sequence 0', '2'],
  [
    'a context past the longest',
    { contextLens: int(257), maxBlocks: 17, blockTables: new Int32Array(17) },
    'contextLens',
    '257',
  ],
  ['a negative context', { contextLens: int(-1) }, 'contextLens', '-1'],
  ['a table of the wrong size', { blockTables: int(0, 1) }, 'blockTables', '1 × 1', '2'],
  ['a table too short for its context', { contextLens: int(17) }, 'blockTables', '17 positions', '2 blocks'],
  ['no table', { maxBlocks: 0, blockTables: int() }, 'blockTables'],
  ['a negative table width', { maxBlocks: -1 }, 'blockTables'],
  ['a block that is not there', { blockTables: int(32) }, 'blockTables', 'below 32', '32'],
  ['the pad as a block in use', { blockTables: int(-1) }, 'blockTables', '-1'],
  ['too few slots', { slotMapping: int(0, 1) }, 'slotMapping', '3', '2'],
  ['a slot past the last', { slotMapping: int(0, 1, SLOTS) }, 'slotMapping', `below ${SLOTS}`],
  ['a slot below the pad', { slotMapping: int(0, 1, -2) }, 'slotMapping', '-2'],
  ['one slot for two rows', { slotMapping: int(0, 1, 1) }, 'slotMapping', 'slot 1', 'two rows'],
  ['segments that end early', { segmentIndptr: int(0, 2) }, 'segmentIndptr'],
  ['more bounds than segments', { segmentIndptr: int(0, 1, 3) }, 'segmentIndptr'],
  ['segments that fall', { segmentIndptr: int(0, 4, 3), segmentAdapters: int(-1, -1) }, 'segmentIndptr'],
  ['a segment without an entry', { segmentAdapters: int(0) }, 'segmentAdapters', 'below 0'],
  ['an entry below base', { segmentAdapters: int(-2) }, 'segmentAdapters', '-2'],
  ['a handle never given out', { segmentAdapters: int(0), adapterTable: [[{ adapter: 77, weight: 1 }]] }, '77'],
  [
    'a weight that is not finite',
    { segmentAdapters: int(0), adapterTable: [[{ adapter: 0, weight: Number.NaN }]] },
    'adapterTable',
    'NaN',
  ],
  [
    'a weight beyond float32',
    { segmentAdapters: int(0), adapterTable: [[{ adapter: 0, weight: 1e39 }]] },
    'adapterTable',
    'inf',
  ],
  ['a logits row past the last', { logitsRows: int(3) }, 'logitsRows', 'below 3', '3'],
  ['a negative logits row', { logitsRows: int(-1) }, 'logitsRows', '-1'],
  ['logits rows that fall', { ...twoRows, logitsRows: int(2, 1) }, 'logitsRows', '1'],
  ['one logits row twice', { ...twoRows, logitsRows: int(2, 2) }, 'logitsRows', '2'],
  ['fewer samplings than logits rows', { sampling: [] }, 'sampling', '1', '0'],
  ['more samplings than logits rows', { sampling: [GREEDY, GREEDY] }, 'sampling', '1', '2'],
  ['temperature 0', sampling({ greedy: false, temperature: 0 }), 'sampling.temperature', '0'],
  ['temperature NaN', sampling({ temperature: Number.NaN }), 'sampling.temperature', 'NaN'],
  ['an infinite temperature', sampling({ temperature: Number.POSITIVE_INFINITY }), 'sampling.temperature', 'inf'],
  ['a temperature that is 0 in float32', sampling({ temperature: 1e-60 }), 'sampling.temperature'],
  ['a negative topP', sampling({ topP: -0.5 }), 'sampling.topP', '-0.5'],
  ['a topP above 1', sampling({ topP: 1.5 }), 'sampling.topP', '1.5'],
  ['a minP above 1', sampling({ minP: 1.5 }), 'sampling.minP', '1.5'],
  ['a minP that is no number', sampling({ minP: Number.NaN }), 'sampling.minP', 'NaN'],
  ['a typicalP of 0', sampling({ typicalP: 0 }), 'sampling.typicalP', '0'],
  ['a penalty of 0', penalised({ repetition: 0 }), 'sampling.penalties.repetition'],
  ['an infinite penalty', penalised({ presence: Number.NEGATIVE_INFINITY }), 'sampling.penalties.presence', 'inf'],
  ['a penalty that is no number', penalised({ frequency: Number.NaN }), 'sampling.penalties.frequency', 'NaN'],
  ['a scope that is none', penalised({ scope: 'prompt' as 'output' }), 'sampling.penalties.scope', 'prompt'],
  ['a prompt longer than the history', penalised({ promptLength: 2 }), 'sampling.penalties.promptLength', '1', '2'],
  ['more biases than ids', biased([1], [1, 2]), 'sampling.bias.values', '1', '2'],
  ['a bias that is no number', biased([1], [Number.NaN]), 'sampling.bias.values', 'NaN'],
  ['an infinite bias', biased([1], [Number.POSITIVE_INFINITY]), 'sampling.bias.values', 'inf'],
  ['a bias on an id beyond the vocabulary', biased([280], [1]), 'sampling.bias.ids', 'below 280', '280'],
  ['a bias on one id twice', biased([7, 3, 7], [1, 2, 3]), 'sampling.bias.ids', '7 twice'],
  ['more biases than there are ids', biased(Array(281).fill(5), Array(281).fill(1)), 'sampling.bias.ids', '5 twice'],
  ['log-probabilities of something else', logprobs('mine', 0), 'sampling.logprobs.of', 'mine'],
  ['more alternatives than tokens', logprobs('raw', 281), 'sampling.logprobs.top', '280', '281'],
  ['a negative count of alternatives', logprobs('processed', -1), 'sampling.logprobs.top'],
  ['fewer scores than logits rows', { scoredTokens: int(), scoredTops: int() }, 'scoredTokens', '1', '0'],
  ['counts that no score has', { scoredTops: int(0, 0) }, 'scoredTops', '1', '2'],
  ['a scored token beyond the vocabulary', { ...scored(280, 0) }, 'scoredTokens', 'below 280', '280'],
  ['a scored token below none', { ...scored(-2, 0) }, 'scoredTokens', '-2'],
  ['alternatives to a sampled row', { scoredTops: int(1) }, 'scoredTokens', '1'],
  ['more alternatives to a scored token than there are', scored(5, 281), 'scoredTops', '281'],
  ['a negative count beside a scored token', scored(5, -1), 'scoredTokens', '-1'],
  ['a row both sampled and scored', { ...scored(5, 0), sampling: [GREEDY] }, 'sampling', '0', '1'],
  ['logits of a row that is not there', { returnLogits: int(1) }, 'returnLogits', 'below 1'],
  ['logits of a negative row', { returnLogits: int(-1) }, 'returnLogits'],
  ['logits of one row twice', { returnLogits: int(0, 0) }, 'returnLogits', '0, 0'],
  ['a slot that is not there', sampling({ slot: 8 }), 'sampling.slot', '8'],
  ['a slot below none', sampling({ slot: -2 }), 'sampling.slot', '-2'],
];

describe('a batch that does not add up is refused by the array at fault', () => {
  for (const [what, change, ...mentions] of REFUSED) {
    test(what, async () => {
      await assert.rejects(
        async () => raw.engine.step({ ...promptBatch(ROWS), ...change }),
        (error: unknown) => {
          assert.ok(error instanceof Error);
          assert.equal((error as { code?: unknown }).code, 'ERR_STEP_FAILED', error.message);
          for (const word of mentions) assert.ok(error.message.includes(word), `no ${word} in: ${error.message}`);
          return true;
        },
      );
      const { tokens } = await raw.engine.step(promptBatch(ROWS));
      assert.deepEqual([...tokens], expected, 'the next good batch is answered as ever');
    });
  }
});

test('ids of the history that no token has are ignored', async () => {
  const history = Uint32Array.of(0, 279, 280, 2 ** 32 - 1);
  const penalties = {
    repetition: 1.2,
    presence: 1,
    frequency: 1,
    scope: 'sequence',
    history,
    promptLength: 2,
  } as const;
  const change = sampling({ penalties, banned: history });
  const { tokens } = await raw.engine.step({ ...promptBatch(ROWS), ...change });
  assert.ok((tokens[0] as number) < 279);
});

test('a step without logits rows writes its keys and samples nothing', async () => {
  const output = await raw.engine.step({ ...promptBatch(ROWS), ...NOTHING });
  assert.equal(output.tokens.length, 0);
  assert.deepEqual([...output.top.indptr], [0]);
  assert.equal(output.logits, null);
});

test('the batch is copied: what the caller does to it afterwards changes nothing', async () => {
  const batch = promptBatch(ROWS);
  const step = raw.engine.step(batch);
  batch.tokens.fill(99);
  batch.slotMapping.fill(0);
  assert.deepEqual([...(await step).tokens], expected);
});
