import { setMaxListeners } from 'node:events';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import { collect, type GenerationService } from '../../generation/service.js';
import { type GenerationEvent, type GenerationResult, type GenerationSpec, PLAIN_SPEC } from '../../generation/spec.js';
import { type RequestFacts, routeOf } from '../request-facts.js';
import { SseStream } from '../sse.js';
import { errorBody, toLoraxError } from './errors.js';
import { type GenerateCall, MAX_INPUTS, type Prompt, parseGenerateBody } from './generate-body.js';
import { adapterHeaders, countCharacters, modelHeaders, timingHeaders } from './headers.js';
import { deviceType } from './info-route.js';
import { finalEvent, generateResponse, type ReplyOptions, tokenEvent } from './replies.js';
import { type SeedSource, samplingOf } from './sampling.js';

export interface GenerateDeps {
  readonly engine: EngineClient;
  readonly generation: GenerationService;
  readonly drawSeed: SeedSource;
}

/** A prompt of the call, ready to start, and how its reply is shaped. */
interface Job {
  readonly spec: GenerationSpec;
  readonly reply: ReplyOptions;
}

/** `POST /generate`, `POST /generate_stream`, and the two that do either: `POST /` and `POST /invocations`. */
export function registerGenerateRoutes(app: FastifyInstance, deps: GenerateDeps): void {
  const { limits } = deps.engine;

  function readCall(request: FastifyRequest, streaming: boolean | null): GenerateCall {
    request.facts.generation = true;
    request.facts.stream = streaming ?? false;
    if (request.body === undefined) {
      throw new LoramuxError('ERR_BAD_REQUEST', 'Failed to parse the request body as JSON: it is empty');
    }
    const call = parseGenerateBody(request.body, { streaming, maxInputLength: limits.maxModelLen - 1 });
    request.facts.stream = call.streaming;
    request.facts.prompts = call.prompts.length;
    request.facts.adapter = [...new Set(call.prompts.map((prompt) => prompt.adapter))].slice(0, 8).join(',');
    return call;
  }

  function jobOf(route: string, { text, adapter, composition }: Prompt, { parameters, streaming }: GenerateCall): Job {
    const { details, returnFullText, maxNewTokens, stop, truncate } = parameters;
    const sampling = samplingOf(parameters, deps.drawSeed);
    const ignoreEos = parameters.ignoreEosToken;
    const spec = {
      ...PLAIN_SPEC,
      route,
      adapter,
      ...(composition === undefined ? {} : { composition }),
      prompt: { text, addSpecialTokens: true },
      truncate,
      maxNewTokens,
      stop,
      ignoreEos,
      sampling,
      // Every token of a stream carries its log-probability.
      logprobs: details || streaming ? ({ of: 'processed', top: 0 } as const) : null,
    };
    return { spec, reply: { prompt: text, details, returnFullText, seed: sampling.greedy ? null : sampling.seed } };
  }

  function baseHeaders({ prompts }: GenerateCall): Record<string, string> {
    const characters = prompts.reduce((total, prompt) => total + countCharacters(prompt.text), 0);
    return modelHeaders(deviceType(limits), limits.modelId, characters);
  }

  /** The answers to a call, one body for each prompt; headers are set. */
  async function answer(request: FastifyRequest, reply: FastifyReply, call: GenerateCall): Promise<readonly string[]> {
    const jobs = call.prompts.map((prompt) => jobOf(routeOf(request), prompt, call));
    const answers = await answerAll(deps.generation, jobs, abortOnClose(reply));
    const results = answers.map(({ result }) => result);
    request.facts.results = results;
    const [first] = results;
    if (!call.list && first !== undefined) {
      request.facts.servedBy = first.servedBy;
      reply.headers(adapterHeaders(first.servedBy));
    }
    reply.headers({ ...baseHeaders(call), ...timingHeaders(results) }).type('application/json');
    return answers.map(({ body }) => body);
  }

  /** Streams the answer to a call of one prompt. */
  async function stream(request: FastifyRequest, reply: FastifyReply, call: GenerateCall): Promise<FastifyReply> {
    const [prompt] = call.prompts;
    if (prompt === undefined) throw new LoramuxError('ERR_VALIDATION', '`inputs` cannot be empty');
    const job = jobOf(routeOf(request), prompt, call);
    const generation = await deps.generation.start(job.spec, abortOnClose(reply).signal);
    const events = generation[Symbol.asyncIterator]();
    // Until the first token is there, whatever goes wrong still gets its real status.
    const first = await nextText(events, request.facts);
    const { servedBy } = request.facts;
    reply.headers({ ...baseHeaders(call), ...(servedBy === null ? {} : adapterHeaders(servedBy)) });
    reply.hijack();
    await writeStream(request, new SseStream(reply.raw, reply.getHeaders()), job.reply, first, events);
    return reply;
  }

  app.post('/generate', async (request, reply) => {
    const call = readCall(request, false);
    const bodies = await answer(request, reply, call);
    return reply.send(call.list ? listOf(bodies) : bodies[0]);
  });
  app.post('/generate_stream', (request, reply) => stream(request, reply, readCall(request, true)));

  /** As its clients expect, the reply is a list even of one answer. */
  async function either(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const call = readCall(request, null);
    if (call.streaming) return stream(request, reply, call);
    return reply.send(listOf(await answer(request, reply, call)));
  }
  app.post('/', either);
  app.post('/invocations', either);
}

function listOf(bodies: readonly string[]): string {
  return `[${bodies.join(',')}]`;
}

/** Aborts when the connection closes; harmless after a complete reply. */
function abortOnClose(reply: FastifyReply): AbortController {
  const controller = new AbortController();
  // One listener for each prompt of a list is no leak.
  setMaxListeners(MAX_INPUTS, controller.signal);
  reply.raw.once('close', () => controller.abort());
  return controller;
}

/** A finished job: what happened, and its reply as JSON text. */
interface Answer {
  readonly result: GenerationResult;
  readonly body: string;
}

/** Runs all jobs side by side. The first failure ends the others and is thrown, naming its prompt in a list. */
async function answerAll(
  service: GenerationService,
  jobs: readonly Job[],
  controller: AbortController,
): Promise<readonly Answer[]> {
  const answers = jobs.map(async ({ spec, reply }, at): Promise<Answer> => {
    try {
      const completion = await collect(await service.start(spec, controller.signal));
      return { result: completion.result, body: generateResponse(completion, reply) };
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

function atPrompt(thrown: unknown, at: number): unknown {
  if (!(thrown instanceof LoramuxError)) return thrown;
  return new LoramuxError(thrown.code, `inputs[${at}]: ${thrown.message}`, thrown.details, { cause: thrown });
}

type TextEvent = Extract<GenerationEvent, { delta: string }>;

/** The next event with text; notes on the way which adapter answers. */
async function nextText(events: AsyncIterator<GenerationEvent>, facts: RequestFacts): Promise<TextEvent> {
  for (;;) {
    const { value, done } = await events.next();
    if (done === true) throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
    if ('delta' in value) return value;
    if (value.kind === 'admitted') facts.servedBy = value.servedBy;
  }
}

/** Writes the stream to its end: token events, then the final event or one error event. */
async function writeStream(
  request: FastifyRequest,
  stream: SseStream,
  reply: ReplyOptions,
  first: TextEvent,
  events: AsyncIterator<GenerationEvent>,
): Promise<void> {
  try {
    let event = first;
    while (event.kind === 'token') {
      await stream.send(tokenEvent(event.token));
      event = await nextText(events, request.facts);
    }
    request.facts.results = [event.result];
    if (event.token !== null) await stream.send(finalEvent(event.token, event.result, reply));
  } catch (thrown) {
    const failure = toLoraxError(thrown);
    request.facts.code = thrown instanceof LoramuxError ? thrown.code : null;
    if (failure.status === 500) request.log.error({ err: thrown }, 'stream failed');
    stream.sendLast(errorBody(failure));
  } finally {
    stream.end();
    await events.return?.();
  }
}
