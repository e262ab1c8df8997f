import { type AdapterTerm, lastSampledBy, type RowSampling, type StepBatch } from '../core/step.js';
import { blocksFor } from './policy.js';
import { BASE_ENTRY } from './row-adapters.js';
import { rowSampling } from './row-sampling.js';
import { type PlanEntry, type Segment, type StepPlan, sampledRowsOf } from './step-plan.js';

/** An int32 array that only ever grows; `view` hands out its front part. */
class GrowableInt32 {
  #data = new Int32Array(64);

  /** A view of `length` elements whose contents are left over from earlier use. Ends the validity of earlier views. */
  view(length: number): Int32Array {
    if (length > this.#data.length) this.#data = new Int32Array(Math.max(length, this.#data.length * 2));
    return this.#data.subarray(0, length);
  }
}

/** Turns plans into step batches. Keeps the arrays: a batch is valid until the next `build`. */
export class StepBatchBuilder {
  readonly #blockSize: number;
  readonly #tokens = new GrowableInt32();
  readonly #cuSeqlens = new GrowableInt32();
  readonly #contextLens = new GrowableInt32();
  readonly #blockTables = new GrowableInt32();
  readonly #slotMapping = new GrowableInt32();
  readonly #segmentIndptr = new GrowableInt32();
  readonly #segmentAdapters = new GrowableInt32();
  readonly #logitsRows = new GrowableInt32();
  readonly #scoredTokens = new GrowableInt32();
  readonly #scoredTops = new GrowableInt32();

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /**
   * Reads the plan and its sequences, changes neither. Segments of one entry share its place in the table.
   * `wantsLogits` tells by request id whose logits come back.
   */
  build(plan: StepPlan, wantsLogits: (requestId: number) => boolean): StepBatch {
    const { entries } = plan;
    const tokens = this.#tokens.view(plan.rows);
    const slotMapping = this.#slotMapping.view(plan.rows);
    const cuSeqlens = this.#cuSeqlens.view(entries.length + 1);
    const contextLens = this.#contextLens.view(entries.length);
    const segmentIndptr = this.#segmentIndptr.view(plan.segments.length + 1);
    const segmentAdapters = this.#segmentAdapters.view(plan.segments.length);
    const adapterTable = fillSegments(segmentIndptr, segmentAdapters, plan.segments);
    const rowsWithLogits = plan.scoredRows + plan.sampledRows;
    const logitsRows = this.#logitsRows.view(rowsWithLogits);
    const scoredTokens = this.#scoredTokens.view(rowsWithLogits).fill(-1);
    const scoredTops = this.#scoredTops.view(rowsWithLogits).fill(0);
    const maxBlocks = this.#widestTable(entries);
    const blockTables = this.#blockTables.view(entries.length * maxBlocks).fill(-1);
    const sampling: RowSampling[] = [];
    const returnLogits: number[] = [];

    let row = 0;
    let logitsRow = 0;
    for (const [index, entry] of entries.entries()) {
      const firstRow = row;
      cuSeqlens[index] = row;
      contextLens[index] = entry.start + entry.count;
      this.#fillTable(blockTables.subarray(index * maxBlocks, (index + 1) * maxBlocks), entry);
      row = this.#fillRows(tokens, slotMapping, row, entry);
      for (let scored = 0; scored < entry.scoredCount; scored += 1) {
        const position = entry.scoredFrom + scored;
        logitsRows[logitsRow] = firstRow + position - entry.start;
        scoredTokens[logitsRow] = entry.sequence.tokenAt(position + 1);
        scoredTops[logitsRow] = entry.sequence.request.promptLogprobs?.top ?? 0;
        logitsRow += 1;
      }
      const sampled = sampledRowsOf(entry);
      for (let guessed = 0; guessed < sampled; guessed += 1) {
        logitsRows[logitsRow] = row - sampled + guessed;
        if (wantsLogits(entry.sequence.id)) returnLogits.push(logitsRow);
        sampling.push(rowSampling(entry.sequence, entry.slot, entry.drafts, guessed));
        logitsRow += 1;
      }
    }
    cuSeqlens[entries.length] = row;

    return {
      tokens,
      cuSeqlens,
      contextLens,
      blockTables,
      maxBlocks,
      slotMapping,
      segmentIndptr,
      segmentAdapters,
      adapterTable,
      logitsRows,
      sampling,
      scoredTokens,
      scoredTops,
      returnLogits: Int32Array.from(returnLogits),
    };
  }

  #widestTable(entries: readonly PlanEntry[]): number {
    let widest = 0;
    for (const entry of entries) widest = Math.max(widest, blocksFor(entry.start + entry.count, this.#blockSize));
    return widest;
  }

  /** Only blocks that attention will read are listed: a prefill may own more. */
  #fillTable(table: Int32Array, entry: PlanEntry): void {
    const used = blocksFor(entry.start + entry.count, this.#blockSize);
    for (let index = 0; index < used; index += 1) table[index] = blockAt(entry, index);
  }

  /** Returns the row after the entry's last one. */
  #fillRows(tokens: Int32Array, slotMapping: Int32Array, firstRow: number, entry: PlanEntry): number {
    const blockSize = this.#blockSize;
    let row = firstRow;
    for (let position = entry.start; position < entry.start + entry.count; position += 1) {
      const offset = position % blockSize;
      tokens[row] = tokenOf(entry, position);
      slotMapping[row] = blockAt(entry, (position - offset) / blockSize) * blockSize + offset;
      row += 1;
    }
    return row;
  }
}

/** Writes the segments' bounds and places in the adapter table, which it returns. */
function fillSegments(
  segmentIndptr: Int32Array,
  segmentAdapters: Int32Array,
  segments: readonly Segment[],
): (readonly AdapterTerm[])[] {
  const adapterTable: (readonly AdapterTerm[])[] = [];
  const places = new Map<string, number>([[BASE_ENTRY.key, -1]]);
  let row = 0;
  for (const [index, { entry, count }] of segments.entries()) {
    let place = places.get(entry.key);
    if (place === undefined) {
      place = adapterTable.length;
      places.set(entry.key, place);
      adapterTable.push(entry.terms);
    }
    segmentIndptr[index] = row;
    segmentAdapters[index] = place;
    row += count;
  }
  segmentIndptr[segments.length] = row;
  return adapterTable;
}

/** A known token; behind those, what the step in flight samples for the sequence, or guessed ones. */
function tokenOf({ sequence, drafts, slot }: PlanEntry, position: number): number {
  const guessed = position - sequence.length;
  if (guessed < 0) return sequence.tokenAt(position);
  return sequence.awaited > 0 ? lastSampledBy(slot) : (drafts[guessed] as number);
}

/** Physical block `index` of the entry's sequence, counting what the plan gives it. */
export function blockAt(entry: PlanEntry, index: number): number {
  const owned = entry.sequence.blocks;
  return (index < owned.length ? owned[index] : entry.newBlocks[index - owned.length]) as number;
}
