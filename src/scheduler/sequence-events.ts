import { type ErrorRecord, LoramuxError } from '../core/errors.js';
import type { SequenceEvent, TopLogprobs } from '../core/request.js';
import type { StepOutput } from '../core/step.js';
import type { Sequence } from './sequence.js';

export function errorEvent(id: number, error: ErrorRecord | LoramuxError): SequenceEvent {
  return { kind: 'error', id, error: error instanceof LoramuxError ? error.toRecord() : error };
}

/** A copy of a row's list: it goes to another thread, which must not be sent all of them each time. */
export function topOf({ top: { indptr, ids, logprobs } }: StepOutput, row: number): TopLogprobs {
  const [begin, end] = [indptr[row], indptr[row + 1]];
  return { ids: ids.slice(begin, end), logprobs: logprobs.slice(begin, end) };
}

/** What went wrong with a row's constraint, or null. */
export function failureOf({ failures }: StepOutput, row: number): string | null {
  return failures.find((failure) => failure.row === row)?.message ?? null;
}

/** One row's logits were not finite: that request's trouble alone. */
export function noToken({ request }: Sequence, position: number, failure: string | null = null): LoramuxError {
  if (failure !== null) {
    const message = `the constraint allows no token at position ${position}: ${failure}`;
    return new LoramuxError('ERR_STEP_FAILED', message, { field: 'constraint' });
  }
  return new LoramuxError(
    'ERR_STEP_FAILED',
    `expected finite logits at position ${position}, adapter ${request.adapter} gave none that may be chosen: check its ` +
      'weights and scaling, and what the request forbids',
  );
}
