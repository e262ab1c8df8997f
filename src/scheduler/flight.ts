import { NO_CONSTRAINT } from '../core/step.js';
import { blocksFor, type SchedulerLimits } from './policy.js';
import { penalises } from './row-sampling.js';
import type { Sequence } from './sequence.js';
import { Speculation } from './speculation.js';
import { blockAt } from './step-batch.js';
import type { StepCost } from './step-cost.js';
import type { PlanEntry, StepPlan } from './step-plan.js';

/** A plan that is not settled yet. */
export interface Flight {
  readonly plan: StepPlan;
  /** Its sequences stand as they will when it is done, save the tokens that it samples: the next plan is made behind it. */
  advanced: boolean;
  /** Those of its admissions that are their sequence's first; known once it has advanced. */
  newcomers: readonly PlanEntry[];
  /** Blocks that its rows read and their sequences have given up meanwhile, to be released after it. */
  readonly replaced: number[];
}

/** What a plan becomes when it is decided. */
export function takeOff(plan: StepPlan): Flight {
  for (const { sequence } of plan.entries) sequence.inFlight += 1;
  for (const sequence of plan.preempted) sequence.inFlight += 1;
  return { plan, advanced: false, newcomers: [], replaced: [] };
}

/**
 * True when the step after `plan` can be decided, and is worth deciding, before the tokens of `plan` are known: no
 * sequence that goes on needs its token on the host, as penalties and constraints do, and none promises drafts, which
 * save more time than waiting costs.
 */
export function mayPlanAhead(plan: StepPlan, limits: SchedulerLimits, cost: StepCost): boolean {
  if (plan.draftRows > 0) return false;
  const goingOn = plan.entries.filter(goesOn).map(({ sequence }) => sequence);
  const speculation = new Speculation(limits, cost, goingOn.length);
  return !goingOn.some((sequence) => needsItsToken(sequence) || speculation.promises(sequence));
}

function goesOn({ sequence, samples }: PlanEntry): boolean {
  return samples && !sequence.ended && sequence.generated + 1 < sequence.request.maxNewTokens;
}

function needsItsToken({ request, constraint }: Sequence): boolean {
  return constraint !== NO_CONSTRAINT || penalises(request.sampling);
}

/** Physical blocks that the rows of a plan go to. */
export function writtenBlocks({ entries }: StepPlan, blockSize: number): number[] {
  return entries.flatMap((entry) => {
    const first = Math.floor(entry.start / blockSize);
    const end = blocksFor(entry.start + entry.count, blockSize);
    return Array.from({ length: end - first }, (_, index) => blockAt(entry, first + index));
  });
}
