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
  const sampled = plan.entries.filter(({ samples }) => samples);
  for (const [index, row] of returnLogits.entries()) {
    const id = sampled[row]?.sequence.id;
    if (id !== undefined) yield [id, logits.subarray(index * width, (index + 1) * width)];
  }
}
