import { LoramuxError } from '../../core/errors.js';
import { collect, type GenerationService } from '../../generation/service.js';
import type { GenerationResult } from '../../generation/spec.js';
import { type Job, seedOf } from './jobs.js';
import { generateResponse, type Run } from './replies.js';

/** A finished job: what happened, and its reply as JSON text. */
export interface Answer {
  /** Of the best run. */
  readonly result: GenerationResult;
  readonly body: string;
}

/** Runs all jobs side by side. The first failure ends the others and is thrown, naming its prompt in a list. */
export async function answerAll(
  service: GenerationService,
  jobs: readonly Job[],
  controller: AbortController,
): Promise<readonly Answer[]> {
  const answers = jobs.map(async (job, at): Promise<Answer> => {
    try {
      return await answerOne(service, job, controller.signal);
    } catch (thrown) {
      throw jobs.length === 1 ? thrown : atPrompt(thrown, at);
    }
  });
  try {
    return await Promise.all(answers);
  } finally {
    controller.abort();
  }
}

async function answerOne(service: GenerationService, { specs, reply }: Job, signal: AbortSignal): Promise<Answer> {
  const runs = await Promise.all(
    specs.map(async (spec): Promise<Run> => {
      const completion = await collect(await service.start(spec, signal));
      return { ...completion, seed: seedOf(spec) };
    }),
  );
  const best = bestOf(runs);
  const others = runs.filter((run) => run !== best);
  return { result: best.result, body: generateResponse(best, others, reply) };
}

/** The run whose tokens are likeliest on average; the first of several. */
function bestOf(runs: readonly Run[]): Run {
  const [first, ...rest] = runs;
  if (first === undefined) throw new RangeError('a job has at least one run');
  return rest.reduce((best, run) => (meanLogprob(run) > meanLogprob(best) ? run : best), first);
}

function meanLogprob({ tokens }: Run): number {
  return tokens.reduce((total, { logprob }) => total + logprob, 0) / tokens.length;
}

function atPrompt(thrown: unknown, at: number): unknown {
  if (!(thrown instanceof LoramuxError)) return thrown;
  return new LoramuxError(thrown.code, `inputs[${at}]: ${thrown.message}`, thrown.details, { cause: thrown });
}
