import type { StepBatch, StepOutput } from '../core/step.js';
import type { StepPlan } from '../scheduler/step-plan.js';

/** Request id and logits [V] of each row whose logits the batch asked for; the logits are views. */
export function* returnedLogits(
  plan: StepPlan,
  { returnLogits }: StepBatch,
  { logits }: StepOutput,
): Generator<readonly [number, Float32Array]> {
  if (logits === null) return;
  const width = logits.length / returnLogits.length;
  let row = 0;
  let index = 0;
  for (const { sequence, scoredCount, samples } of plan.entries) {
    row += scoredCount;
    if (!samples) continue;
    if (returnLogits[index] === row) {
      yield [sequence.id, logits.subarray(index * width, (index + 1) * width)];
      index += 1;
    }
    row += 1;
  }
}
