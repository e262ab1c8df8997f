import type { FastifyRequest } from 'fastify';
import { LoramuxError } from '../../core/errors.js';
import type { Generation } from '../../generation/generation.js';
import { type Completion, collect, type GenerationService } from '../../generation/service.js';
import type { GenerationEvent, GenerationSpec } from '../../generation/spec.js';
import type { RequestFacts } from '../request-facts.js';
import type { CommonCall } from './common-fields.js';
import { checkDigest, type ModelChoice } from './model-name.js';

/** One generation of a request, and the choices that its output becomes: several when all would be the same. */
export interface Job {
  readonly spec: GenerationSpec;
  /** Of the choices in the reply. */
  readonly indexes: readonly number[];
  /** Another job of the request has the same prompt, and counts it. */
  readonly promptCounted: boolean;
  /** Body fields that errors of the generation are about. */
  readonly paths: JobPaths;
}

export interface JobPaths {
  /** As `prompt[3]` or `messages`. */
  readonly prompt: string;
  /** Of the limit of new tokens. */
  readonly maxTokens: string;
  /** As `response_format`; null without a constraint. */
  readonly constraint: string | null;
}

/** A job under way. Iterate `events` once; its errors name the body's fields. */
export interface Run {
  readonly job: Job;
  readonly generation: Generation;
  readonly events: AsyncIterable<GenerationEvent>;
}

/**
 * Submits all jobs of a request. The first that is refused ends the others and is thrown; errors name the body's own
 * fields. `facts` learns who answers.
 */
export async function startAll(
  service: GenerationService,
  jobs: readonly Job[],
  model: ModelChoice,
  facts: RequestFacts,
  controller: AbortController,
): Promise<readonly Run[]> {
  const starts = jobs.map(async (job): Promise<Run> => {
    try {
      const generation = await service.start(job.spec, controller.signal);
      return { job, generation, events: watched(generation, job, model, facts) };
    } catch (thrown) {
      throw inBodysTerms(thrown, job.paths);
    }
  });
  return orAbort(Promise.all(starts), controller);
}

/** Reads all runs to their ends. The first failure ends the others and is thrown. */
export async function collectAll(
  runs: readonly Run[],
  controller: AbortController,
): Promise<readonly { readonly run: Run; readonly completion: Completion }[]> {
  const completions = runs.map(async (run) => ({ run, completion: await collect(run.events) }));
  return orAbort(Promise.all(completions), controller);
}

async function orAbort<T>(work: Promise<T>, controller: AbortController): Promise<T> {
  try {
    return await work;
  } catch (thrown) {
    controller.abort();
    throw thrown;
  }
}

/** The events as they come, once it is certain that the right adapter answers. */
function watched(
  generation: Generation,
  job: Job,
  model: ModelChoice,
  facts: RequestFacts,
): AsyncIterable<GenerationEvent> {
  const fail = (thrown: unknown): never => {
    throw inBodysTerms(thrown, job.paths);
  };
  const see = (result: IteratorResult<GenerationEvent>): IteratorResult<GenerationEvent> => {
    if (result.done === true || result.value.kind !== 'admitted') return result;
    const { servedBy } = result.value;
    try {
      checkDigest(model, servedBy);
    } catch (thrown) {
      generation.abort();
      return fail(thrown);
    }
    facts.servedBy = servedBy;
    return result;
  };
  return {
    [Symbol.asyncIterator]: () => {
      const events = generation[Symbol.asyncIterator]();
      return {
        next: () => events.next().then(see, fail),
        return: () => {
          generation.abort();
          return Promise.resolve({ value: undefined, done: true });
        },
      };
    },
  };
}

/** The same error with the field's name as the body of an OpenAI request has it. */
function inBodysTerms(thrown: unknown, paths: JobPaths): unknown {
  if (!(thrown instanceof LoramuxError)) return thrown;
  const names: Readonly<Record<string, string | null>> = {
    inputs: paths.prompt,
    prompt: paths.prompt,
    max_new_tokens: paths.maxTokens,
    constraint: paths.constraint,
  };
  const { code, message, details } = thrown;
  const field = (details?.field === undefined ? null : names[details.field]) ?? null;
  return field === null ? thrown : new LoramuxError(code, message, { ...details, field }, { cause: thrown });
}

/** Notes what a request asks for, for its log line. */
export function noteFacts({ facts }: FastifyRequest, call: CommonCall, choices: number): void {
  noteCall(facts, call, choices);
}

/** The same for calls that come another way. */
export function noteCall(facts: RequestFacts, { model, stream, user, n }: CommonCall, choices: number): void {
  facts.generation = true;
  facts.stream = stream !== null;
  facts.prompts = choices;
  facts.choices = n;
  facts.adapter = model.adapter;
  facts.user = user;
}
