import { lastSampledBy, NOT_GUESSED, type StepBatch } from '../core/step.js';
import { blocksFor, maxScoredRows, type SchedulerLimits } from './policy.js';
import { type AdapterEntry, BASE_ENTRY, compareEntries } from './row-adapters.js';
import { penalises } from './row-sampling.js';
import type { Sequence } from './sequence.js';
import type { SchedulerSnapshot, SequenceSnapshot } from './snapshot.js';
import { blockAt } from './step-batch.js';
import { type StepPlan, sampledRowsOf } from './step-plan.js';

/** Collects what does not hold, as sentences. */
class Violations {
  readonly list: string[] = [];

  expect(holds: boolean, message: string): void {
    if (!holds) this.list.push(message);
  }

  equal(actual: unknown, expected: unknown, what: string): void {
    this.expect(Object.is(actual, expected), `${what}: expected ${String(expected)}, got ${String(actual)}`);
  }

  equalAll(actual: ArrayLike<number>, expected: readonly number[], what: string): void {
    const same = actual.length === expected.length && expected.every((value, index) => actual[index] === value);
    this.expect(same, `${what}: expected [${expected}], got [${Array.from(actual)}]`);
  }
}

/**
 * What must hold of the scheduler at any moment: blocks and slots are conserved, shared blocks are never written, each
 * sequence has as many blocks as its cache needs and is in exactly one place. Returns the violations; empty when all is well.
 */
export function checkSnapshot(snapshot: SchedulerSnapshot): string[] {
  const violations = new Violations();
  checkBlocks(snapshot, violations);
  checkSlots(snapshot, violations);
  checkPlaces(snapshot, violations);
  for (const sequence of snapshot.running) checkRunning(sequence, snapshot.limits, violations);
  for (const sequence of [...snapshot.waiting, ...snapshot.waitingForAdapter]) checkWaiting(sequence, violations);
  for (const sequence of snapshot.waiting) {
    violations.expect(sequence.adapters !== null, `sequence ${sequence.id} is runnable without an adapter`);
  }
  for (const sequence of snapshot.waitingForAdapter) {
    violations.expect(sequence.adapters === null, `sequence ${sequence.id} waits for an adapter that it has`);
  }
  return violations.list;
}

/**
 * Every block is blank, cached or held, and held as often as there are holders. What more than one may read is never
 * written: shared blocks are full in each of their sequences, and no plan in flight writes to any of them.
 */
function checkBlocks(snapshot: SchedulerSnapshot, violations: Violations): void {
  const { limits, blankBlockIds, cachedBlockIds, blockHolders, usedBlocks, writtenBlocks } = snapshot;
  const holding = snapshot.running.filter(({ id }) => !snapshot.preemptedIds.includes(id));
  const held = [...holding.flatMap(({ blocks }) => blocks), ...snapshot.plannedBlocks, ...snapshot.replacedBlocks];
  const holders = Array.from({ length: limits.kvBlocks }, () => 0);
  for (const block of held) holders[block] = (holders[block] ?? 0) + 1;
  violations.equalAll(blockHolders, holders, 'holders of each block');
  const all = [...new Set(held), ...blankBlockIds, ...cachedBlockIds, ...snapshot.elsewhereIds];
  violations.equalAll(
    all.toSorted((a, b) => a - b),
    Array.from({ length: limits.kvBlocks }, (_, block) => block),
    'blocks held, blank, cached and elsewhere',
  );
  violations.equal(usedBlocks, new Set(held).size, 'used blocks');
  violations.expect(limits.prefixCache || cachedBlockIds.length === 0, 'nothing is cached with the cache off');

  const published = new Set(snapshot.publishedBlockIds);
  violations.equalAll(
    snapshot.publishedBlockIds,
    [
      ...new Set([
        ...cachedBlockIds,
        ...snapshot.plannedBlocks.filter((block) => published.has(block)),
        ...holding.flatMap((sequence) => sequence.published),
      ]),
    ].sort((a, b) => a - b),
    'published blocks are cached or begin a sequence',
  );
  for (const [block, count] of holders.entries()) {
    violations.expect(count <= 1 || published.has(block), `block ${block} has ${count} holders, yet is not published`);
  }
  for (const block of writtenBlocks) {
    violations.expect(holders[block] === 1 && !published.has(block), `block ${block} is shared, yet written to`);
  }
}

function checkSlots(snapshot: SchedulerSnapshot, violations: Violations): void {
  const { maxSequences } = snapshot.limits;
  const taken = snapshot.running.map((sequence) => sequence.slot);
  violations.expect(taken.length <= maxSequences, `at most ${maxSequences} run, got ${taken.length}`);
  violations.equal(new Set(taken).size, taken.length, 'distinct slots');
  violations.equal(taken.length + snapshot.freeSlots, maxSequences, 'taken + free slots');
  violations.expect(
    taken.every((slot) => slot >= 0 && slot < maxSequences),
    `slots are 0 … ${maxSequences - 1}, got [${taken}]`,
  );
}

/** Every live request is in one place, and nothing else is anywhere, save what ended while in flight. */
function checkPlaces(snapshot: SchedulerSnapshot, violations: Violations): void {
  const held = [...snapshot.running, ...snapshot.waiting, ...snapshot.waitingForAdapter];
  const ids = held.map((sequence) => sequence.id);
  violations.equal(new Set(ids).size, ids.length, 'distinct sequences');
  const live = held.filter((sequence) => !sequence.ended).map((sequence) => sequence.id);
  violations.equalAll(
    live.sort((a, b) => a - b),
    [...snapshot.liveIds].sort((a, b) => a - b),
    'sequences held against live requests',
  );
  for (const sequence of held) {
    violations.expect(!sequence.ended || sequence.inFlight, `sequence ${sequence.id} ended, yet is held`);
    violations.expect(
      !sequence.inFlight || snapshot.plansInFlight > 0,
      `sequence ${sequence.id} is in flight without a plan`,
    );
  }
  const admissions = snapshot.running.map((sequence) => sequence.admission);
  violations.equalAll(
    admissions,
    [...admissions].sort((a, b) => a - b),
    'running sequences by admission',
  );
}

function checkRunning(
  sequence: SequenceSnapshot,
  { blockSize, prefixCache }: SchedulerSnapshot['limits'],
  violations: Violations,
): void {
  const { id, computed, settled, prefillLength, length, end, blocks, published, scored, inFlight, ended } = sequence;
  const full = prefixCache ? Math.floor(settled / blockSize) : 0;
  violations.equalAll(published, blocks.slice(0, full), `published blocks of sequence ${id} (${settled} settled)`);
  const cached = Math.max(computed, prefillLength);
  violations.equal(blocks.length, blocksFor(cached, blockSize), `blocks of sequence ${id} (${cached} tokens)`);
  violations.expect(
    ended || scored === null || settled < scored,
    `sequence ${id}: the token after each of ${settled} computed rows has its score, got ${scored}`,
  );
  violations.expect(
    settled <= length && settled <= computed,
    `sequence ${id}: ${settled} settled of ${computed} computed`,
  );
  violations.expect(
    inFlight || (settled === computed && end === length),
    `sequence ${id} awaits what is not in flight`,
  );
  // What ended while in flight keeps what it has, and stands nowhere. The last row of a prompt that is only scored samples nothing.
  if (ended || (inFlight && scored !== null && computed === prefillLength)) return;
  if (computed < prefillLength) violations.equal(length, prefillLength, `length of prefilling sequence ${id}`);
  else violations.equal(computed, end - 1, `computed tokens of decoding sequence ${id}`);
}

function checkWaiting(sequence: SequenceSnapshot, violations: Violations): void {
  const { id, slot, blocks, computed } = sequence;
  violations.expect(
    slot === -1 && blocks.length === 0 && computed === 0,
    `waiting sequence ${id} holds nothing, got slot ${slot}, blocks [${blocks}], ${computed} computed tokens`,
  );
}

/**
 * What must hold of a batch built from `plan` and not yet committed: shapes, row order, and each array saying what
 * the plan says. Returns the violations; empty when all is well.
 */
export function checkBatch(
  batch: StepBatch,
  plan: StepPlan,
  limits: Pick<SchedulerLimits, 'maxBatchTokens' | 'blockSize' | 'vocabSize'>,
): string[] {
  const violations = new Violations();
  violations.expect(
    plan.rows >= 1 && plan.rows <= limits.maxBatchTokens,
    `a step has 1 … ${limits.maxBatchTokens} rows, got ${plan.rows}`,
  );
  violations.equal(batch.tokens.length, plan.rows, 'length of tokens');
  violations.equal(batch.slotMapping.length, plan.rows, 'length of slotMapping');
  violations.equal(new Set(batch.slotMapping).size, plan.rows, 'distinct K/V places written');
  violations.equal(batch.blockTables.length, plan.entries.length * batch.maxBlocks, 'length of blockTables');
  violations.equal(plan.prefillRows + plan.decodeRows, plan.rows, 'prefill + decode rows');
  violations.equal(plan.baseRows + plan.loraRows, plan.rows, 'base + adapter rows');
  const most = maxScoredRows(limits.vocabSize);
  violations.expect(plan.scoredRows <= most, `a step scores at most ${most} rows, got ${plan.scoredRows}`);
  checkEntries(batch, plan, limits.blockSize, violations);
  checkSegments(batch, plan, violations);
  return violations.list;
}

function checkEntries(batch: StepBatch, plan: StepPlan, blockSize: number, violations: Violations): void {
  const cuSeqlens: number[] = [0];
  const contextLens: number[] = [];
  const logitsRows: number[] = [];
  const scoredTokens: number[] = [];
  let sampled = 0;
  let row = 0;
  for (const [index, entry] of plan.entries.entries()) {
    const { sequence, start, count, drafts } = entry;
    const what = `sequence ${sequence.id}`;
    const end = start + count;
    const used = blocksFor(end, blockSize);
    const table = Array.from({ length: batch.maxBlocks }, (_, block) => (block < used ? blockAt(entry, block) : -1));
    const positions = Array.from({ length: count }, (_, offset) => start + offset);
    const [known, { end: reached }] = [sequence.length, sequence];
    violations.expect(
      count > drafts.length && end <= reached + drafts.length,
      `${what}: rows ${start} … ${end} of ${reached}`,
    );
    const { promptIds, maxNewTokens, minNewTokens, choice } = sequence.request;
    const samples = end === reached + drafts.length && maxNewTokens > 0;
    violations.equal(entry.samples, samples, `${what}: sampled when its last token is reached`);
    for (const position of positions) {
      const next = position + 1;
      if (sequence.scores === null || next < sequence.scores.known || next >= promptIds.length) continue;
      logitsRows.push(row + position - start);
      scoredTokens.push(promptIds[next] as number);
    }
    violations.equalAll(
      batch.tokens.subarray(row, row + count),
      positions.map((position) => {
        if (position < known) return sequence.tokenAt(position);
        return position < reached ? lastSampledBy(entry.slot) : (drafts[position - known] as number);
      }),
      `${what}: tokens`,
    );
    violations.equalAll(
      batch.slotMapping.subarray(row, row + count),
      positions.map(
        (position) => (table[Math.floor(position / blockSize)] as number) * blockSize + (position % blockSize),
      ),
      `${what}: slotMapping`,
    );
    violations.equalAll(
      batch.blockTables.subarray(index * batch.maxBlocks, (index + 1) * batch.maxBlocks),
      table,
      `${what}: block table`,
    );
    row += count;
    cuSeqlens.push(row);
    contextLens.push(end);
    violations.expect(drafts.length === 0 || entry.phase === 'decode', `${what}: drafts in decode only`);
    violations.expect(drafts.length === 0 || reached === known, `${what}: drafts behind known tokens only`);
    violations.expect(
      drafts.length === 0 || sequence.generated + drafts.length < maxNewTokens,
      `${what}: ${drafts.length} drafts after ${sequence.generated} of ${maxNewTokens} tokens`,
    );
    for (let guessed = 0; guessed < sampledRowsOf(entry); guessed += 1, sampled += 1) {
      const sampling = batch.sampling[sampled];
      logitsRows.push(row - drafts.length - 1 + guessed);
      scoredTokens.push(-1);
      const position = reached + guessed;
      violations.equal(sampling?.position, position, `${what}: sampled position`);
      violations.equal(sampling?.follows, drafts[guessed - 1] ?? NOT_GUESSED, `${what}: guess that a row stands on`);
      violations.equal(sampling?.slot, entry.slot, `${what}: sampled slot`);
      const history = penalises(sequence.request.sampling) ? position : undefined;
      violations.equal(sampling?.penalties?.history.length, history, `${what}: length of the history`);
      const bans = position - promptIds.length < minNewTokens;
      violations.equal(sampling?.banned, bans ? sequence.stopIds : null, `${what}: banned ids`);
      violations.equal(sampling?.constraint, sequence.constraint, `${what}: constraint`);
      violations.equal(sampling?.choice, choice, `${what}: choice`);
    }
  }
  violations.equalAll(batch.cuSeqlens, cuSeqlens, 'cuSeqlens');
  violations.equalAll(batch.contextLens, contextLens, 'contextLens');
  violations.equalAll(batch.logitsRows, logitsRows, 'logitsRows');
  violations.equalAll(batch.scoredTokens, scoredTokens, 'scoredTokens');
  violations.equal(batch.scoredTops.length, scoredTokens.length, 'length of scoredTops');
  violations.equal(batch.sampling.length, sampled, 'length of sampling');
}

/**
 * Every row runs under what its sequence says for its position; segments are maximal and cover every row; the table
 * holds each entry once; rows of one entry lie together, save base rows at the head of a sequence.
 */
function checkSegments(batch: StepBatch, plan: StepPlan, violations: Violations): void {
  const expected = plan.entries.flatMap(({ sequence, start, count }) =>
    Array.from({ length: count }, (_, offset) => entryAt(sequence, start + offset)),
  );
  const starts = expected.flatMap((entry, row) => (entry.key === expected[row - 1]?.key ? [] : [row]));
  const inForce = starts.map((row) => expected[row] as AdapterEntry);
  const table = [...new Map(inForce.map((entry) => [entry.key, entry])).values()].filter(
    ({ terms }) => terms.length > 0,
  );
  violations.equalAll(batch.segmentIndptr, [...starts, plan.rows], 'segmentIndptr');
  violations.equalAll(
    batch.segmentAdapters,
    inForce.map(({ key }) => table.findIndex((entry) => entry.key === key)),
    'segmentAdapters',
  );
  violations.equal(JSON.stringify(batch.adapterTable), JSON.stringify(table.map(({ terms }) => terms)), 'adapterTable');
  violations.equal(plan.segments.length, starts.length, 'segments');
  const handles = table.flatMap(({ terms }) => terms.map(({ adapter }) => adapter));
  violations.equal(plan.distinctAdapters, new Set(handles).size, 'distinct adapters');
  violations.equal(plan.baseRows, expected.filter(({ terms }) => terms.length === 0).length, 'base rows');
  checkOrder(plan, violations);
}

function entryAt({ adapters }: Sequence, position: number): AdapterEntry {
  return adapters === null || position < adapters.from ? BASE_ENTRY : adapters.entry;
}

function checkOrder(plan: StepPlan, violations: Violations): void {
  for (let index = 1; index < plan.entries.length; index += 1) {
    const [before, entry] = [plan.entries[index - 1], plan.entries[index]];
    if (before === undefined || entry === undefined) continue;
    const what = `sequence ${entry.sequence.id}`;
    const order = compareEntries(before.adapter, entry.adapter);
    violations.expect(order <= 0, `${what}: entries ascend, base first`);
    if (order !== 0) continue;
    const [splitBefore, split] = [before.baseCount > 0, entry.baseCount > 0];
    violations.expect(splitBefore || !split, `${what}: what begins on base rows comes first`);
    if (splitBefore === split) {
      violations.expect(before.admission < entry.admission, `${what}: order within its adapter`);
    }
  }
}
