import cors, { type FastifyCorsOptions } from '@fastify/cors';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/** What pages may read of a reply, beside what every page may: each header of ours. */
const EXPOSED_HEADERS: readonly string[] = [
  ...['x-request-id', 'retry-after', 'retry-after-ms', 'x-should-retry', 'openai-processing-ms'],
  ...['x-loramux-adapter-digest', 'x-loramux-adapter-tier', 'x-adapter-id', 'x-adapter-source', 'x-model-id'],
  ...['x-compute-type', 'x-compute-characters', 'x-compute-time', 'x-total-time', 'x-validation-time'],
  ...['x-queue-time', 'x-inference-time', 'x-time-per-token', 'x-time-to-first-token', 'x-time-per-output-token'],
  ...['x-prompt-tokens', 'x-generated-tokens', 'x-skipped-tokens', 'x-total-tokens'],
];
/** How long browsers may keep the answer to a preflight, in seconds. */
const PREFLIGHT_MAX_AGE = 600;

/**
 * Lets pages of `origins`, or of all with `['*']`, read replies, refusals and streams among them. Preflights carry no
 * key, so this comes before keys are asked for; other OPTIONS requests are refused like any unknown route.
 */
export function registerCors(app: FastifyInstance, origins: readonly string[]): void {
  if (origins.length === 0) return;
  const options: FastifyCorsOptions = {
    origin: [...origins],
    methods: ['GET', 'HEAD', 'POST'],
    exposedHeaders: [...EXPOSED_HEADERS],
    maxAge: PREFLIGHT_MAX_AGE,
  };
  void app.register(cors, {
    delegator: (request: FastifyRequest, done: (error: null, options: FastifyCorsOptions) => void) =>
      done(null, { ...options, preflight: isPreflight(request) }),
  });
}

function isPreflight({ headers }: FastifyRequest): boolean {
  return headers.origin !== undefined && headers['access-control-request-method'] !== undefined;
}
