import type { StepOutput } from '../core/step.js';
import type { StepPlan } from '../scheduler/step-plan.js';

/** Request id and logits [V] of each row that a step sampled from; the logits are views. Nothing if none were asked for. */
export function* sampledLogits(plan: StepPlan, { logits }: StepOutput): Generator<readonly [number, Float32Array]> {
  if (logits === null) return;
  const width = logits.length / plan.sampledRows;
  let row = 0;
  for (const { sequence, samples } of plan.entries) {
    if (!samples) continue;
    yield [sequence.id, logits.subarray(row * width, (row + 1) * width)];
    row += 1;
  }
}
