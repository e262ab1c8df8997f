import type { FastifyInstance } from 'fastify';
import { LoramuxError } from '../../core/errors.js';
import { isLoopback } from '../../core/loopback.js';

/**
 * Keeps web pages away: a listener on loopback is within reach of every page that its user opens. A request with an
 * `Origin` of another site is refused; and where only loopback listens, so is one whose `Host` is no loopback name,
 * which is how a page reaches it after its own name was made to resolve to loopback. Programs pass. ERR_FORBIDDEN
 * otherwise.
 */
export function registerSameOrigin(app: FastifyInstance, boundTo: string): void {
  const loopbackOnly = isLoopback(boundTo);
  app.addHook('onRequest', async ({ headers, hostname }) => {
    const { origin, host } = headers;
    if (origin !== undefined && origin !== `http://${host}` && origin !== `https://${host}`) {
      throw forbidden(`no Origin header or this listener's own, got ${origin}`);
    }
    if (loopbackOnly && !isLoopback(hostname)) throw forbidden(`a loopback name as Host, got ${hostname}`);
  });
}

function forbidden(expected: string): LoramuxError {
  return new LoramuxError('ERR_FORBIDDEN', `expected ${expected}: call the admin API from a program on this machine`);
}
