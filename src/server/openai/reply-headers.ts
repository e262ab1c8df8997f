import type { FastifyRequest } from 'fastify';
import type { EngineLimits } from '../../core/engine-client.js';
import type { ServedBy } from '../../core/request.js';
import type { GenerationResult } from '../../generation/spec.js';
import { adapterHeaders, countCharacters, type Headers, modelHeaders, timingHeaders } from '../lorax/headers.js';
import { deviceType } from '../lorax/info-route.js';
import type { RequestFacts } from '../request-facts.js';
import type { ModelChoice } from './model-name.js';

/** Headers known once the first token is: LoRAX's set, and who answers. `texts` are the prompts that came as text. */
export function openingHeaders(
  limits: EngineLimits,
  texts: readonly string[],
  { source }: ModelChoice,
  servedBy: ServedBy | null,
): Headers {
  const characters = texts.reduce((total, text) => total + countCharacters(text), 0);
  return {
    ...modelHeaders(deviceType(limits), limits.modelId, characters),
    ...(servedBy === null ? {} : adapterHeaders(servedBy, source)),
  };
}

/** Headers of a complete reply. */
export function completeHeaders(
  limits: EngineLimits,
  texts: readonly string[],
  model: ModelChoice,
  results: readonly GenerationResult[],
): Headers {
  return { ...openingHeaders(limits, texts, model, results[0]?.servedBy ?? null), ...timingHeaders(results) };
}

/** Milliseconds since the request came. */
export function processingHeader({ arrivedMs }: RequestFacts): Headers {
  return { 'openai-processing-ms': String(Math.round(performance.now() - arrivedMs)) };
}

/** True when the caller asks for the `loramux` object in the reply. */
export function wantsDetails({ headers }: FastifyRequest): boolean {
  return headers['x-loramux-details'] === '1';
}
