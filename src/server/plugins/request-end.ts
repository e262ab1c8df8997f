import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { durationsOf } from '../lorax/headers.js';
import { newFacts, type RequestFacts, routeOf } from '../request-facts.js';

/** A request that is over; `status` is 499 when the client left first. */
export interface RequestEnd {
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
  readonly facts: RequestFacts;
}

export type RequestEndListener = (end: RequestEnd) => void;

const MAX_USER_AGENT = 200;
const MAX_USER = 128;

function statusOf(request: FastifyRequest, reply: FastifyReply): number {
  if (request.facts.upgraded) return 101;
  return reply.raw.writableEnded ? reply.raw.statusCode : 499;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function rounded(milliseconds: number | undefined): number | undefined {
  return milliseconds === undefined ? undefined : Math.round(milliseconds * 100) / 100;
}

/** Fields of the `request.end` line: no prompts, no outputs, no addresses with queries. */
export function logFields(end: RequestEnd, model: string, transport: string): Record<string, unknown> {
  const { route, status, seconds, facts } = end;
  const [result] = facts.results;
  const durations = result === undefined ? null : durationsOf(result);
  return {
    event: 'request.end',
    route,
    transport,
    status,
    code: facts.code ?? undefined,
    model,
    adapter: facts.adapter ?? undefined,
    adapter_digest: facts.servedBy?.digest ?? undefined,
    adapter_tier: facts.servedBy?.tierAtArrival ?? undefined,
    prompt_tokens: result && sum(facts.results.map((each) => each.promptTokens)),
    cached_tokens: result && sum(facts.results.map((each) => each.cachedTokens)),
    completion_tokens: result && sum(facts.results.map((each) => each.generatedTokens)),
    finish_reason: result?.reason,
    stream: facts.stream || undefined,
    n: facts.prompts || undefined,
    queue_ms: rounded(durations?.queue),
    ttft_ms: rounded(durations?.timeToFirstToken),
    tpot_ms: rounded(durations?.timePerOutputToken),
    total_ms: rounded(seconds * 1_000),
    user: facts.user?.slice(0, MAX_USER),
  };
}

function clientFields({ ip, headers, caller }: FastifyRequest): Record<string, unknown> {
  return {
    key: caller.name ?? undefined,
    client_ip: ip,
    user_agent: headers['user-agent']?.slice(0, MAX_USER_AGENT),
    client_request_id: matching(headers['x-client-request-id'], /^[\w.:-]{1,128}$/),
    // OpenAI's clients count their tries.
    retry_count: matching(headers['x-stainless-retry-count'], /^\d{1,3}$/),
  };
}

/** What a client says of itself is logged only if it can be nothing else. */
function matching(value: string | string[] | undefined, form: RegExp): string | undefined {
  return typeof value === 'string' && form.test(value) ? value : undefined;
}

/**
 * Collects facts about every request and, once its connection is done with it, writes one `request.end` line and
 * tells `listener`. The response's own `close` is used because it also comes for streams and for clients that leave.
 */
export function registerRequestEnd(app: FastifyInstance, model: string, listener: RequestEndListener): void {
  app.decorateRequest('facts');
  app.addHook('onRequest', async (request, reply) => {
    request.facts = newFacts();
    reply.header('x-request-id', request.id);
    reply.raw.once('close', () => {
      const seconds = (performance.now() - request.facts.arrivedMs) / 1_000;
      const end = { route: routeOf(request), status: statusOf(request, reply), seconds, facts: request.facts };
      listener(end);
      request.log.info({ ...logFields(end, model, 'http'), ...clientFields(request) }, 'request end');
    });
  });
}
