import type { FastifyRequest } from 'fastify';
import type { GenerationSpec } from '../generation/spec.js';
import { routeOf } from './request-facts.js';

/** Who asks for a generation, and where: what no body says. */
export type RequestOrigin = Pick<GenerationSpec, 'caller' | 'route'>;

export function originOf(request: FastifyRequest): RequestOrigin {
  return { caller: request.caller, route: routeOf(request) };
}
