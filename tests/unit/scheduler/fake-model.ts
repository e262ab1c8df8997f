import assert from 'node:assert/strict';
import type { GenerateRequest } from '../../../src/core/request.js';
import { NO_TOKEN, NOT_GUESSED, type StepBatch, type StepOutput, type TopLists } from '../../../src/core/step.js';
import { type RowAdapters, rowAdapters } from '../../../src/scheduler/row-adapters.js';

/** Ids are 0 … 22: few, so that stop ids come up. */
export const VOCABULARY = 23;

/** What comes next is, seven times of eight, what came as many tokens ago: text that guesses can be made about. */
const PERIOD = 2;

/** A token and the key of the adapter entry that it ran under. */
interface Fed {
  readonly token: number;
  readonly entry: string;
}

/**
 * The token that follows what was fed: decided by FNV-1a over all of it, so that any wrong cell or entry changes it.
 * `banned` ones make way for the next.
 */
function nextToken(fed: readonly Fed[], banned: ArrayLike<number>): number {
  let hash = 0x811c9dc5;
  const mix = (value: number): void => {
    hash = Math.imul(hash ^ (value + 1), 0x01000193) >>> 0;
  };
  for (const { token, entry } of fed) {
    for (const character of entry) mix(character.charCodeAt(0));
    mix(token);
  }
  const again = (hash & 7) === 0 ? undefined : fed.at(-PERIOD);
  let token = again?.token ?? (hash >>> 7) % VOCABULARY;
  while (Array.from(banned).includes(token)) token = (token + 1) % VOCABULARY;
  return token;
}

/** What a request must answer when nothing else is in the world. */
export function soloRun(
  request: Pick<GenerateRequest, 'promptIds' | 'maxNewTokens' | 'minNewTokens' | 'stopIds'>,
  { entry, from }: RowAdapters,
): { readonly tokens: number[]; readonly reason: 'length' | 'eos_token' } {
  const fed: Fed[] = [];
  const feed = (token: number): void => {
    fed.push({ token, entry: fed.length < from ? '' : entry.key });
  };
  for (const token of request.promptIds) feed(token);
  const output: number[] = [];
  if (request.maxNewTokens === 0) return { tokens: output, reason: 'length' };
  for (;;) {
    const token = nextToken(fed, output.length < request.minNewTokens ? request.stopIds : []);
    feed(token);
    output.push(token);
    if (output.length === request.maxNewTokens) return { tokens: output, reason: 'length' };
    if (request.stopIds.includes(token)) return { tokens: output, reason: 'eos_token' };
  }
}

/** What scoring a prompt must report when nothing else is in the world; NaN for its first token. */
export function soloScores({ promptIds }: Pick<GenerateRequest, 'promptIds'>, { entry, from }: RowAdapters): number[] {
  const fed = Array.from(promptIds, (token, at) => ({ token, entry: at < from ? '' : entry.key }));
  return fed.map(({ token }, at) => (at === 0 ? Number.NaN : scoreAfter(fed.slice(0, at), token)));
}

/** Stands for the log-probability of `token` after what was fed. */
function scoreAfter(fed: readonly Fed[], token: number): number {
  return -(nextToken(fed, []) * VOCABULARY + token);
}

interface Cell extends Fed {
  readonly position: number;
  /** Left behind by a step that failed: what stands on it is worth nothing, and nobody may believe it. */
  readonly spoiled: boolean;
}

/**
 * A model whose KV cells hold what was fed in, read back through the block tables: a row put in the wrong place, a
 * block shared by two sequences or a stale cell changes the tokens or fails an assertion.
 */
export class FakeModel {
  readonly #cells: (Cell | undefined)[] = [];
  /** What each sequence slot sampled last. */
  readonly #lastSampled: number[] = [];

  constructor(readonly blockSize: number) {}

  run(batch: StepBatch): StepOutput {
    this.#write(batch, false);
    const logprobs = new Float32Array(batch.logitsRows.length);
    const samplings = batch.sampling.values();
    let before = NO_TOKEN;
    const tokens = Uint32Array.from(batch.logitsRows, (row, index) => {
      const scored = batch.scoredTokens[index] as number;
      if (scored >= 0) {
        logprobs[index] = scoreAfter(this.#read(batch, row), scored);
        return scored;
      }
      const sampling = samplings.next().value;
      assert.ok(sampling);
      const last = batch.cuSeqlens.includes(row + 1);
      assert.ok(last || batch.logitsRows[index + 1] === row + 1, 'only guessed rows follow a sampled one');
      if (sampling.follows !== NOT_GUESSED && sampling.follows !== before) {
        before = NO_TOKEN;
        return NO_TOKEN;
      }
      const prefix = this.#read(batch, row);
      assert.equal(sampling.position, prefix.length, 'sampled position');
      if (sampling.penalties !== null) {
        assert.deepEqual(
          [...sampling.penalties.history],
          prefix.map(({ token }) => token),
          'history',
        );
      }
      // Not a token that any text goes on with: who takes it is found out.
      const token = prefix.some(({ spoiled }) => spoiled) ? VOCABULARY : nextToken(prefix, sampling.banned ?? []);
      logprobs[index] = -token;
      before = token;
      this.#lastSampled[sampling.slot] = token;
      return token;
    });
    assert.ok(samplings.next().done, 'one sampling for each sampled row');
    return {
      tokens,
      logprobs,
      top: topOf(batch, tokens),
      logits: null,
      failures: [],
      maskSeconds: 0,
      runSeconds: 0,
      sampleSeconds: 0,
    };
  }

  /** A step that dies half way: its cells are left spoiled. */
  runAndFail(batch: StepBatch): void {
    this.#write(batch, true);
    for (const { slot } of batch.sampling) this.#lastSampled[slot] = NO_TOKEN;
  }

  /** Something else lies in a block now. */
  overwrite(block: number): void {
    for (let offset = 0; offset < this.blockSize; offset += 1) this.#cells[block * this.blockSize + offset] = undefined;
  }

  #write(batch: StepBatch, spoiled: boolean): void {
    for (let n = 0; n + 1 < batch.cuSeqlens.length; n += 1) {
      const begin = batch.cuSeqlens[n] as number;
      const end = batch.cuSeqlens[n + 1] as number;
      for (let row = begin; row < end; row += 1) {
        const position = (batch.contextLens[n] as number) - (end - row);
        const place = batch.slotMapping[row] as number;
        const token = this.#tokenOf(batch, row);
        this.#cells[place] = { token, position, entry: entryOfRow(batch, row), spoiled: spoiled || token === NO_TOKEN };
      }
    }
  }

  #tokenOf({ tokens }: StepBatch, row: number): number {
    const token = tokens[row] as number;
    if (token >= 0) return token;
    const last = this.#lastSampled[-token - 1];
    assert.ok(last !== undefined, 'a slot that stands for a token has sampled one');
    return last;
  }

  /** What attention sees from `row`. */
  #read(batch: StepBatch, row: number): Cell[] {
    const n = batch.cuSeqlens.findLastIndex((first) => first <= row);
    const after = (batch.cuSeqlens[n + 1] as number) - row - 1;
    return Array.from({ length: (batch.contextLens[n] as number) - after }, (_, position) => {
      const block = batch.blockTables[n * batch.maxBlocks + Math.floor(position / this.blockSize)] as number;
      const cell = this.#cells[block * this.blockSize + (position % this.blockSize)];
      assert.ok(cell, `position ${position} has K/V`);
      assert.equal(cell.position, position, 'K/V of the right position');
      return cell;
    });
  }
}

/** As many alternatives as were asked for: the token itself, then ids from 0 on. */
function topOf({ sampling, scoredTokens, scoredTops }: StepBatch, tokens: Uint32Array): TopLists {
  const samplings = sampling.values();
  const counts = Array.from(scoredTops, (top, row) =>
    scoredTokens[row] === -1 ? (samplings.next().value?.logprobs?.top ?? 0) : top,
  );
  const lists = counts.map((length, row) =>
    Array.from({ length }, (_, rank) => (rank === 0 ? (tokens[row] as number) : rank - 1)),
  );
  const ids = Uint32Array.from(lists.flat());
  const ends = lists.map((_, row) => lists.slice(0, row + 1).flat().length);
  return { indptr: Int32Array.of(0, ...ends), ids, logprobs: Float32Array.from(ids, (id) => -id) };
}

function entryOfRow(batch: StepBatch, row: number): string {
  const segment = batch.segmentIndptr.findLastIndex((start) => start <= row);
  const entry = batch.segmentAdapters[segment] as number;
  return rowAdapters(batch.adapterTable[entry] ?? []).entry.key;
}
