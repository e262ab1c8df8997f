import type { StepBatch, StepOutput } from '../core/step.js';
import { acceptedDrafts, type StepPlan, sampledRowsOf } from '../scheduler/step-plan.js';

/** Request id and logits [V] of each token that came out for who still waits for it, and whose logits the batch asked for; the logits are views. */
export function* returnedLogits(
  plan: StepPlan,
  { returnLogits }: Pick<StepBatch, 'returnLogits'>,
  { logits, tokens }: StepOutput,
): Generator<readonly [number, Float32Array]> {
  if (logits === null) return;
  const width = logits.length / returnLogits.length;
  let row = 0;
  let index = 0;
  for (const entry of plan.entries) {
    row += entry.scoredCount;
    const sampled = sampledRowsOf(entry);
    const right = acceptedDrafts(entry, tokens, row);
    for (let guessed = 0; guessed < sampled; guessed += 1, row += 1) {
      if (returnLogits[index] !== row) continue;
      if (guessed <= right && !entry.sequence.ended)
        yield [entry.sequence.id, logits.subarray(index * width, (index + 1) * width)];
      index += 1;
    }
  }
}
