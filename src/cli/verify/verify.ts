import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AdapterRoots, CONFIG_FILE } from '../../adapters/adapter-directory.js';
import { parseAdapterConfig } from '../../adapters/config.js';
import type { AdapterDtype } from '../../core/adapter.js';
import type { KvDtype, PreparedModel } from '../../core/model-manifest.js';
import { hostBlockBytes } from '../../engine/engine-sizing.js';
import type { WorkerStart } from '../../messages/worker-messages.js';
import type { EngineHooks } from '../../worker/open-engine.js';
import { ANSWER_TOKENS, type VerifyCase, verifyCases } from './cases.js';
import { PrivateEngine } from './private-engine.js';
import { type RoundTally, runRound } from './round.js';
import type { Difference } from './row-check.js';
import { runAlone, runSolo, type SoloRuns, type Subject } from './solo-runs.js';

export interface VerifyOptions {
  readonly model: PreparedModel;
  readonly tokenCount: number;
  /** Folder whose sub-folders are adapters. */
  readonly adapters: string;
  readonly threads: number;
  readonly maxAdapterBytes: number;
  readonly adapterDtype: AdapterDtype;
  readonly kvDtype: KvDtype;
  readonly rounds: number;
  /** Of the first round; the next ones count on from it, so that any round can be repeated by itself. */
  readonly seed: number;
  readonly print: (line: string) => void;
  /** How the command is called again for one seed. */
  readonly commandFor: (seed: number) => string;
  /** Put between the rounds and the native engine, in tests. */
  readonly wrap?: EngineHooks['wrap'];
}

const MAX_SEQUENCES = 8;
/** Small enough that longer prompts take several steps. */
const MAX_BATCH_TOKENS = 24;
const KV_BLOCK_TOKENS = 16;
/** Ids of the requests made outside of rounds begin here. */
const EXTRA_IDS = 2 ** 40;

/**
 * Holds mixed, crowded, interrupted batches against solo runs of the same requests. True when every token was equal,
 * and in float32 every logit, bit for bit. Stops at the first difference. Errors: as `openEngine`.
 */
export async function verify(options: VerifyOptions): Promise<boolean> {
  const { model, print } = options;
  const { manifest } = model;
  const calls = await callsOf(options.adapters);
  const cases = verifyCases(options.tokenCount, manifest.config.maxPositions, calls);
  const alone = await PrivateEngine.open(startOf(options, cases, Number.MAX_SAFE_INTEGER), () => undefined);
  let solo: SoloRuns;
  try {
    solo = await runSolo(alone, cases, budgetFor);
  } finally {
    await alone.close();
  }
  const adapters = solo.subjects.filter(({ directory }) => directory !== '');
  for (const { name, reason } of solo.refused) print(`refused  ${name}: ${reason}`);
  if (adapters.length === 0) {
    print(`nothing to verify: no adapter in ${options.adapters} can be loaded`);
    return false;
  }
  const sum = adapters.reduce((bytes, adapter) => bytes + adapter.bytes, 0);
  const budget = budgetFor(adapters);
  print(`base     ${manifest.modelId}, ${manifest.precision}`);
  print(`adapters ${adapters.length} of ${sum} bytes, with room for ${budget}`);
  if (solo.combinations.length > 0) print(`combined ${solo.combinations.map(({ label }) => label).join('; ')}`);
  print(`alone    ${solo.answers.size} runs of ${ANSWER_TOKENS} tokens`);
  return mixed(options, cases, solo, budget);
}

/** The tokens that call activated adapters of the folder, each once. */
async function callsOf(folder: string): Promise<(readonly number[])[]> {
  const calls = new Map<string, readonly number[]>();
  for (const [, directory] of await new AdapterRoots([folder]).scan()) {
    const path = join(directory, CONFIG_FILE);
    try {
      const { invocation } = parseAdapterConfig(await readFile(path), path);
      if (invocation !== null) calls.set(invocation.join(), invocation);
    } catch {
      // What stands against an adapter is said when it is loaded.
    }
  }
  return [...calls.values()];
}

/** Below the sum of all, so that adapters come and go; the two largest fit side by side where that leaves pressure. */
function budgetFor(subjects: readonly Subject[]): number {
  const adapters = subjects.filter(({ directory }) => directory !== '');
  const sizes = adapters.map(({ bytes }) => bytes).sort((a, b) => b - a);
  const sum = sizes.reduce((bytes, size) => bytes + size, 0);
  const [largest = 1, second = 0] = sizes;
  const pair = largest + second;
  return Math.max(pair < sum ? pair : largest, Math.floor(sum / 4));
}

function startOf(options: VerifyOptions, cases: readonly VerifyCase[], adapterMemoryBytes: number): WorkerStart {
  const { model, tokenCount, adapters, threads, maxAdapterBytes, adapterDtype, kvDtype } = options;
  const { config } = model.manifest;
  const longest = Math.max(...cases.map(({ promptIds }) => promptIds.length)) + ANSWER_TOKENS;
  // A quarter of what all sequences at once could want: some are set back while they run.
  const blocks = Math.ceil(longest / KV_BLOCK_TOKENS) * (MAX_SEQUENCES / 4);
  return {
    model,
    tokenCount,
    adapterRoots: [adapters],
    threads,
    adapterMemoryBytes,
    maxAdapterBytes,
    adapterDtype,
    kvDtype,
    kvMemoryBytes: blocks * hostBlockBytes(config, kvDtype),
    maxModelLen: Math.min(longest, config.maxPositions),
    maxBatchTokens: MAX_BATCH_TOKENS,
    maxPrefillRows: MAX_BATCH_TOKENS,
    maxSequences: MAX_SEQUENCES,
    maxQueue: 1024,
    prefixCache: true,
    speculation: true,
    launchAhead: false,
  };
}

/** Counts of the engine over a round. */
interface Pressure {
  loads: number;
  evictions: number;
  preemptions: number;
  /** Most adapters in one step. */
  distinct: number;
}

async function mixed(
  options: VerifyOptions,
  cases: readonly VerifyCase[],
  solo: SoloRuns,
  budget: number,
): Promise<boolean> {
  const { model, rounds, seed, print } = options;
  const pressure: Pressure = { loads: 0, evictions: 0, preemptions: 0, distinct: 0 };
  const engine = await PrivateEngine.open(
    startOf(options, cases, budget),
    (fact) => {
      if (fact.kind === 'adapter-load') pressure.loads += 1;
      if (fact.kind === 'adapter-evict') pressure.evictions += 1;
      if (fact.kind === 'preemption') pressure.preemptions += 1;
      if (fact.kind === 'step') pressure.distinct = Math.max(pressure.distinct, fact.distinctAdapters);
    },
    options.wrap,
  );
  const compareLogits = model.manifest.precision === 'f32';
  const movingName = freeName(solo.subjects);
  const total: RoundTally = { requests: 0, aborted: 0, combined: 0, reloads: 0, tokens: 0 };
  try {
    const first = solo.subjects.find(({ directory }) => directory !== '') as Subject;
    const source = { type: 'dir', location: first.directory } as const;
    await engine.admin({ op: 'load', name: movingName, source, pin: false, wait: true, replace: true });
    for (let round = 0; round < rounds; round += 1) {
      Object.assign(pressure, { loads: 0, evictions: 0, preemptions: 0, distinct: 0 });
      const firstId = round * 1_000 + 1;
      const options = { engine, cases, solo, compareLogits, movingName, seed: seed + round, firstId };
      const { tally, difference } = await runRound(options);
      print(roundLine(round, rounds, tally, pressure));
      if (difference !== null) {
        await reportDifference(difference, engine, cases, seed + round);
        return false;
      }
      for (const key of ['requests', 'aborted', 'combined', 'reloads', 'tokens'] as const) total[key] += tally[key];
    }
  } finally {
    await engine.close();
  }
  const what = compareLogits ? 'tokens and logits, bit for bit' : 'tokens';
  print(`equal    ${total.tokens} rows of ${total.requests} requests to their solo runs: ${what}`);
  return true;

  async function reportDifference(
    found: Difference,
    running: PrivateEngine,
    all: readonly VerifyCase[],
    roundSeed: number,
  ): Promise<void> {
    const { adapter, digest, caseIndex, position } = found;
    print(`DIFFERENT request to ${adapter} (digest ${digest ?? 'none'}), case ${caseIndex}, token ${position}`);
    print(`  expected ${found.expected}`);
    print(`  found    ${found.found}`);
    const one = all[caseIndex];
    if (found.logits !== null && one !== undefined) print(`  ${await compareAgain(running, found, one)}`);
    print(`repeat with: ${options.commandFor(roundSeed)}`);
    print('  (what arrives when depends on time as well: if it does not come back, repeat it a few times)');
  }
}

/** Runs the request that differed alone on the same engine and says how far its logits were off. */
async function compareAgain(engine: PrivateEngine, found: Difference, one: VerifyCase): Promise<string> {
  const rows: Float32Array[] = [];
  try {
    await runAlone(engine, EXTRA_IDS, found, one, (row) => rows.push(row.slice()));
  } catch (thrown) {
    return `alone it fails now: ${thrown instanceof Error ? thrown.message : String(thrown)}`;
  }
  const [alone, mixedRow] = [rows[found.position], found.logits];
  if (alone === undefined || mixedRow === null) return 'alone it ends earlier now';
  let most = 0;
  let count = 0;
  for (const [token, value] of mixedRow.entries()) {
    const delta = Math.abs(value - (alone[token] as number));
    if (delta !== 0) count += 1;
    most = Math.max(most, delta);
  }
  return `${count} of ${mixedRow.length} logits differ from another solo run, by up to ${most}`;
}

function roundLine(round: number, rounds: number, tally: RoundTally, pressure: Pressure): string {
  return (
    `round    ${round + 1} of ${rounds}: ${tally.requests} requests (${tally.combined} combined, ${tally.aborted} aborted), ${tally.tokens} rows, ` +
    `${tally.reloads} reloads, ${pressure.loads} loads, ${pressure.evictions} evictions, ` +
    `${pressure.preemptions} preemptions, up to ${pressure.distinct} adapters in a step`
  );
}

/** A name that no adapter has. */
function freeName(subjects: readonly Subject[]): string {
  const taken = new Set(subjects.map(({ name }) => name));
  let name = 'verify-moving';
  while (taken.has(name)) name += '-';
  return name;
}
