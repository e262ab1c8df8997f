import { LoramuxError } from '../../core/errors.js';
import type { ErrorWording } from '../plugins/errors.js';

/** Admin errors: a message, the stable code, and what the code's details hold. */
export const ADMIN_WORDING: ErrorWording = {
  failure: (thrown) => {
    if (!(thrown instanceof LoramuxError)) {
      return { status: 500, body: JSON.stringify({ error: 'Internal error', code: 'ERR_INTERNAL' }) };
    }
    const { bytes, ...details } = thrown.details ?? {};
    const body = { error: thrown.message, code: thrown.code, ...details, ...bytes };
    return { status: thrown.status, body: JSON.stringify(body) };
  },
  refusal: (status, error) => ({ status, body: JSON.stringify({ error, code: 'ERR_BAD_REQUEST' }) }),
};
