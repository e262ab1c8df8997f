import type { ErrorReply, ErrorWording, LeftOut } from '../plugins/errors.js';
import { errorBody, toLoraxError } from './errors.js';

/** LoRAX's error bodies; what LoRAX answers in plain text is JSON here, because its clients need JSON. */
export const LORAX_WORDING: ErrorWording = {
  failure: (thrown) => {
    const error = toLoraxError(thrown);
    return { status: error.status, body: errorBody(error) };
  },
  refusal: (status, error) => ({ status, body: errorBody({ status, error, error_type: 'validation' }) }),
};

function leftOut(error: string): ErrorReply {
  return { status: 404, body: errorBody({ status: 404, error, error_type: 'not_supported' }) };
}

const NO_EMBEDDINGS = leftOut('this server generates text and makes no embeddings: ask a server that does');
const NO_CLASSES = leftOut('this server generates text and does not classify: ask a server that does');

/** Routes of LoRAX's that this server does not have. */
export const LORAX_LEFT_OUT: LeftOut = {
  '/embed': NO_EMBEDDINGS,
  '/classify': NO_CLASSES,
  '/classify_batch': NO_CLASSES,
};
