import type { FastifyInstance } from 'fastify';
import { routesOf } from '../base-app.js';
import { type LeftOut, registerErrors, registerMethodNotAllowed } from '../plugins/errors.js';
import { baseNames } from './base-names.js';
import { registerChat } from './chat-route.js';
import { registerCompletions } from './completion-route.js';
import type { OpenAiDeps, OpenAiSettings } from './deps.js';
import { registerModels } from './models-route.js';
import { processingHeader } from './reply-headers.js';
import { RequestIds } from './request-ids.js';
import { registerVllmLora } from './vllm-lora-routes.js';
import { OPENAI_LEFT_OUT, OPENAI_WORDING } from './wording.js';

/** Where OpenAI's routes are. */
export const OPENAI_PREFIX = '/v1';

export type OpenAiRoutesDeps = Omit<OpenAiDeps, 'base' | 'requestIds' | keyof OpenAiSettings> & {
  readonly settings: OpenAiSettings;
};

/** OpenAI's routes, a plugin of their own: below the prefix everything is answered in OpenAI's words. */
export function registerOpenAi(app: FastifyInstance, { settings, ...shared }: OpenAiRoutesDeps): void {
  const { servedNames, ...limits } = settings;
  const base = baseNames(servedNames, shared.engine.limits.modelId);
  const deps: OpenAiDeps = { ...shared, ...limits, base, requestIds: new RequestIds() };
  void app.register(
    async (v1) => {
      registerErrors(v1, OPENAI_WORDING, below(OPENAI_PREFIX, OPENAI_LEFT_OUT));
      v1.addHook('onSend', async (request, reply) => {
        reply.headers(processingHeader(request.facts));
      });
      const routes = routesOf(v1, () => {
        registerModels(v1, deps);
        registerCompletions(v1, deps);
        registerChat(v1, deps);
        if (deps.vllmLoraApi !== 'off') registerVllmLora(v1, deps);
      });
      registerMethodNotAllowed(v1, routes, OPENAI_WORDING);
    },
    { prefix: OPENAI_PREFIX },
  );
}

function below(prefix: string, leftOut: LeftOut): LeftOut {
  return Object.fromEntries(Object.entries(leftOut).map(([path, reply]) => [prefix + path, reply]));
}
