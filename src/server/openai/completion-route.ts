import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { abortOnClose } from '../abort-on-close.js';
import { originOf } from '../request-origin.js';
import { COMPLETIONS } from '../schemas/openai.js';
import { type CompletionCall, promptTexts, readCompletionBody } from './completion-body.js';
import { bestOf, ChoiceWriter } from './completion-choices.js';
import { jobsOf } from './completion-jobs.js';
import type { OpenAiDeps } from './deps.js';
import { chunkEnvelope, detailsOf, type Envelope, envelopeOf, fingerprintOf } from './envelope.js';
import { requireBody } from './fields.js';
import { completeHeaders, openingHeaders, wantsDetails } from './reply-headers.js';
import { collectAll, noteFacts, type Run, startAll } from './runs.js';
import { replyWithStream } from './stream-reply.js';
import { usageOf } from './usage.js';

/** `POST /v1/completions`. */
export function registerCompletions(app: FastifyInstance, deps: OpenAiDeps): void {
  const { limits } = deps.engine;

  app.post('/completions', { config: { doc: COMPLETIONS } }, async (request, reply) => {
    requireBody(request.body);
    const call = readCompletionBody(request.body, { ...deps, limits });
    const id = `cmpl-${deps.requestIds.claim(call.requestId, request, reply)}`;
    const envelope = envelopeOf(id, 'text_completion', call.model.shown);
    noteFacts(request, call, call.prompts.length * call.n);
    const jobs = jobsOf(call, originOf(request));
    const controller = abortOnClose(request, reply, jobs.length);
    const runs = await startAll(deps.generation, jobs, call.model, request.facts, controller);
    if (call.stream === null) return answer(request, reply, call, envelope, runs, controller);
    const writers = new Map(runs.map((run) => [run, new ChoiceWriter(call, run)]));
    const source = {
      options: call.stream,
      envelope: chunkEnvelope(envelope, () => {
        const { servedBy } = request.facts;
        return servedBy === null ? null : fingerprintOf(limits, deps.version, servedBy);
      }),
      headers: () => openingHeaders(limits, promptTexts(call), call.model, request.facts.servedBy),
      opening: () => [],
      chunksOf: (run, event) => {
        const piece = writers.get(run)?.piece(event) ?? null;
        return piece === null ? [] : run.job.indexes.map((index) => [{ index, ...piece }]);
      },
      closing: ([first]) => (wantsDetails(request) && first !== undefined ? { loramux: detailsOf(first) } : null),
    } satisfies Parameters<typeof replyWithStream>[3];
    return replyWithStream(request, reply, runs, source, controller);
  });

  async function answer(
    request: FastifyRequest,
    reply: FastifyReply,
    call: CompletionCall,
    envelope: Envelope,
    runs: readonly Run[],
    controller: AbortController,
  ): Promise<object> {
    const answers = await collectAll(runs, controller);
    const results = answers.map(({ completion }) => completion.result);
    request.facts.results = results;
    reply.headers(completeHeaders(limits, promptTexts(call), call.model, results));
    const [first] = results;
    return {
      ...envelope,
      ...(first === undefined ? {} : { system_fingerprint: fingerprintOf(limits, deps.version, first.servedBy) }),
      choices: choicesOf(call, answers),
      usage: usageOf(answers.map(countsOf)),
      ...(wantsDetails(request) && first !== undefined ? { loramux: detailsOf(first) } : {}),
    };
  }

  function choicesOf(call: CompletionCall, answers: Answers): readonly object[] {
    const write = ({ run, completion }: Answers[number]): object => new ChoiceWriter(call, run).whole(completion);
    const perPrompt = answers.length / call.prompts.length;
    if (perPrompt <= call.n) {
      const choices = answers.flatMap((each) => {
        const choice = write(each);
        return each.run.job.indexes.map((index) => ({ index, ...choice }));
      });
      return choices;
    }
    return call.prompts.flatMap((_, at) => {
      const candidates = answers.slice(at * perPrompt, (at + 1) * perPrompt);
      return bestOf(candidates, call.n).map((each, rank) => ({ index: at * call.n + rank, ...write(each) }));
    });
  }
}

type Answers = Awaited<ReturnType<typeof collectAll>>;

function countsOf({ run, completion }: Answers[number]): Parameters<typeof usageOf>[0][number] {
  const { promptTokens, cachedTokens, generatedTokens } = completion.result;
  return {
    promptTokens,
    cachedTokens,
    generatedTokens,
    copies: run.job.indexes.length,
    promptCounted: run.job.promptCounted,
  };
}
