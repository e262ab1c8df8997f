import type { Completion } from '../../generation/service.js';
import type { GeneratedToken, GenerationEvent, GenerationResult, PromptToken } from '../../generation/spec.js';
import type { CompletionCall } from './completion-body.js';
import { type CompletionLogprobs, LogprobWriter } from './completion-logprobs.js';
import { finishReason } from './envelope.js';
import type { Run } from './runs.js';

/** A part of a choice, or all of it, without its index. */
interface ChoicePart {
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  readonly finish_reason: 'stop' | 'length' | null;
  readonly stop_reason: string | number | null;
  readonly prompt_token_ids?: readonly number[];
  readonly token_ids?: readonly number[];
}

/** Makes the choices of one run: all at once, or piece by piece from its events. */
export class ChoiceWriter {
  readonly #call: CompletionCall;
  readonly #run: Run;
  readonly #logprobs: LogprobWriter;
  #opened = false;

  /** Prompt and tokenizer are read with the first event: only then is it certain which were used. */
  constructor(call: CompletionCall, run: Run) {
    this.#call = call;
    this.#run = run;
    const isHidden = (id: number): boolean => call.skipSpecialTokens && run.generation.text.tokenizer.isSpecial(id);
    this.#logprobs = new LogprobWriter({ tokensAsIds: call.tokensAsIds, isHidden });
  }

  /** A whole choice. */
  whole({ result, prompt, tokens }: Completion): ChoicePart {
    return this.#part(this.#call.echo ? prompt : [], tokens, result.text, result);
  }

  /** What an event adds; null when that is nothing. */
  piece(event: GenerationEvent): ChoicePart | null {
    switch (event.kind) {
      case 'admitted':
        return null;
      case 'prompt':
        return this.#call.echo ? this.#part(event.tokens, [], '', null) : null;
      case 'token': {
        const { logprobs, returnTokenIds } = this.#call;
        const isSilent = event.delta === '' && logprobs === null && !returnTokenIds;
        return isSilent ? null : this.#part([], [event.token], event.delta, null);
      }
      case 'finish':
        return this.#part([], event.token === null ? [] : [event.token], event.delta, event.result);
    }
  }

  #part(
    prompt: readonly PromptToken[],
    tokens: readonly GeneratedToken[],
    text: string,
    result: GenerationResult | null,
  ): ChoicePart {
    const { logprobs, returnTokenIds } = this.#call;
    const isFirst = !this.#opened;
    this.#opened = true;
    const echo = isFirst && this.#call.echo ? echoOf(this.#run) : '';
    const scores = logprobs === null ? null : this.#scores(prompt, tokens, isFirst ? echo : null);
    return {
      text: echo + text,
      logprobs: scores,
      finish_reason: result === null ? null : finishReason(result.reason),
      stop_reason: result?.stop ?? null,
      ...(returnTokenIds && isFirst ? { prompt_token_ids: [...this.#run.generation.request.promptIds] } : {}),
      ...(returnTokenIds ? { token_ids: tokens.map(({ id }) => id) } : {}),
    };
  }

  /** `echo` is null after the first part. */
  #scores(prompt: readonly PromptToken[], tokens: readonly GeneratedToken[], echo: string | null): CompletionLogprobs {
    const before = this.#logprobs.write(prompt);
    if (echo !== null) this.#logprobs.startAfter(echo);
    const after = this.#logprobs.write(tokens);
    return {
      tokens: [...before.tokens, ...after.tokens],
      token_logprobs: [...before.token_logprobs, ...after.token_logprobs],
      top_logprobs: [...before.top_logprobs, ...after.top_logprobs],
      text_offset: [...before.text_offset, ...after.text_offset],
    };
  }
}

/** The prompt as it came, or the text of what is left of it. */
function echoOf({ job: { spec }, generation: { request, text } }: Run): string {
  if ('text' in spec.prompt && spec.truncate === null) return spec.prompt.text;
  return text.tokenizer.decode(request.promptIds, spec.skipSpecialTokens);
}

/** Mean log-probability of an answer's tokens. */
function meanLogprob({ tokens }: Completion): number {
  return tokens.reduce((total, { logprob }) => total + logprob, 0) / Math.max(1, tokens.length);
}

/** The `count` best of one prompt's answers, best first; the earlier on a tie. */
export function bestOf<T extends { readonly completion: Completion }>(
  answers: readonly T[],
  count: number,
): readonly T[] {
  const ranked = answers.map((answer) => ({ answer, mean: meanLogprob(answer.completion) }));
  return ranked
    .sort((a, b) => b.mean - a.mean)
    .slice(0, count)
    .map(({ answer }) => answer);
}
