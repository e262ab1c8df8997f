import type { Completion } from '../../generation/service.js';
import type { GeneratedToken, GenerationResult } from '../../generation/spec.js';
import { shortestFloat32 } from '../float32.js';

/** What of a call shapes its replies. */
export interface ReplyOptions {
  readonly prompt: string;
  readonly details: boolean;
  readonly returnFullText: boolean;
  /** null when greedy. Kept as BigInt: JSON text is made by hand so that 64 bits survive. */
  readonly seed: bigint | null;
}

function tokenJson({ id, text, special, logprob }: GeneratedToken): string {
  return `{"id":${id},"text":${JSON.stringify(text)},"logprob":${shortestFloat32(logprob)},"special":${special},"skipped":false}`;
}

function generatedText(result: GenerationResult, { prompt, returnFullText }: ReplyOptions): string {
  return JSON.stringify(returnFullText ? prompt + result.text : result.text);
}

function countsJson({ reason, promptTokens, generatedTokens }: GenerationResult): string {
  return `"finish_reason":"${reason}","prompt_tokens":${promptTokens},"generated_tokens":${generatedTokens}`;
}

/** GenerateResponse as JSON text. */
export function generateResponse({ result, tokens }: Completion, options: ReplyOptions): string {
  const text = `"generated_text":${generatedText(result, options)}`;
  if (!options.details) return `{${text}}`;
  const list = tokens.map(tokenJson).join(',');
  return `{${text},"details":{${countsJson(result)},"skipped_tokens":0,"seed":${options.seed},"prefill":[],"tokens":[${list}]}}`;
}

/** StreamResponse of a token that is not the last, as JSON text. */
export function tokenEvent(token: GeneratedToken): string {
  return `{"token":${tokenJson(token)},"generated_text":null,"details":null}`;
}

/** StreamResponse of the last token, as JSON text. */
export function finalEvent(token: GeneratedToken, result: GenerationResult, options: ReplyOptions): string {
  const details = options.details ? `{${countsJson(result)},"seed":${options.seed}}` : 'null';
  return `{"token":${tokenJson(token)},"generated_text":${generatedText(result, options)},"details":${details}}`;
}
