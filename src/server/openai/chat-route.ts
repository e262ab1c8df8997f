import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { abortOnClose } from '../abort-on-close.js';
import { originOf } from '../request-origin.js';
import { CHATS } from '../schemas/openai.js';
import { type ChatCall, readChatBody } from './chat-body.js';
import { ChatWriter } from './chat-choices.js';
import { chatJobs } from './chat-jobs.js';
import type { OpenAiDeps } from './deps.js';
import { chunkEnvelope, detailsOf, type Envelope, envelopeOf, fingerprintOf } from './envelope.js';
import { requireBody } from './fields.js';
import { completeHeaders, openingHeaders, wantsDetails } from './reply-headers.js';
import { collectAll, noteFacts, type Run, startAll } from './runs.js';
import { replyWithStream } from './stream-reply.js';
import { usageOf } from './usage.js';

/** `POST /v1/chat/completions`. */
export function registerChat(app: FastifyInstance, deps: OpenAiDeps): void {
  const { limits } = deps.engine;

  app.post('/chat/completions', { config: { doc: CHATS } }, async (request, reply) => {
    requireBody(request.body);
    const call = readChatBody(request.body, { ...deps, limits });
    const id = `chatcmpl-${deps.requestIds.claim(call.requestId, request, reply)}`;
    noteFacts(request, call, call.n);
    const jobs = chatJobs(call, originOf(request));
    const controller = abortOnClose(request, reply, jobs.length);
    const runs = await startAll(deps.generation, jobs, call.model, request.facts, controller);
    return call.stream === null
      ? answer(request, reply, call, id, runs, controller)
      : stream(request, reply, { ...call, stream: call.stream }, id, runs, controller);
  });

  async function answer(
    request: FastifyRequest,
    reply: FastifyReply,
    call: ChatCall,
    id: string,
    runs: readonly Run[],
    controller: AbortController,
  ): Promise<object> {
    const answers = await collectAll(runs, controller);
    const results = answers.map(({ completion }) => completion.result);
    request.facts.results = results;
    reply.headers(completeHeaders(limits, textsOf(call), call.model, results));
    const [first] = results;
    return {
      ...envelope(call, id, 'chat.completion'),
      ...(first === undefined ? {} : { system_fingerprint: fingerprintOf(limits, deps.version, first.servedBy) }),
      choices: answers.flatMap(({ run, completion }) => new ChatWriter(call, run).whole(completion)),
      usage: usageOf(
        answers.map(({ run: { job }, completion: { result } }) => ({
          promptTokens: result.promptTokens,
          generatedTokens: result.generatedTokens,
          cachedTokens: result.cachedTokens,
          copies: job.indexes.length,
          promptCounted: job.promptCounted,
        })),
      ),
      ...call.echoed,
      ...(wantsDetails(request) && first !== undefined ? { loramux: detailsOf(first) } : {}),
    };
  }

  async function stream(
    request: FastifyRequest,
    reply: FastifyReply,
    call: ChatCall & { readonly stream: NonNullable<ChatCall['stream']> },
    id: string,
    runs: readonly Run[],
    controller: AbortController,
  ): Promise<FastifyReply> {
    const writers = new Map(runs.map((run) => [run, new ChatWriter(call, run)]));
    const opening = Array.from({ length: call.n }, (_, index) => [
      { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    ]);
    const source = {
      options: call.stream,
      envelope: chunkEnvelope(envelope(call, id, 'chat.completion.chunk'), () => {
        const { servedBy } = request.facts;
        return servedBy === null ? null : fingerprintOf(limits, deps.version, servedBy);
      }),
      headers: () => openingHeaders(limits, textsOf(call), call.model, request.facts.servedBy),
      opening: () => opening,
      chunksOf: (run, event) => writers.get(run)?.chunks(event) ?? [],
      closing: ([first]) => (wantsDetails(request) && first !== undefined ? { loramux: detailsOf(first) } : null),
    } satisfies Parameters<typeof replyWithStream>[3];
    return replyWithStream(request, reply, runs, source, controller);
  }
}

function envelope(call: ChatCall, id: string, object: string): Envelope {
  return envelopeOf(id, object, call.model.shown);
}

/** Texts of the conversation, for the count of characters. */
function textsOf({ chat }: ChatCall): readonly string[] {
  return chat.messages.flatMap(({ content }) => (typeof content === 'string' ? [content] : []));
}
