import { setTimeout as sleep } from 'node:timers/promises';
import type { ContenderProcess } from './contenders/contender-process.js';
import type { Contender } from './contenders/contenders.js';
import { distinctAdapters, type Job, promptOf } from './contenders/protocol.js';
import type { BenchRecord } from './report/records.js';
import { adaptersOf } from './scenarios/adapter-mix.js';
import type { Cell, Group } from './scenarios/throughput.js';

/** Float32 throughout, adapters as their files have them. */
const REFERENCE = 'loramux f32';
/** What one contender leaves spinning must not reach the next. */
const SETTLE_MS = 100;

export interface Started {
  readonly contender: Contender;
  readonly process: ContenderProcess;
}

export interface ThroughputOptions {
  readonly rounds: number;
  /** Times each contender's own number of timed steps. */
  readonly stepScale: number;
  readonly record: (record: BenchRecord) => void;
  readonly progress: (text: string) => void;
}

function jobOf(cell: Cell, contender: Contender, scale: number): Job {
  return {
    phase: cell.phase,
    adapters: adaptersOf(cell.mix, cell.rank, cell.batch),
    prompts: Array.from({ length: cell.batch }, (_, row) => promptOf(row, cell.promptTokens)),
    steps: cell.phase === 'decode' ? Math.max(2, Math.round(contender.steps * scale)) : 0,
    withoutOperators: cell.withoutOperators,
  };
}

function cellsFor(group: Group, contender: Contender): Cell[] {
  return group.cells.filter(({ by, mix }) => {
    if (contender.kind === 'peer') return by === 'all' && (mix === 'base' || contender.baseOnly !== true);
    return by !== 'reference' || contender.name === REFERENCE;
  });
}

/**
 * Runs the groups `rounds` times. Contenders take turns within each group, in an order that turns round from round to
 * round, and so does the order of cells within a contender's turn: drifts of the machine hit none more than others.
 */
export async function runThroughput(
  groups: readonly Group[],
  started: readonly Started[],
  options: ThroughputOptions,
): Promise<void> {
  const broken = new Set<string>();
  for (let round = 0; round < options.rounds; round += 1) {
    for (const group of groups) {
      options.progress(`round ${round + 1} of ${options.rounds}: ${group.name}`);
      for (const one of round % 2 === 0 ? started : [...started].reverse()) {
        await sleep(SETTLE_MS);
        await runTurn(group, one, round, options, broken);
      }
    }
  }
}

/** One contender's turn at one group. A cell that it fails at is recorded once, and not tried again. */
async function runTurn(
  group: Group,
  { contender, process }: Started,
  round: number,
  { stepScale, record }: ThroughputOptions,
  broken: Set<string>,
): Promise<void> {
  const cells = cellsFor(group, contender);
  const repeats = contender.kind === 'loramux' ? group.repeats : 1;
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    for (const cell of (round + repeat) % 2 === 0 ? cells : [...cells].reverse()) {
      const key = `${contender.name}\n${cell.id}`;
      if (broken.has(key)) continue;
      const job = jobOf(cell, contender, stepScale);
      try {
        const timing = await process.run(job);
        const { id, phase, batch, mix, rank, promptTokens } = cell;
        const distinct = distinctAdapters(job.adapters).length;
        const where = { contender: contender.name, cell: id, phase, batch, mix, rank, promptTokens, distinct };
        record({ kind: 'throughput', ...where, round, repeat, ...timing });
      } catch (error) {
        broken.add(key);
        record({ kind: 'failure', contender: contender.name, cell: cell.id, reason: (error as Error).message });
      }
    }
  }
}
