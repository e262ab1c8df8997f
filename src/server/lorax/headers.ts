import { BASE_NAME } from '../../core/names.js';
import type { ServedBy } from '../../core/request.js';
import type { GenerationResult } from '../../generation/spec.js';

export type Headers = Record<string, string>;

/** Unicode scalar values in `text`. */
export function countCharacters(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** Headers known before the first token. What a header cannot hold of a model's name shows as `?`. */
export function modelHeaders(device: string, modelId: string, characters: number): Headers {
  return {
    'x-compute-type': device,
    'x-compute-characters': String(characters),
    'x-model-id': modelId.replace(/[^\x20-\x7e]/gu, '?'),
  };
}

/** Who answered, and where the request looked for it; empty for the base model. */
export function adapterHeaders({ adapter, digest, tierAtArrival }: ServedBy, source = 'local'): Headers {
  if (adapter === BASE_NAME) return {};
  return {
    'x-adapter-id': adapter,
    'x-adapter-source': source,
    ...(digest === null ? {} : { 'x-loramux-adapter-digest': digest }),
    ...(tierAtArrival === null ? {} : { 'x-loramux-adapter-tier': tierAtArrival }),
  };
}

/** Durations of one generation in milliseconds. Null moments count as the next one that was reached. */
export interface Durations {
  readonly validation: number;
  readonly queue: number;
  readonly inference: number;
  readonly timeToFirstToken: number;
  /** Mean over the tokens after the first. */
  readonly timePerOutputToken: number;
  readonly total: number;
}

export function durationsOf({ times, generatedTokens }: GenerationResult): Durations {
  const admittedMs = times.admittedMs ?? times.endedMs;
  const firstTokenMs = times.firstTokenMs ?? times.endedMs;
  return {
    validation: times.submittedMs - times.receivedMs,
    queue: admittedMs - times.submittedMs,
    inference: times.endedMs - admittedMs,
    timeToFirstToken: firstTokenMs - admittedMs,
    timePerOutputToken: (times.endedMs - firstTokenMs) / Math.max(generatedTokens - 1, 1),
    total: times.endedMs - times.receivedMs,
  };
}

function sum(results: readonly GenerationResult[], of: (result: GenerationResult) => number): number {
  return results.reduce((total, result) => total + of(result), 0);
}

function longest(results: readonly GenerationResult[], of: (durations: Durations) => number): number {
  return Math.max(...results.map((result) => of(durationsOf(result))));
}

/**
 * Timing and token-count headers in whole milliseconds. Of several generations of one call the counts add up and
 * each duration is the longest.
 */
export function timingHeaders(results: readonly GenerationResult[]): Headers {
  const generated = sum(results, (result) => result.generatedTokens);
  const prompt = sum(results, (result) => result.promptTokens);
  const total = longest(results, (durations) => durations.total);
  const inference = longest(results, (durations) => durations.inference);
  const longestAnswer = Math.max(...results.map((result) => result.generatedTokens));
  const milliseconds = {
    'x-compute-time': total,
    'x-total-time': total,
    'x-validation-time': longest(results, (durations) => durations.validation),
    'x-queue-time': longest(results, (durations) => durations.queue),
    'x-inference-time': inference,
    'x-time-per-token': inference / longestAnswer,
    'x-time-to-first-token': longest(results, (durations) => durations.timeToFirstToken),
    'x-time-per-output-token': longest(results, (durations) => durations.timePerOutputToken),
    'x-prompt-tokens': prompt,
    'x-generated-tokens': generated,
    'x-skipped-tokens': sum(results, (result) => result.speculatedTokens),
    'x-total-tokens': prompt + generated,
  };
  return Object.fromEntries(Object.entries(milliseconds).map(([name, value]) => [name, String(Math.trunc(value))]));
}
