import type { ErrorWording } from '../plugins/errors.js';
import { errorBody, type OpenAiError, refusalError, retryHeaders, toOpenAiError } from './errors.js';

function replyOf(error: OpenAiError): ReturnType<ErrorWording['failure']> {
  return { status: error.status, body: errorBody(error), headers: retryHeaders(error) };
}

/** OpenAI's error bodies, and the headers that its clients' retries go by. */
export const OPENAI_WORDING: ErrorWording = {
  failure: (thrown) => replyOf(toOpenAiError(thrown)),
  refusal: (status, message) => replyOf(refusalError(status, message)),
};
