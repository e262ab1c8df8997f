import { LoramuxError } from '../../core/errors.js';

/** The parsed body. ERR_BAD_REQUEST if the request has none. */
export function requiredBody(body: unknown): unknown {
  if (body === undefined) {
    throw new LoramuxError('ERR_BAD_REQUEST', 'Failed to parse the request body as JSON: it is empty');
  }
  return body;
}
