import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import type { GenerationService } from '../../generation/service.js';
import { abortOnClose } from '../abort-on-close.js';
import { originOf } from '../request-origin.js';
import { eitherDoc, GENERATE, GENERATE_STREAM } from '../schemas/lorax.js';
import { SseStream } from '../sse.js';
import type { RequestSource } from './adapter-origin.js';
import { answerAll } from './answers.js';
import { type GenerateCall, parseGenerateBody } from './generate-body.js';
import { adapterHeaders, countCharacters, modelHeaders, timingHeaders } from './headers.js';
import { deviceType } from './info-route.js';
import { jobOf, seedOf } from './jobs.js';
import { requiredBody } from './required-body.js';
import type { SeedSource } from './sampling.js';
import { nextText, writeStream } from './stream-reply.js';

export interface GenerateDeps {
  readonly engine: EngineClient;
  readonly generation: GenerationService;
  readonly drawSeed: SeedSource;
  /** Largest `best_of`. */
  readonly maxBestOf: number;
  readonly requestSources: readonly RequestSource[];
}

/** `POST /generate`, `POST /generate_stream`, and the two that do either: `POST /` and `POST /invocations`. */
export function registerGenerateRoutes(app: FastifyInstance, deps: GenerateDeps): void {
  const { limits } = deps.engine;

  function readCall(request: FastifyRequest, streaming: boolean | null): GenerateCall {
    request.facts.generation = true;
    request.facts.stream = streaming ?? false;
    const call = parseGenerateBody(requiredBody(request.body), {
      streaming,
      maxBestOf: deps.maxBestOf,
      requestSources: deps.requestSources,
      maxInputLength: limits.maxModelLen - 1,
    });
    request.facts.stream = call.streaming;
    request.facts.prompts = call.prompts.length;
    request.facts.adapter = [...new Set(call.prompts.map((prompt) => prompt.adapter))].slice(0, 8).join(',');
    return call;
  }

  function baseHeaders({ prompts }: GenerateCall): Record<string, string> {
    const characters = prompts.reduce((total, prompt) => total + countCharacters(prompt.text), 0);
    return modelHeaders(deviceType(limits), limits.modelId, characters);
  }

  /** The answers to a call, one body for each prompt; headers are set. */
  async function answer(request: FastifyRequest, reply: FastifyReply, call: GenerateCall): Promise<readonly string[]> {
    const jobs = call.prompts.map((prompt) => jobOf(originOf(request), prompt, call, deps.drawSeed));
    const answers = await answerAll(deps.generation, jobs, abortOnClose(request, reply, 0));
    const results = answers.map(({ result }) => result);
    request.facts.results = results;
    const [first] = results;
    if (!call.list && first !== undefined) {
      request.facts.servedBy = first.servedBy;
      reply.headers(adapterHeaders(first.servedBy, call.origin.kind));
    }
    reply.headers({ ...baseHeaders(call), ...timingHeaders(results) }).type('application/json');
    return answers.map(({ body }) => body);
  }

  /** Streams the answer to a call of one prompt. */
  async function stream(request: FastifyRequest, reply: FastifyReply, call: GenerateCall): Promise<FastifyReply> {
    const [job] = call.prompts.map((prompt) => jobOf(originOf(request), prompt, call, deps.drawSeed));
    const [spec] = job?.specs ?? [];
    if (job === undefined || spec === undefined) throw new LoramuxError('ERR_VALIDATION', '`inputs` cannot be empty');
    const generation = await deps.generation.start(spec, abortOnClose(request, reply, 1).signal);
    const events = generation[Symbol.asyncIterator]();
    // Until the first token is there, whatever goes wrong still gets its real status.
    const first = await nextText(events, request.facts);
    const { servedBy } = request.facts;
    reply.headers({ ...baseHeaders(call), ...(servedBy === null ? {} : adapterHeaders(servedBy, call.origin.kind)) });
    reply.hijack();
    const shape = { reply: job.reply, seed: seedOf(spec) };
    await writeStream(request, new SseStream(reply.raw, reply.getHeaders()), shape, first, events);
    return reply;
  }

  app.post('/generate', { config: { doc: GENERATE } }, async (request, reply) => {
    const call = readCall(request, false);
    const bodies = await answer(request, reply, call);
    return reply.send(call.list ? listOf(bodies) : bodies[0]);
  });
  app.post('/generate_stream', { config: { doc: GENERATE_STREAM } }, (request, reply) =>
    stream(request, reply, readCall(request, true)),
  );

  /** As its clients expect, the reply is a list even of one answer. */
  async function either(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const call = readCall(request, null);
    if (call.streaming) return stream(request, reply, call);
    return reply.send(listOf(await answer(request, reply, call)));
  }
  app.post('/', { config: { doc: eitherDoc('compat_generate') } }, either);
  app.post('/invocations', { config: { doc: eitherDoc('invocations') } }, either);
}

function listOf(bodies: readonly string[]): string {
  return `[${bodies.join(',')}]`;
}
