import { LoramuxError } from '../../core/errors.js';
import type { JsonObject } from '../fields.js';
import { MAX_TOKENS } from '../openai/common-fields.js';
import { type CompletionCall, type CompletionContext, readCompletionBody } from '../openai/completion-body.js';
import { jobsOf } from '../openai/completion-jobs.js';
import type { Job } from '../openai/runs.js';
import type { RequestOrigin } from '../request-origin.js';
import type { ConstraintMessage, GenerateRequestMessage } from './messages.js';

const MAX_LOGPROBS = 20;

/** A checked request: what OpenAI's completions would make of it, and its jobs. */
export interface GenerateCall {
  readonly call: CompletionCall;
  readonly jobs: readonly Job[];
  readonly tokenIds: boolean;
}

/**
 * Checks a GenerateRequest. It means what the same fields mean in `POST /v1/completions`, whose reader is used; only an
 * unset `max_tokens` stands for all that the model's length leaves. ERR_VALIDATION names the field as the message does.
 */
export function readGenerate(
  message: GenerateRequestMessage,
  context: CompletionContext,
  origin: RequestOrigin,
): GenerateCall {
  const call = inMessageTerms(() => readCompletionBody(bodyOf(message), context));
  const promptLogprobs = message.output?.promptLogprobs;
  if (promptLogprobs !== undefined && promptLogprobs > MAX_LOGPROBS) {
    throw invalid(
      'output.prompt_logprobs',
      `output.prompt_logprobs must be at most ${MAX_LOGPROBS}, got ${promptLogprobs}`,
    );
  }
  const unbounded = message.stopping?.maxTokens === undefined;
  const constraint = call.constraint === null ? null : 'constraint';
  const jobs = jobsOf(call, origin).map((job) => ({
    ...job,
    paths: { prompt: 'input', maxTokens: 'stopping.max_tokens', constraint },
    spec: {
      ...job.spec,
      maxNewTokens: unbounded ? null : job.spec.maxNewTokens,
      promptLogprobs: promptLogprobs === undefined ? null : { top: promptLogprobs },
    },
  }));
  return { call, jobs, tokenIds: message.output?.tokenIds ?? false };
}

function bodyOf(message: GenerateRequestMessage): JsonObject {
  const { sampling = {}, stopping, output, constraint, adapters } = message;
  return {
    model: message.model ?? '',
    prompt: message.tokenIds?.ids ?? message.prompt,
    ...(adapters.length === 0 ? {} : { adapters: adapters.map(({ name, weight }) => ({ id: name ?? '', weight })) }),
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    typical_p: sampling.typicalP,
    repetition_penalty: sampling.repetitionPenalty,
    presence_penalty: sampling.presencePenalty,
    frequency_penalty: sampling.frequencyPenalty,
    seed: sampling.seed === undefined ? undefined : BigInt(sampling.seed),
    n: sampling.n,
    ...(sampling.logitBias === undefined ? {} : { logit_bias: sampling.logitBias }),
    max_tokens: stopping?.maxTokens ?? MAX_TOKENS,
    min_tokens: stopping?.minTokens,
    stop: stopping?.stop ?? [],
    stop_token_ids: stopping?.stopTokenIds ?? [],
    ignore_eos: stopping?.ignoreEos,
    include_stop_str_in_output: stopping?.includeStop,
    skip_special_tokens: output?.specialTokens !== true,
    logprobs: output?.logprobs,
    cache_salt: message.cacheSalt,
    ...constraintOf(constraint),
  };
}

function constraintOf(constraint: ConstraintMessage | undefined): JsonObject {
  if (constraint === undefined) return {};
  const { jsonSchema, jsonObject, regex, choice, grammar } = constraint;
  if (jsonSchema !== undefined) return { structured_outputs: { json: readSchema(jsonSchema) } };
  if (regex !== undefined) return { structured_outputs: { regex } };
  if (choice !== undefined) return { structured_outputs: { choice: choice.choices } };
  if (grammar !== undefined) return { structured_outputs: { grammar } };
  return jsonObject === true ? { structured_outputs: { json_object: true } } : {};
}

function readSchema(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw invalid('constraint.json_schema', `constraint.json_schema must be the JSON text of a schema: ${reason}`);
  }
}

/** Where the message has the fields that the body of completions has at its top. */
const FIELDS: Readonly<Record<string, string>> = {
  prompt: 'input',
  temperature: 'sampling.temperature',
  top_p: 'sampling.top_p',
  top_k: 'sampling.top_k',
  min_p: 'sampling.min_p',
  typical_p: 'sampling.typical_p',
  repetition_penalty: 'sampling.repetition_penalty',
  presence_penalty: 'sampling.presence_penalty',
  frequency_penalty: 'sampling.frequency_penalty',
  seed: 'sampling.seed',
  n: 'sampling.n',
  logit_bias: 'sampling.logit_bias',
  max_tokens: 'stopping.max_tokens',
  min_tokens: 'stopping.min_tokens',
  stop: 'stopping.stop',
  stop_token_ids: 'stopping.stop_token_ids',
  ignore_eos: 'stopping.ignore_eos',
  logprobs: 'output.logprobs',
  structured_outputs: 'constraint',
};

/** The path of a field in the message; `path` is that in the body of completions. */
export function messagePath(path: string): string {
  const [, head = '', rest = ''] = /^([^.[]*)(.*)$/.exec(path) ?? [];
  return `${FIELDS[head] ?? head}${rest}`;
}

/** The same failure with the message's path for the body's, in its text too. */
function inMessageTerms<T>(read: () => T): T {
  try {
    return read();
  } catch (thrown) {
    if (!(thrown instanceof LoramuxError) || thrown.details?.field === undefined) throw thrown;
    const { field } = thrown.details;
    const path = messagePath(field);
    const message = thrown.message.replace(`'${field}'`, path);
    throw new LoramuxError(thrown.code, message, { ...thrown.details, field: path }, { cause: thrown });
  }
}

function invalid(field: string, message: string): LoramuxError {
  return new LoramuxError('ERR_VALIDATION', message, { field });
}
