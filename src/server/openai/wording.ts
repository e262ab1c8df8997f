import type { ErrorWording, LeftOut } from '../plugins/errors.js';
import { errorBody, leftOutError, type OpenAiError, refusalError, retryHeaders, toOpenAiError } from './errors.js';

function replyOf(error: OpenAiError): ReturnType<ErrorWording['failure']> {
  return { status: error.status, body: errorBody(error), headers: retryHeaders(error) };
}

/** OpenAI's error bodies, and the headers that its clients' retries go by. */
export const OPENAI_WORDING: ErrorWording = {
  failure: (thrown) => replyOf(toOpenAiError(thrown)),
  refusal: (status, message) => replyOf(refusalError(status, message)),
};

/** Routes of OpenAI's that this server does not have, below its prefix. Everything else there is an unknown address. */
export const OPENAI_LEFT_OUT: LeftOut = {
  '/embeddings': replyOf(leftOutError('this server generates text and makes no embeddings: ask a server that does')),
};
