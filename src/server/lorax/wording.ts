import type { ErrorWording } from '../plugins/errors.js';
import { errorBody, toLoraxError } from './errors.js';

/** LoRAX's error bodies; what LoRAX answers in plain text is JSON here, because its clients need JSON. */
export const LORAX_WORDING: ErrorWording = {
  failure: (thrown) => {
    const error = toLoraxError(thrown);
    return { status: error.status, body: errorBody(error) };
  },
  refusal: (status, error) => ({ status, body: errorBody({ status, error, error_type: 'validation' }) }),
};
