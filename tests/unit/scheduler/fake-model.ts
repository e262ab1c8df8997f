import assert from 'node:assert/strict';
import type { GenerateRequest } from '../../../src/core/request.js';
import type { StepBatch, StepOutput } from '../../../src/core/step.js';

/** Ids are 0 … 22: few, so that stop ids come up. */
export const VOCABULARY = 23;

/** The token that follows `tokens` under `adapter`: FNV-1a over both, so that any wrong cell changes it. */
export function nextToken(adapter: number, tokens: Iterable<number>): number {
  let hash = 0x811c9dc5 ^ (adapter + 1);
  for (const token of tokens) hash = Math.imul(hash ^ (token + 1), 0x01000193) >>> 0;
  return (hash >>> 7) % VOCABULARY;
}

/** What a request must answer when nothing else is in the world. */
export function soloRun(
  request: Pick<GenerateRequest, 'promptIds' | 'maxNewTokens' | 'stopIds'>,
  adapter: number,
): { readonly tokens: number[]; readonly reason: 'length' | 'eos_token' } {
  const tokens = [...request.promptIds];
  const output: number[] = [];
  for (;;) {
    const token = nextToken(adapter, tokens);
    tokens.push(token);
    output.push(token);
    if (output.length === request.maxNewTokens) return { tokens: output, reason: 'length' };
    if (request.stopIds.includes(token)) return { tokens: output, reason: 'eos_token' };
  }
}

interface Cell {
  readonly token: number;
  readonly position: number;
  readonly adapter: number;
}

/**
 * A model whose KV cells hold what was fed in, read back through the block tables: a row put in the wrong place, a
 * block shared by two sequences or a stale cell changes the tokens or fails an assertion.
 */
export class FakeModel {
  readonly #cells: (Cell | undefined)[] = [];

  constructor(readonly blockSize: number) {}

  run(batch: StepBatch): StepOutput {
    this.#write(batch, (token, position, adapter) => ({ token, position, adapter }));
    const tokens = Uint32Array.from(batch.logitsRows, (row, index) => {
      const sampling = batch.sampling[index];
      assert.ok(sampling);
      const prefix = this.#read(batch, row);
      assert.equal(sampling.position, prefix.length, 'sampled position');
      if (sampling.repetitionPenalty !== 1) assert.deepEqual([...sampling.history], prefix, 'history');
      return nextToken(adapterOfRow(batch, row), prefix);
    });
    return {
      tokens,
      logprobs: Float32Array.from(tokens, (token) => -token),
      logits: null,
      runSeconds: 0,
      sampleSeconds: 0,
    };
  }

  /** A step that dies half way: its cells are left spoiled. */
  runAndFail(batch: StepBatch): void {
    this.#write(batch, () => undefined);
  }

  #write(batch: StepBatch, cell: (token: number, position: number, adapter: number) => Cell | undefined): void {
    for (let n = 0; n + 1 < batch.cuSeqlens.length; n += 1) {
      const begin = batch.cuSeqlens[n] as number;
      const end = batch.cuSeqlens[n + 1] as number;
      for (let row = begin; row < end; row += 1) {
        const position = (batch.contextLens[n] as number) - (end - row);
        const place = batch.slotMapping[row] as number;
        this.#cells[place] = cell(batch.tokens[row] as number, position, adapterOfRow(batch, row));
      }
    }
  }

  /** Tokens that attention sees from `row`, the last row of its sequence. */
  #read(batch: StepBatch, row: number): number[] {
    const n = batch.cuSeqlens.indexOf(row + 1) - 1;
    assert.ok(n >= 0, 'a sampled row is the last of its sequence');
    return Array.from({ length: batch.contextLens[n] as number }, (_, position) => {
      const block = batch.blockTables[n * batch.maxBlocks + Math.floor(position / this.blockSize)] as number;
      const cell = this.#cells[block * this.blockSize + (position % this.blockSize)];
      assert.ok(cell, `position ${position} has K/V`);
      assert.equal(cell.position, position, 'K/V of the right position');
      assert.equal(cell.adapter, adapterOfRow(batch, row), 'K/V of the right adapter');
      return cell.token;
    });
  }
}

function adapterOfRow(batch: StepBatch, row: number): number {
  const segment = batch.segmentIndptr.findLastIndex((start) => start <= row);
  const entry = batch.segmentAdapters[segment] as number;
  return entry < 0 ? -1 : (batch.adapterTable[entry]?.[0]?.adapter as number);
}
