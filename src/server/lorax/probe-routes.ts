import type { FastifyInstance } from 'fastify';
import { ANYONE } from '../../core/caller.js';
import { BASE_NAME } from '../../core/names.js';
import { GREEDY_SAMPLING } from '../../core/request.js';
import { collect, type GenerationService } from '../../generation/service.js';
import { PLAIN_SPEC } from '../../generation/spec.js';
import type { Health } from '../health.js';
import { answerHealth } from '../routes/probes.js';
import { STARTUP as STARTUP_DOC } from '../schemas/lorax.js';
import { healthDoc } from '../schemas/operations.js';
import { errorBody, toLoraxError } from './errors.js';

export interface LoraxProbeDeps {
  readonly health: Health;
  readonly generation: GenerationService;
}

/** One token after LoRAX's own prompt. */
const STARTUP = {
  ...PLAIN_SPEC,
  // The server's own: whoever asks learns only whether it worked.
  caller: ANYONE,
  route: '/startup',
  adapter: BASE_NAME,
  prompt: { text: 'Who?', addSpecialTokens: true },
  maxNewTokens: 1,
  sampling: GREEDY_SAMPLING,
} as const;

/** `GET /` (as `/health`) and `GET /startup`, which generates a token through the queue; its failures are a 500. */
export function registerLoraxProbes(app: FastifyInstance, { health, generation }: LoraxProbeDeps): void {
  app.get('/', { config: { doc: healthDoc('root') } }, (_request, reply) => answerHealth(reply, health));
  app.get('/startup', { config: { access: 'infer', doc: STARTUP_DOC } }, async (_request, reply) => {
    const left = new AbortController();
    reply.raw.once('close', () => left.abort());
    try {
      await collect(await generation.start(STARTUP, left.signal));
      return reply.code(200).send();
    } catch (thrown) {
      return reply
        .code(500)
        .type('application/json')
        .send(errorBody(toLoraxError(thrown)));
    }
  });
}
