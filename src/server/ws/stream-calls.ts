import type { GenerationEvent, GenerationResult } from '../../generation/spec.js';
import type { JsonObject } from '../fields.js';
import { parseGenerateBody } from '../lorax/generate-body.js';
import { jobOf } from '../lorax/jobs.js';
import { readChatBody } from '../openai/chat-body.js';
import { ChatWriter } from '../openai/chat-choices.js';
import { chatJobs } from '../openai/chat-jobs.js';
import { readCompletionBody } from '../openai/completion-body.js';
import { ChoiceWriter } from '../openai/completion-choices.js';
import { jobsOf } from '../openai/completion-jobs.js';
import type { OpenAiDeps } from '../openai/deps.js';
import { FieldError } from '../openai/errors.js';
import type { ModelChoice } from '../openai/model-name.js';
import { type Job, noteCall, type Run } from '../openai/runs.js';
import type { RequestFacts } from '../request-facts.js';
import type { RequestOrigin } from '../request-origin.js';
import type { StreamApi } from './client-message.js';
import type { TokenPiece } from './outbox.js';

/** What reading the bodies of all three routes takes. */
export type StreamCallDeps = OpenAiDeps;

/** How one choice ended. */
export interface DoneChoice {
  readonly index: number;
  readonly finish_reason: string;
  readonly stop_reason: string | number | null;
}

/** A checked body: what it starts, and how its output is written. */
export interface StreamCall {
  readonly model: ModelChoice;
  readonly jobs: readonly Job[];
  note(facts: RequestFacts): void;
  writerOf(run: Run): StreamWriter;
}

/** Output of one run. */
export interface StreamWriter {
  /** What an event adds. */
  pieces(event: GenerationEvent): readonly TokenPiece[];
  /** The run's choices, after its last event. */
  choices(result: GenerationResult): readonly DoneChoice[];
}

/** Checks the body as the route of `api` does. Throws what that route's reader throws. */
export function readStreamCall(
  api: StreamApi,
  body: JsonObject,
  deps: StreamCallDeps,
  origin: RequestOrigin,
): StreamCall {
  const streamed = { ...body, stream: true };
  switch (api) {
    case 'completions':
      return completionsCall(streamed, deps, origin);
    case 'chat':
      return chatCall(streamed, deps, origin);
    case 'generate':
      return generateCall(body, deps, origin);
  }
}

function completionsCall(body: JsonObject, deps: StreamCallDeps, origin: RequestOrigin): StreamCall {
  const call = readCompletionBody(body, { ...deps, limits: deps.engine.limits });
  refuseRequestId(call.requestId);
  return {
    model: call.model,
    jobs: jobsOf(call, origin),
    note: (facts) => noteCall(facts, call, call.prompts.length * call.n),
    writerOf: (run) => {
      const writer = new ChoiceWriter(call, run);
      return {
        pieces: (event) => {
          const piece = writer.piece(event);
          if (piece === null || (piece.text === '' && piece.logprobs === null && !piece.token_ids?.length)) return [];
          const { text, logprobs, token_ids: tokenIds = [] } = piece;
          return run.job.indexes.map((index) => ({ index, text, tokenIds, logprobs, toolCalls: [] }));
        },
        choices: (result) => plainChoices(run, result),
      };
    },
  };
}

function chatCall(body: JsonObject, deps: StreamCallDeps, origin: RequestOrigin): StreamCall {
  const call = readChatBody(body, { ...deps, limits: deps.engine.limits });
  refuseRequestId(call.requestId);
  return {
    model: call.model,
    jobs: chatJobs(call, origin),
    note: (facts) => noteCall(facts, call, call.n),
    writerOf: (run) => {
      const writer = new ChatWriter(call, run);
      const reasons = new Map<number, string>();
      return {
        pieces: (event) =>
          writer.chunks(event).flatMap((chunk) =>
            chunk.flatMap(({ index, delta, logprobs, finish_reason: reason, token_ids: ids }) => {
              if (reason !== null) {
                reasons.set(index, reason);
                return [];
              }
              const { content = '', tool_calls: toolCalls = [] } = delta as { content?: string; tool_calls?: object[] };
              const tokenIds = (ids ?? []) as readonly number[];
              return [{ index, text: content, tokenIds, logprobs, toolCalls }];
            }),
          ),
        choices: (result) =>
          plainChoices(run, result).map((choice) => ({
            ...choice,
            finish_reason: reasons.get(choice.index) ?? choice.finish_reason,
          })),
      };
    },
  };
}

/** LoRAX's body of one prompt; its text keeps the stop string, and its reasons are LoRAX's. */
function generateCall(body: JsonObject, deps: StreamCallDeps, origin: RequestOrigin): StreamCall {
  const { engine, maxBestOf, requestSources, drawSeed } = deps;
  const maxInputLength = engine.limits.maxModelLen - 1;
  const call = parseGenerateBody(body, { streaming: true, maxBestOf, requestSources, maxInputLength });
  const [prompt] = call.prompts;
  if (prompt === undefined) throw new FieldError('invalid_value', 'inputs', '`inputs` cannot be empty');
  const [spec] = jobOf(origin, prompt, call, drawSeed).specs;
  if (spec === undefined) throw new FieldError('invalid_value', 'inputs', '`inputs` cannot be empty');
  const paths = { prompt: 'inputs', maxTokens: 'parameters.max_new_tokens', constraint: 'parameters.response_format' };
  return {
    model: { shown: prompt.adapter, adapter: prompt.adapter, source: call.origin.kind, digest: null },
    jobs: [{ spec, indexes: [0], promptCounted: false, paths }],
    note: (facts) => {
      facts.generation = true;
      facts.stream = true;
      facts.prompts = 1;
      facts.adapter = prompt.adapter;
    },
    writerOf: () => ({
      pieces: (event) => {
        if (!('delta' in event) || event.token === null) return [];
        const { id, text, logprob } = event.token;
        const logprobs = { tokens: [text], token_logprobs: [logprob] };
        return [{ index: 0, text: event.delta, tokenIds: [id], logprobs, toolCalls: [] }];
      },
      choices: ({ reason, stop }) => [{ index: 0, finish_reason: reason, stop_reason: stop }],
    }),
  };
}

function plainChoices({ job }: Run, { reason, stop }: GenerationResult): readonly DoneChoice[] {
  const finish = reason === 'length' ? 'length' : 'stop';
  return job.indexes.map((index) => ({ index, finish_reason: finish, stop_reason: stop }));
}

/** The id of the message is what names a stream here. */
function refuseRequestId(given: string | null): void {
  if (given === null) return;
  throw new FieldError('unsupported_parameter', 'request_id', "'request_id' is not for streams of a socket: use 'id'");
}
