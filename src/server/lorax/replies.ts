import { BASE_NAME } from '../../core/names.js';
import type { ServedBy } from '../../core/request.js';
import type { Completion } from '../../generation/service.js';
import type { AlternativeToken, GeneratedToken, GenerationResult, PromptToken } from '../../generation/spec.js';
import { shortestFloat32 } from '../float32.js';

// JSON text is made by hand here, so that seeds of 64 bits and the digits of float32 survive.

/** What of a call shapes its replies. */
export interface ReplyOptions {
  readonly prompt: string;
  readonly details: boolean;
  /** Tokens show their alternatives. */
  readonly alternatives: boolean;
  readonly returnFullText: boolean;
  /** `best_of` was above 1: the sequences that were not chosen are shown. */
  readonly manyRuns: boolean;
}

/** One whole generation; `seed` is null when it was greedy. */
export interface Run extends Completion {
  readonly seed: bigint | null;
}

function candidateFields({ id, text, logprob }: AlternativeToken): string {
  // The first token of a prompt has no log-probability.
  const number = Number.isNaN(logprob) ? 'null' : shortestFloat32(logprob);
  return `"id":${id},"text":${JSON.stringify(text)},"logprob":${number}`;
}

function listOf<T>(items: readonly T[], toJson: (item: T) => string): string {
  return `[${items.map(toJson).join(',')}]`;
}

function tokenJson(token: GeneratedToken, { alternatives }: ReplyOptions): string {
  const others = alternatives ? `,"alternative_tokens":${listOf(token.top, (top) => `{${candidateFields(top)}}`)}` : '';
  return `{${candidateFields(token)},"special":${token.special}${others},"skipped":${token.speculated}}`;
}

function generatedText(result: GenerationResult, { prompt, returnFullText }: ReplyOptions): string {
  return JSON.stringify(returnFullText ? prompt + result.text : result.text);
}

/** `prefill` and `tokens`. */
function tokenLists({ prompt, tokens }: Run, options: ReplyOptions): string {
  const prefill = listOf(prompt, (token: PromptToken) => `{${candidateFields(token)}}`);
  return `"prefill":${prefill},"tokens":${listOf(tokens, (token) => tokenJson(token, options))}`;
}

/** Which adapter answered, after LoRAX's own fields; nothing for the base. */
function adapterField({ adapter, digest, tierAtArrival }: ServedBy): string {
  if (adapter === BASE_NAME) return '';
  return `,"adapter":${JSON.stringify({ name: adapter, digest, tier: tierAtArrival })}`;
}

function loserJson(run: Run, options: ReplyOptions): string {
  const { reason, generatedTokens } = run.result;
  return `{"generated_text":${generatedText(run.result, options)},"finish_reason":"${reason}","generated_tokens":${generatedTokens},"seed":${run.seed},${tokenLists(run, options)}}`;
}

/** GenerateResponse as JSON text: of the best run, with the `others` of `best_of` in their order. */
export function generateResponse(best: Run, others: readonly Run[], options: ReplyOptions): string {
  const { result } = best;
  const text = `"generated_text":${generatedText(result, options)}`;
  if (!options.details) return `{${text}}`;
  const { reason, promptTokens, generatedTokens, speculatedTokens, servedBy } = result;
  const counts = `"finish_reason":"${reason}","prompt_tokens":${promptTokens},"generated_tokens":${generatedTokens},"skipped_tokens":${speculatedTokens}`;
  const losers = options.manyRuns ? `,"best_of_sequences":${listOf(others, (run) => loserJson(run, options))}` : '';
  return `{${text},"details":{${counts},"seed":${best.seed},${tokenLists(best, options)}${losers}${adapterField(servedBy)}}}`;
}

/** StreamResponse of a token that is not the last, as JSON text. */
export function tokenEvent(token: GeneratedToken, options: ReplyOptions): string {
  return `{"token":${tokenJson(token, options)},"generated_text":null,"details":null}`;
}

/** StreamResponse of the last token, as JSON text. */
export function finalEvent(
  token: GeneratedToken,
  result: GenerationResult,
  seed: bigint | null,
  options: ReplyOptions,
): string {
  const { reason, promptTokens, generatedTokens, servedBy } = result;
  const details = options.details
    ? `{"finish_reason":"${reason}","prompt_tokens":${promptTokens},"generated_tokens":${generatedTokens},"seed":${seed}${adapterField(servedBy)}}`
    : 'null';
  return `{"token":${tokenJson(token, options)},"generated_text":${generatedText(result, options)},"details":${details}}`;
}
