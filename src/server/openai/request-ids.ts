import type { FastifyReply, FastifyRequest } from 'fastify';
import { FieldError } from './errors.js';

/** The ids that requests gave themselves in their bodies, while they are being answered. */
export class RequestIds {
  readonly #inFlight = new Set<string>();

  /** The id behind the prefix of the reply's: `given` until the connection is done with it, or the request's own. */
  claim(given: string | null, request: FastifyRequest, reply: FastifyReply): string {
    if (given === null) return request.id;
    if (this.#inFlight.has(given)) {
      const message = `'request_id' ${given} is in flight already: choose another, or wait for its reply`;
      throw new FieldError('invalid_value', 'request_id', message);
    }
    this.#inFlight.add(given);
    reply.raw.once('close', () => this.#inFlight.delete(given));
    return given;
  }
}
