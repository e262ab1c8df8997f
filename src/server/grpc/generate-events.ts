import type { GeneratedToken, GenerationEvent, GenerationResult, PromptToken } from '../../generation/spec.js';
import { durationsOf } from '../lorax/headers.js';
import type { Run } from '../openai/runs.js';
import { usageOf } from '../openai/usage.js';
import type { GenerateCall } from './read-generate.js';

/** Tokens of choices as GenerateEvent messages. Keeps count of each choice's deltas. */
export class EventWriter {
  readonly #call: GenerateCall;
  readonly #requestId: string;
  readonly #deltas = new Map<number, number>();
  #accepted = false;
  #promptWritten = false;

  constructor(call: GenerateCall, requestId: string) {
    this.#call = call;
    this.#requestId = requestId;
  }

  /** The messages that one event of a run becomes: none, one, or one for each of the run's choices. */
  messagesOf(run: Run, event: GenerationEvent): readonly object[] {
    switch (event.kind) {
      case 'admitted': {
        if (this.#accepted) return [];
        this.#accepted = true;
        const { digest, tierAtArrival } = event.servedBy;
        const model = this.#call.call.model.shown;
        const servedBy = { digest: digest ?? '', tier: tierAtArrival ?? '' };
        return [{ accepted: { requestId: this.#requestId, model, ...servedBy } }];
      }
      case 'prompt': {
        // All choices have the same prompt.
        if (this.#promptWritten) return [];
        this.#promptWritten = true;
        return [{ prompt: { tokens: event.tokens.map(tokenMessage) } }];
      }
      case 'token':
      case 'finish':
        return this.#deltasOf(run, event.token, event.delta);
    }
  }

  #deltasOf(run: Run, token: GeneratedToken | null, text: string): readonly object[] {
    const { call, tokenIds } = this.#call;
    const scored = token !== null && call.logprobs !== null;
    if (token === null || (text === '' && !scored && !tokenIds)) return [];
    return run.job.indexes.map((index) => {
      const seq = this.#deltas.get(index) ?? 0;
      this.#deltas.set(index, seq + 1);
      const ids = tokenIds ? { tokenIds: [token.id] } : {};
      return { delta: { index, text, seq, ...ids, ...(scored ? { tokens: [tokenMessage(token)] } : {}) } };
    });
  }
}

/** The last message of a call. */
export function doneMessage(finished: readonly { readonly run: Run; readonly result: GenerationResult }[]): object {
  const choices = finished.flatMap(({ run, result }) =>
    run.job.indexes.map((index) => choiceMessage(index, run, result)),
  );
  const usage = usageOf(
    finished.map(({ run: { job }, result: { promptTokens, cachedTokens, generatedTokens } }) => ({
      promptTokens,
      cachedTokens,
      generatedTokens,
      copies: job.indexes.length,
      promptCounted: job.promptCounted,
    })),
  );
  const [first] = finished;
  return {
    done: {
      choices: choices.sort((a, b) => a.index - b.index),
      usage: {
        promptTokens: usage.prompt_tokens,
        completionTokens: usage.completion_tokens,
        cachedPromptTokens: usage.prompt_tokens_details.cached_tokens,
      },
      ...(first === undefined ? {} : { timings: timingsMessage(first.result) }),
    },
  };
}

const REASONS = { eos_token: 'EOS', stop_sequence: 'STOP', length: 'LENGTH' } as const;

function choiceMessage(index: number, { job }: Run, { reason, stop }: GenerationResult): { readonly index: number } {
  const { greedy, seed } = job.spec.sampling;
  const ended = typeof stop === 'string' ? { stop } : stop === null ? {} : { stopTokenId: stop };
  return {
    index,
    ...{ finishReason: stop === null ? REASONS[reason] : 'STOP' },
    ...ended,
    ...(greedy ? {} : { seed: seed.toString() }),
  };
}

function timingsMessage(result: GenerationResult): object {
  const { queue, timeToFirstToken, total } = durationsOf(result);
  return { queue: duration(queue), timeToFirstToken: duration(timeToFirstToken), total: duration(total) };
}

/** google.protobuf.Duration of milliseconds. */
function duration(milliseconds: number): object {
  const nanos = Math.round(Math.max(0, milliseconds) * 1e6);
  return { seconds: Math.floor(nanos / 1e9), nanos: nanos % 1e9 };
}

function tokenMessage({ id, text, logprob, top }: GeneratedToken | PromptToken): object {
  return { id, text, ...(Number.isNaN(logprob) ? {} : { logprob }), top };
}
